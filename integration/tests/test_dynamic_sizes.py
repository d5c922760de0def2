"""Sizes that change: symbolic at the second compile, not compiled again after that."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lamina


class Counting:
    """A backend that counts its calls."""

    def __init__(self, name):
        self.calls = 0
        self.inner = lamina.lookup_backend(name)

    def __call__(self, gm, example_inputs):
        self.calls += 1
        return self.inner(gm, example_inputs)


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_a_changing_batch_compiles_twice(backend):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    counting = Counting(backend)
    compiled = lamina.compile(model, backend=counting)
    with torch.no_grad():
        for batch in (4, 7, 5, 12, 33):
            x = torch.randn(batch, 8)
            close(compiled(x), model(x))
    assert counting.calls == 2


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_dynamic_true_compiles_once(backend):
    def f(x, y):
        return (x @ y).softmax(-1).sum(0) * x.shape[0]

    counting = Counting(backend)
    compiled = lamina.compile(f, backend=counting, dynamic=True)
    for n in (4, 7, 19):
        x, y = torch.randn(n, 6), torch.randn(6, 5)
        close(compiled(x, y), f(x, y))
    assert counting.calls == 1


def test_dynamic_false_compiles_each_size():
    counting = Counting("eager")
    compiled = lamina.compile(lambda x: x * 2, backend=counting, dynamic=False)
    for n in (4, 7, 19):
        compiled(torch.randn(n))
    assert counting.calls == 3


def test_mark_dynamic():
    counting = Counting("eager")
    compiled = lamina.compile(lambda x: x * 2, backend=counting)
    for n in (4, 7):
        x = torch.randn(n, 3)
        lamina.mark_dynamic(x, 0)
        assert compiled(x).shape == (n, 3)
    assert counting.calls == 1


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_training_at_changing_batch(backend):
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 3))
    counting = Counting(backend)
    compiled = lamina.compile(model, backend=counting)
    for batch in (4, 7, 5):
        x = torch.randn(batch, 8)
        grads = []
        for call in (model, compiled):
            model.zero_grad()
            call(x).pow(2).sum().backward()
            grads.append([p.grad.clone() for p in model.parameters()])
        close(grads[1], grads[0])
    assert counting.calls == 2


def test_sequence_lengths_in_attention():
    def f(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)

    counting = Counting("aot_eager")
    compiled = lamina.compile(f, backend=counting)
    for s in (5, 9, 13):
        q, k, v = (torch.randn(2, 4, s, 8) for _ in range(3))
        close(compiled(q, k, v), f(q, k, v))
    assert counting.calls == 2


def test_the_limit_of_recompiles_leads_to_eager_with_one_warning():
    compiled = lamina.compile(lambda x, k: x * k, backend="eager")
    with pytest.warns(RuntimeWarning) as caught:
        for k in range(20):
            x = torch.ones(2)
            assert torch.equal(compiled(x, f"{k}" and float(k) + 0.5), x * (k + 0.5))
    assert len(caught) == 1 and "8" in str(caught[0].message)
