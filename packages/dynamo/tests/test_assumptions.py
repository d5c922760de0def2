"""Branches on data whose other side only raises: whole graphs, eager's exceptions, eager's random numbers; ways that programs keep for compilers."""

from __future__ import annotations

import lamina_dynamo
import pytest
import torch
from lamina_dynamo import Unsupported
from lamina_dynshape.support.counters import counters
from torch.distributions import Bernoulli, Normal


X = torch.tensor([1.0, 2.0, 3.0])


def of_a_number(x, n):
    i = x.max().item()
    if i > n:
        raise ValueError(f"too large: {i}")
    return x * i + torch.rand(3)


def of_sampled_values(x, n):
    z = Normal(x, torch.ones(3)).rsample()
    return Bernoulli(logits=z).log_prob((z > 0).float())


def of_a_drawn_tensor(x, n):
    z = x + torch.rand(3)
    if (z > n).any():
        raise KeyError(z.sum().item())
    return z


def caught(x, n):
    try:
        if x.max().item() > n:
            raise AssertionError("too large")
        return x * 2
    except AssertionError as e:
        return x, str(e)


def observe(fn, x):
    torch.manual_seed(0)
    try:
        out = fn(x, 5)
    except Exception as e:
        out = (type(e), str(e))
    return out, torch.rand(2)


@pytest.mark.parametrize("fn", [of_a_number, of_sampled_values, of_a_drawn_tensor, caught])
def test_is_a_graph_and_raises_as_eager(fn):
    graphs = []
    compiled = lamina_dynamo.optimize(fn, lambda gm, examples: graphs.append(gm) or gm.forward, fullgraph=True)
    good, bad = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 9.0, float("nan")])
    if fn in (of_a_number, caught):
        good, bad = good.long(), torch.tensor([1, 2, 9])
    for x in (good, bad, good, bad):
        mine, eager = observe(compiled, x), observe(fn, x)
        assert str(mine) == str(eager)
    assert len(graphs) == 1


def test_not_where_the_graph_wrote_an_input():
    def f(x):
        x.add_(1)
        if x.max().item() > 5:
            raise ValueError("too large")
        return x * 2

    compiled = lamina_dynamo.optimize(f, lambda gm, examples: gm.forward)
    for start in (1.0, 9.0):
        mine, eager = torch.full((3,), start), torch.full((3,), start)
        for run, x in ((compiled, mine), (f, eager)):
            try:
                run(x)
            except ValueError:
                assert start == 9.0
        torch.testing.assert_close(mine, eager)


def test_before_the_graph_writes_an_input():
    """Training steps: the checks are in the graph, and where one fails nothing was written."""

    def step(state, x):
        chances = Normal(state["w"] * x, torch.ones(3))
        loss = -chances.log_prob(x + torch.rand(3)).sum()
        if x.max().item() > 5:
            raise ValueError("too large")
        if not x.isfinite().all():
            raise ValueError("not finite")
        torch._check_tensor_all(x != 0)
        loss.backward()
        with torch.no_grad():
            state["w"] -= 0.1 * state["w"].grad
        state["w"].grad.zero_()
        return loss.detach()

    graphs = []
    compiled = lamina_dynamo.optimize(step, lambda gm, examples: graphs.append(gm) or gm.forward)
    counters.clear()
    outcomes = []
    for run in (compiled, step):
        state = {"w": torch.ones(3, requires_grad=True)}
        state["w"].grad = torch.zeros(3)
        seen = [observe(lambda x, _: run(state, x), x) for x in (X, X * 9, X, X * torch.tensor([1, 0, 1]), X - torch.inf, X)]
        outcomes.append(str((seen, state)))
    assert outcomes[0] == outcomes[1] and len(graphs) == 1 and not counters["graph_breaks"]


def test_a_way_for_compilers_that_fails_is_not_taken():
    def f(x, mask=None):
        if mask is None and not torch.compiler.is_compiling():
            mask = torch.ones(3)
        return x * mask[None]

    counters.clear()
    compiled = lamina_dynamo.optimize(f, lambda gm, examples: gm.forward, fullgraph=True)
    torch.testing.assert_close(compiled(torch.ones(2, 3)), torch.ones(2, 3))
    assert not counters["graph_breaks"]


def test_python_types_as_dtypes():
    def f(x):
        return torch.zeros(2, dtype=int), torch.ones(2, dtype=float) + x, x.to(bool)

    compiled = lamina_dynamo.optimize(f, lambda gm, examples: gm.forward, fullgraph=True)
    for mine, eager in zip(compiled(torch.ones(2)), f(torch.ones(2))):
        assert mine.dtype == eager.dtype
        torch.testing.assert_close(mine, eager)


def test_python_types_are_left_to_functions_that_are_allowed():
    def convert(x, kind):
        return x.double() if kind is float else x

    lamina_dynamo.allow_in_graph(convert)
    with pytest.raises(Unsupported, match="Python type"):
        lamina_dynamo.optimize(lambda x: convert(x, float), lambda gm, examples: gm.forward, fullgraph=True)(torch.ones(2))
