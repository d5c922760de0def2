"""Python numbers computed from numbers that change: compiled at most twice, and equal to eager's."""

import math

import pytest
import torch
from lamina_dynamo.runtime import Options, compile_callable

FORMULAS = {
    "a bias correction": lambda x, t: x * (math.sqrt(1 - 0.99**t) / (1 - 0.9**t)),
    "a cosine schedule": lambda x, t: x * 0.5 * (1 + math.cos(math.pi * t / 100)),
    "a decay": lambda x, t: x * math.exp(-t / 100),
    "logarithms": lambda x, t: x * (math.log(t) + math.log(t, 2) + math.log2(t) + math.log10(t) + math.log1p(t)),
    "trigonometric": lambda x, t: x * (math.sin(t) + math.tan(t) + math.atan(t) + math.atan2(t, 3) + math.radians(t)),
    "hyperbolic": lambda x, t: x * (math.sinh(t / 9) + math.cosh(t / 9) + math.tanh(t) + math.asinh(t) + math.acosh(t)),
    "inverse functions with a domain": lambda x, t: x * (math.acos(1 / t) + math.asin(1 / t) + math.atanh(1 / (t + 1))),
    "a warm-up": lambda x, t: x * min(t**-0.5, t * 10**-1.5),
    "rounded": lambda x, t: x * (round(t * 0.3) + int(t * 0.7) + math.floor(t * 0.6) + math.ceil(t * 0.1) + round(t / 7, 2)),
    "a step decay": lambda x, t: x * 0.5 ** ((t + 9) // 4),
    "of integers": lambda x, t: x * (math.gcd(int(t), 4) + 2 ** int(t) + math.comb(int(t) + 3, 2) + (int(t) & 3 | 8) + (int(t) << 1)),
    "special functions": lambda x, t: x * (math.erf(t / 10) + math.lgamma(t) + math.hypot(t, 3)),
    "a size": lambda x, t: x.repeat(20)[: int(t * 3.7) + 2],
    "compared": lambda x, t: x + 1 if math.isclose(t, t + 1e-7, rel_tol=1e-3) or math.isfinite(t * 0.5) else x,
    "a branch": lambda x, t: x * math.sin(t) if math.sqrt(t) > 1 else x,
}
TIMES = {"integers": (2, 3, 4, 7, 11), "reals": (1.75, 2.25, 3.125, 7.5, 9.75)}


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_formula(formula, times):
    graphs = []
    compiled = compile_callable(formula, Options(lambda gm, example_inputs: graphs.append(gm) or gm.forward))
    x = torch.arange(1.0, 5.0)
    for t in times:
        assert torch.equal(compiled(x, t), formula(x, t)), t
    assert len(graphs) <= 2


def test_outside_of_the_domain_python_raises():
    compiled = compile_callable(lambda x, t: x * math.sqrt(t - 3), Options(lambda gm, example_inputs: gm.forward))
    for t in (5, 6, 7):
        compiled(torch.ones(2), t)
    with pytest.raises(ValueError, match="domain"):
        compiled(torch.ones(2), 2)
    assert compiled(torch.ones(2), 7).tolist() == [2.0, 2.0]


def test_a_quotient_whose_divisor_becomes_zero():
    compiled = compile_callable(lambda x, t: x / (1 - 0.5**t), Options(lambda gm, example_inputs: gm.forward))
    for t in (5, 6, 7):
        compiled(torch.ones(2), t)
    with pytest.raises(ZeroDivisionError):
        (lambda t: 1 / (1 - 0.5**t))(0)
    assert compiled(torch.ones(2), 0).isinf().all()  # the tensor's division is not Python's


def test_a_branch_that_goes_the_other_way():
    graphs = []
    compiled = compile_callable(lambda x, t: x + 1 if math.sin(t) > 0 else x - 1, Options(lambda gm, example_inputs: graphs.append(gm) or gm.forward))
    assert [compiled(torch.zeros(1), t).item() for t in (1, 2, 3, 4, 5, 6, 7, 8)] == [1, 1, 1, -1, -1, -1, 1, 1]
    assert len(graphs) == 3  # constant, then each side


def test_an_attribute_that_counts():
    class Schedule:
        def __init__(self):
            self.step = 0

        def __call__(self, x):
            self.step += 1
            return x * (0.1 + 0.9 * math.cos(0.5 * math.pi * self.step / 20))

    graphs = []
    ours, eager = Schedule(), Schedule()
    compiled = compile_callable(ours, Options(lambda gm, example_inputs: graphs.append(gm) or gm.forward))
    for _ in range(8):
        assert torch.equal(compiled(torch.ones(3)), eager(torch.ones(3)))
    assert len(graphs) == 2


def test_a_real_number_that_an_operator_takes_as_it_is_is_a_constant_in_its_guard():
    compiled = compile_callable(lambda x, p: torch.nn.functional.dropout(x, p, True), Options(lambda gm, example_inputs: gm.forward))
    for p in (0.1, 0.2, 0.3):
        compiled(torch.ones(4), p)
    texts = [[str(g) for g in e.program.guards if "'p'" in str(g)] for e in compiled.cache.entries]
    assert texts[:2] == [["type(L['p']) is float", "L['p'] == 0.3"], ["type(L['p']) is float", "L['p'] == 0.2"]]
    assert not any(s["needs_user_code"] for s in compiled.stats())
