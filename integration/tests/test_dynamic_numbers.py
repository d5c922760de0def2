"""Python numbers that change between calls: arguments, attributes of modules, items of tuples. Symbolic at the second compile."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import lamina

from .test_dynamic_sizes import Counting, close

BACKENDS = ["eager", "aot_eager", "inductor"]
PROGRAMS = {
    "float as a factor": lambda x, v: x * v + 1,
    "float in arithmetic": lambda x, v: x * (v * 2 + 1) - x / v,
    "float to fill": lambda x, v: torch.full((3,), v) + x.sum(),
    "float as a bound": lambda x, v: x.clamp(min=-v, max=v),
    "float as a power": lambda x, v: x.abs() ** v,
    "float in a test": lambda x, v: x * v if v > 0.001 else x,
    "float and a size": lambda x, v: x * (v / x.shape[0]),
    "float in a test of arithmetic": lambda x, v: x / (v + 1) if v * 2 > 0.1 else x,
    "float that is returned": lambda x, v: (x + v, v * 2),
    "float in a tensor": lambda x, v: x + torch.tensor(v),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_float_that_changes_compiles_twice(name, backend):
    f = PROGRAMS[name]
    counting = Counting(backend)
    compiled = lamina.compile(f, backend=counting, fullgraph=True)
    x = torch.randn(4, 3)
    for v in (0.5, 1.25, 3.0, 0.1, 1.0):
        got, want = compiled(x, v), f(x, v)
        close(got, want)
    assert counting.calls == 2


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_gradients_with_a_float_that_changes(backend):
    f = lambda x, v: ((x * v).exp() * (v + 1)).sum()
    counting = Counting(backend)
    compiled = lamina.compile(f, backend=counting, fullgraph=True)
    for v in (0.5, 1.25, 3.0, 0.1):
        x, y = (torch.linspace(-1, 1, 12).view(4, 3).requires_grad_() for _ in range(2))
        f(x, v).backward()
        compiled(y, v).backward()
        close(y.grad, x.grad)
    assert counting.calls == 2


COMPUTED = {
    "lerp": lambda x, d: x.clone().lerp_(x * 2, 1 - d),
    "lerp from near": lambda x, d: torch.lerp(x, x * 2, d / 4),
    "addcdiv": lambda x, d: x.addcdiv(x, x * x + 1, value=-d),
    "addcmul": lambda x, d: torch.addcmul(x, x, x, value=d),
    "add": lambda x, d: torch.add(x, x * x, alpha=d),
    "rsub": lambda x, d: torch.rsub(x, x * x, alpha=d),
    "index_add": lambda x, d: x.index_add(0, torch.tensor([0, 0]), x[:2], alpha=d),
    "addmm": lambda x, d: torch.addmm(x, x, torch.ones(3, 3), alpha=1 - d),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", COMPUTED)
def test_a_real_number_computed_from_a_counter(name, backend):
    class Decay:
        def __init__(self):
            self.step = 0

        def __call__(self, x):
            self.step += 1
            return COMPUTED[name](x, min(0.9, (1 + self.step) / (5 + self.step)))

    counting = Counting(backend)
    plain = Decay()
    compiled = lamina.compile(Decay(), backend=counting, fullgraph=True)
    x = torch.randn(4, 3)
    for _ in range(6):
        close(compiled(x), plain(x))
    assert counting.calls == 2


@pytest.mark.parametrize("v", [math.inf, -math.inf, math.nan, -0.0])
def test_floats_that_are_no_numbers(v):
    f = lambda x, v: x * v if v > 0 else x + math.copysign(1.0, v)
    compiled = lamina.compile(f, backend="eager")
    x = torch.ones(3)
    for value in (0.5, 0.75, v, 0.0, 0.25, v):
        torch.testing.assert_close(compiled(x, value), f(x, value), equal_nan=True)


def test_a_test_of_a_float_is_a_guard_on_it():
    f = lambda x, v: x * v if v > 1.0 else x - v
    counting = Counting("eager")
    compiled = lamina.compile(f, backend=counting)
    x = torch.ones(3)
    for v in (2.0, 3.0, 4.0, 0.5, 0.25, 7.0):
        close(compiled(x, v), f(x, v))
    assert counting.calls == 3  # one value, above one, below one


DIVISIONS = {"int": lambda x, v: x * (v // (v - 3)), "size": lambda x, v: x[: x.shape[0] // (v - 3)], "real": lambda x, v: x * (1 / (v - 3)), "rest": lambda x, v: x * (7 % (v - 3))}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", DIVISIONS)
def test_division_by_zero_is_pythons(name, backend):
    f = DIVISIONS[name]
    compiled = lamina.compile(f, backend=backend)
    x = torch.ones(9)
    for v in (5, 4, 6):
        close(compiled(x, v), f(x, v))
    if name != "size":
        close(compiled(x, v + 0.5), f(x, v + 0.5))
        close(compiled(x, v + 0.75), f(x, v + 0.75))
        with pytest.raises(ZeroDivisionError):
            compiled(x, 3.0)
    with pytest.raises(ZeroDivisionError):
        compiled(x, 3)


INTEGERS = {
    "as a factor": lambda x, n: x * n,
    "as a size": lambda x, n: torch.ones(n + 2, 3) + x[0],
    "as an end": lambda x, n: x[: n + 1].sum(0),
    "as an index": lambda x, n: x[n],
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", INTEGERS)
def test_a_counter_compiles_twice(name, backend):
    f = INTEGERS[name]
    counting = Counting(backend)
    compiled = lamina.compile(f, backend=counting, fullgraph=True)
    x = torch.randn(9, 3)
    for n in range(6):
        close(compiled(x, n), f(x, n))
    assert counting.calls == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_integer_and_a_size_that_happen_to_be_equal(backend):
    f = lambda x, n: x * n
    counting = Counting(backend)
    compiled = lamina.compile(f, backend=counting)
    for rows, n in ((4, 2), (5, 5), (6, 3), (7, -1), (8, 0)):
        x = torch.randn(rows, 3)
        close(compiled(x, n), f(x, n))
    assert counting.calls == 2


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.scale, self.steps = 1.0, 0

    def forward(self, x):
        return self.linear(x) * self.scale + self.steps


@pytest.mark.parametrize("backend", BACKENDS)
def test_attributes_of_a_module_that_change(backend):
    model = Scaled()
    counting = Counting(backend)
    compiled = lamina.compile(model, backend=counting, fullgraph=True)
    x = torch.randn(4, 3)
    for i in range(6):
        model.scale, model.steps = 1.0 + i / 4, i
        close(compiled(x), model(x))
    assert counting.calls == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_items_of_a_tuple_that_change(backend):
    f = lambda x, size: x.sum() + torch.zeros(size)
    counting = Counting(backend)
    compiled = lamina.compile(f, backend=counting, fullgraph=True)
    x = torch.randn(4)
    for size in ((4, 3), (6, 3), (7, 3), (9, 3)):
        close(compiled(x, size), f(x, size))
    assert counting.calls == 2
