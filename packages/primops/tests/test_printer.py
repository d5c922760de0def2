"""print -> parse -> print is the identity in every dialect, and the parsed graph computes the same."""

from __future__ import annotations

import math
import operator

import pytest
import torch
from helpers import Graph, fakes
from lamina_dynshape.support.errors import UserError
from lamina_primops import Frame, interpret, lower, parse_graph, print_graph, trace

X = torch.randn(3, 4)


def f(x):
    y = torch.nn.functional.gelu(x.t()) * math.inf
    a, b = torch.max(y, 1)
    return torch.cat([a, a]), b, torch.full((2,), -math.inf), y.to(torch.bfloat16)


@pytest.mark.parametrize("stage", ["aten", "prims"])
def test_round_trip(stage):
    inputs = fakes(X)
    gm = trace(f, inputs)
    gm = lower(gm) if stage == "prims" else gm
    text = print_graph(gm)
    assert text.startswith(f"# {stage} dialect\ndef graph(arg0: 'f32[3, 4] (4, 1) cpu'):")
    again = parse_graph(text, values=inputs)
    assert print_graph(again) == text
    for a, b in zip(interpret(again, X), interpret(gm, X), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_round_trip_with_symbolic_sizes():
    inputs = fakes(X, symbolic=True)
    gm = trace(lambda x: x.expand(2, x.shape[0], x.shape[1]).reshape(-1, x.shape[1]), inputs)
    for g in (gm, lower(gm)):
        text = print_graph(g)
        assert "f32[s0, s1]" in text and "2*s0" in text
        assert print_graph(parse_graph(text)) == text


def test_round_trip_of_the_torch_dialect():
    g = Graph(X)
    x = g.inputs[0]
    x.meta["source"] = "L['self'].layers[0].weight"
    y = g.call(torch.nn.functional.softmax, x, dim=-1)
    z = g.graph.call_method("view", (y, -1))
    z.meta.update(val=g.call(torch.flatten, y).meta["val"], stack=(Frame("/a/m.py", 7, "forward", "z"),))
    s = g.call(operator.getitem, z, slice(1, None, 2), val=z.meta["val"])
    text = print_graph(g.module(s))
    assert "source=L['self'].layers[0].weight; role=input" in text and "y.view" not in text and ".view(-1)" in text and "# m.py:7 in forward" in text
    again = parse_graph(text)
    assert print_graph(again) == text
    torch.testing.assert_close(interpret(again, X)[0], torch.softmax(X, -1).view(-1)[1::2])


def test_constants_are_named():
    c = torch.randn(4)
    gm = trace(lambda x: x + c, fakes(X))
    text = print_graph(gm)
    assert "constant('_tensor_constant0')" in text
    again = parse_graph(text, constants={"_tensor_constant0": c})
    torch.testing.assert_close(interpret(again, X)[0], X + c)


def test_no_addresses_in_the_text():
    assert " at 0x" not in print_graph(lower(trace(f, fakes(X))))


def test_fallback_reason_survives():
    text = print_graph(lower(trace(lambda x: torch.sort(x)[0], fakes(X))))
    again = parse_graph(text)
    assert next(n.meta["fallback"] for n in again.graph.nodes if "fallback" in n.meta) == "extern: sort"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "one function definition"),
        ("def graph(a: 'f32'):\n    b = a\n    return (a,)", "neither a call nor the return"),
        ("def graph(a: 'f32'):\n    b: 'f32' = torch.nonsense(a)\n    return (b,)", "unknown function torch.nonsense"),
        ("def graph(a: 'f32'):\n    a: 'f32' = torch.exp(a)\n    return (a,)", "used twice"),
        ("def graph(a: 'f32'):\n    b: 'f32' = function('my.fn')(a)\n    return (b,)", "not public in torch"),
    ],
)
def test_bad_text(text, message):
    with pytest.raises(UserError, match=message):
        parse_graph(text)


def test_functions_of_the_user():
    def mine(x):
        return x + 1

    text = "def graph(a: 'f32'):\n    b: 'f32' = function('my.fn')(a)\n    return (b,)"
    assert torch.equal(interpret(parse_graph(text, functions={"my.fn": mine}), X)[0], X + 1)
