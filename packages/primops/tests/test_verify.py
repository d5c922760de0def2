"""Every rule of the verifier: a graph that keeps it, one that breaks it, and the message."""

from __future__ import annotations

import operator
import warnings

import pytest
import torch
from helpers import Graph, aten, lamina
from lamina_dynshape import FakeMode, ShapeEnv
from lamina_dynshape.support.errors import UserError, VerifyError
from lamina_primops import Frame, verify
from lamina_primops.fxtools import graph_module
from lamina_primops.verify import RULES

X = torch.randn(3, 4)


def good(dialect):
    g = Graph(X)
    x = g.inputs[0]
    op = {"torch": torch.exp, "aten": aten.exp.default, "prims": lamina.exp.default}[dialect]
    return g.module(g.call(op, x))


@pytest.mark.parametrize("dialect", ["torch", "aten", "prims"])
def test_a_good_graph_verifies(dialect):
    verify(good(dialect), dialect)


def _placeholder_after_call():
    g = Graph(X)
    y = g.call(aten.exp.default, g.inputs[0])
    late = g.graph.placeholder("late")
    late.meta["val"] = g.inputs[0].meta["val"]
    return g.module(y)


def _node_after_output():
    g = Graph(X)
    gm = g.module(g.inputs[0])
    g.call(aten.exp.default, g.inputs[0])
    return gm


def _no_output():
    g = Graph(X)
    return graph_module(g.graph, {})


def _used_before_defined():
    g = Graph(X)
    a = g.call(aten.exp.default, g.inputs[0])
    b = g.call(aten.exp.default, a)
    a.prepend(b)
    return g.module(a, b)


def _raw_symint():
    g = Graph(X)
    s = FakeMode(ShapeEnv()).from_real(X, source="x", dynamic_dims={0}).shape[0]
    with warnings.catch_warnings(action="ignore"):  # of fx, from torch 2.13 on
        y = g.call(aten.mul.Tensor, g.inputs[0], s, val=g.inputs[0].meta["val"])
    return g.module(y)


def _no_val():
    g = Graph(X)
    y = g.call(aten.exp.default, g.inputs[0])
    del y.meta["val"]
    return g.module(y)


def _real_val():
    g = Graph(X)
    return g.module(g.call(aten.exp.default, g.inputs[0], val=X))


def _nested_output():
    g = Graph(X)
    g.graph.output(((g.inputs[0],), 1))
    return torch.fx.GraphModule(torch.nn.Module(), g.graph)


def _text_output():
    return (g := Graph(X)).module(g.inputs[0], "text")


def _several_values_output():
    g = Graph(X)
    return g.module(g.call(aten.max.dim, g.inputs[0], 0))


def _constant_is_no_tensor():
    g = Graph(X)
    n = g.graph.get_attr("nothing")
    n.meta["val"] = g.inputs[0].meta["val"]
    g.graph.output((n,))
    root = torch.nn.Module()
    root.nothing = 3
    return torch.fx.GraphModule(root, g.graph)


def _without(key, value=None):
    def make():
        g = Graph(X)
        if value is None:
            del g.inputs[0].meta[key]
        else:
            g.inputs[0].meta[key] = value
        return g.module(g.inputs[0])

    return make


def _size_after_input():
    g = Graph(X)
    n = g.graph.placeholder("s")
    n.meta.update(val=3, source="s", role="size", stack=())
    return g.module(g.inputs[0])


def _size_is_a_tensor():
    return _without("role", "size")()


def _module_call():
    g = Graph(X)
    n = g.graph.create_node("call_module", "relu", (g.inputs[0],))
    n.meta["val"] = g.inputs[0].meta["val"]
    root = torch.nn.Module()
    root.relu = torch.nn.ReLU()
    g.graph.output((n,))
    return torch.fx.GraphModule(root, g.graph)


def _unknown_method():
    g = Graph(X)
    n = g.graph.call_method("frobnicate", (g.inputs[0],))
    n.meta.update(val=g.inputs[0].meta["val"], stack=())
    return g.module(n)


def _private(x):
    return x


_private.__module__ = "somebody.code"


def _foreign_function():
    g = Graph(X)
    return g.module(g.call(_private, g.inputs[0], val=g.inputs[0].meta["val"]))


def _no_stack():
    g = Graph(X)
    y = g.call(torch.exp, g.inputs[0])
    del y.meta["stack"]
    return g.module(y)


def _method_call():
    g = Graph(X)
    n = g.graph.call_method("exp", (g.inputs[0],))
    n.meta["val"] = g.inputs[0].meta["val"]
    return g.module(n)


def _torch_function():
    g = Graph(X)
    return g.module(g.call(torch.exp, g.inputs[0]))


def _in_place():
    g = Graph(X)
    return g.module(g.call(aten.exp_.default, g.inputs[0], val=g.inputs[0].meta["val"]))


def _with(op, *args, **kwargs):
    def make():
        g = Graph(X)
        return g.module(g.call(op, *[g.inputs[0] if a is X else a for a in args], val=g.inputs[0].meta["val"], **kwargs))

    return make


def _wrong_val():
    g = Graph(X)
    return g.module(g.call(lamina.sum.default, g.inputs[0], [0], False, val=g.inputs[0].meta["val"]))


def _wrong_restride():
    g = Graph(X)
    return g.module(g.call(lamina.restride.default, g.inputs[0], [3, 4], [1, 3], val=g.inputs[0].meta["val"]))


BROKEN = [
    ("inputs come first", "aten", _placeholder_after_call, "placeholder follows a call"),
    ("inputs come first", "aten", _node_after_output, "follows the output"),
    ("one output", "aten", _no_output, "no output"),
    ("operands are defined before", "aten", _used_before_defined, "used before it is defined"),
    ("sizes are nodes", "aten", _raw_symint, "must be a node"),
    ("values are described", "aten", _no_val, 'no meta\\["val"\\]'),
    ("values are described", "aten", _real_val, "real tensor"),
    ("output is flat", "aten", _nested_output, "not one tuple|holds a"),
    ("output is flat", "aten", _text_output, "holds a str"),
    ("output is flat", "aten", _several_values_output, "yields several values"),
    ("constants are tensors", "aten", _constant_is_no_tensor, "not a tensor constant"),
    ("inputs have a source and role", "torch", _without("source"), "no meta"),
    ("inputs have a source and role", "torch", _without("role", "weight"), "not one of"),
    ("sizes come first", "torch", _size_after_input, "follows other inputs"),
    ("sizes come first", "torch", _size_is_a_tensor, "not a number"),
    ("calls are public", "torch", _module_call, "inlined"),
    ("calls are public", "torch", _unknown_method, "no method frobnicate"),
    ("calls are public", "torch", _foreign_function, "not a function of torch"),
    ("calls have a stack", "torch", _no_stack, "no meta"),
    ("nodes are operator calls", "aten", _method_call, "call_method is not part"),
    ("nodes are operator calls", "aten", _torch_function, "neither an operator overload"),
    ("calls are functional", "aten", _in_place, "mutates an argument"),
    ("arguments fit the schema", "aten", _with(aten.exp.default, X, X), "2 arguments for 1"),
    ("arguments fit the schema", "aten", _with(aten.exp.default, X, where=3), "no parameter 'where'"),
    ("arguments fit the schema", "aten", _with(aten.exp.default, "text"), "is a tensor, the argument is"),
    ("arguments fit the schema", "aten", _with(aten.permute.default, X), "without argument: dims"),
    ("ops are in the closed set", "prims", _with(aten.exp.default, X), "not a prim"),
    ("results follow the meta rule", "prims", _wrong_val, "the meta rule float32\\[4\\]"),
    ("results follow the meta rule", "prims", _with(lamina.exp.default, x=X), "by position|parameters without"),
    ("results follow the meta rule", "prims", _with(lamina.reshape.default, X, [5]), "number of elements"),
    ("results follow the meta rule", "prims", _wrong_restride, "has strides"),
]


@pytest.mark.parametrize(("rule", "dialect", "make", "message"), BROKEN, ids=[f"{d}-{r}-{i}" for i, (r, d, _, _) in enumerate(BROKEN)])
def test_a_broken_graph_is_refused(rule, dialect, make, message):
    with pytest.raises(VerifyError, match=message) as caught:
        verify(make(), dialect)
    if rule != "one output":
        assert f"rule `{rule}`" in str(caught.value) or "without argument" in str(caught.value)


def test_every_rule_has_a_broken_graph():
    assert {r.name for r in RULES} == {rule for rule, *_ in BROKEN} - {"one output"}


def test_the_message_names_node_operands_and_the_user_line():
    g = Graph(X)
    y = g.call(aten.exp_.default, g.inputs[0], val=g.inputs[0].meta["val"])
    y.meta["stack"] = (Frame("/home/me/model.py", 12, "forward", "  return x.exp_()"),)
    with pytest.raises(VerifyError) as caught:
        verify(g.module(y), "aten")
    text = str(caught.value)
    assert "%exp_" in text and "reads: %x0" in text and "model.py:12 in forward" in text and "return x.exp_()" in text


def test_a_fallback_needs_a_reason():
    g = Graph(X)
    y = g.call(aten.exp.default, g.inputs[0])
    y.meta["fallback"] = "no decomposition"
    verify(g.module(y), "prims")


def test_arithmetic_on_sizes_belongs_to_all_dialects():
    g = Graph(X)
    n = g.call(operator.mul, 2, 3, val=6)
    for dialect in ("torch", "aten", "prims"):
        verify(Graph(X).module(1), dialect)
    verify(g.module(n), "prims")


def test_unknown_dialect():
    with pytest.raises(UserError, match="torch, aten, prims"):
        verify(good("aten"), "mlir")
