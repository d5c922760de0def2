"""Local simplifications: each where it fires, and where it must not. All of them keep every value (checked on specials)."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import Graph, prims_of
from lamina_primops import interpret
from lamina_primops.builder import Builder
from lamina_primops.decompositions.common import p
from lamina_primops.fxtools import graph_module
from lamina_primops.simplify import SIMPLIFY
from lamina_primops.symbolic import SymbolNodes
from torch import fx

SPECIALS = torch.tensor([[0.0, -0.0, 1.0, -2.5], [math.inf, -math.inf, math.nan, 3.0]])
INTS = torch.tensor([[0, -1, 5], [7, 2, -3]])


def build(fn, *reals):
    """The prims graph of fn on builder values."""
    g = Graph(*reals)
    graph = fx.Graph()
    builder = Builder(g.mode)
    values = []
    for i, n in enumerate(g.inputs):
        v = builder.input(n.meta["val"])
        v.node = graph.placeholder(f"x{i}")
        v.node.meta.update(n.meta)
        values.append(v)
    with builder:
        out = fn(*values)
    builder.write(graph, [out], SymbolNodes(graph, lambda e: e))
    return graph_module(graph, {})


def full_like(x, value):
    return p.full(list(x.shape), value, x.dtype, x.device)


FIRES = [
    ("convert same", lambda x: p.convert(x, torch.float32), []),
    ("convert there and back", lambda x: p.convert(p.convert(x, torch.float64), torch.float32), []),
    ("expand same", lambda x: p.expand(x, [2, 4]), []),
    ("expand twice", lambda x: p.expand(p.expand(p.reshape(x, [1, 2, 1, 4]), [1, 2, 3, 4]), [5, 2, 3, 4]), ["reshape", "expand"]),
    ("reshape same", lambda x: p.reshape(x, [2, 4]), []),
    ("reshape twice", lambda x: p.reshape(p.reshape(x, [8]), [4, 2]), ["reshape"]),
    ("permute identity", lambda x: p.permute(x, [0, 1]), []),
    ("permute twice", lambda x: p.permute(p.permute(x, [1, 0]), [1, 0]), []),
    ("slice whole", lambda x: p.slice(x, 0, 0, 2, 1), []),
    ("slice scatter whole", lambda x: p.slice_scatter(full_like(x, 0.0), x, 0, 0, 2, 1), []),
    ("cat of one", lambda x: p.cat([x], 1), []),
    ("pad by nothing", lambda x: p.pad(x, [0, 0], [0, 0], 1.0), []),
    ("neg twice", lambda x: p.neg(p.neg(x)), []),
    ("times one", lambda x: p.mul_scalar(x, 1.0), []),
    ("minus zero", lambda x: p.sub_scalar(x, 0.0), []),
    ("constant operand", lambda x: p.add(x, full_like(x, 2.0)), ["add_scalar"]),
    ("constant first operand", lambda x: p.sub(full_like(x, 2.0), x), ["rsub_scalar"]),
    ("constant comparison", lambda x: p.convert(p.lt(full_like(x, 2.0), x), torch.float32), ["gt_scalar", "convert"]),
    ("constant folded", lambda x: p.mul(p.exp(full_like(x, 0.0)), x), []),
    ("where of equals", lambda x: p.where(p.gt_scalar(x, 0.0), x, x), []),
    ("where of a constant", lambda x: p.where(p.full([2, 4], True, torch.bool, x.device), p.exp(x), x), ["exp"]),
    ("where of not", lambda x: p.where(p.logical_not(p.gt_scalar(x, 0.0)), x, p.exp(x)), ["gt_scalar", "exp", "where"]),
    ("common subexpression", lambda x: p.add(p.exp(x), p.exp(x)), ["exp", "add"]),
    ("dead code", lambda x: (p.exp(x), p.sin(x))[1], ["sin"]),
]  # fmt: skip


@pytest.mark.parametrize(("fn", "expected"), [(f, e) for _, f, e in FIRES], ids=[n for n, _, _ in FIRES])
def test_fires_and_keeps_the_value(fn, expected):
    gm = build(fn, SPECIALS)
    assert prims_of(gm) == expected
    torch.testing.assert_close(interpret(gm, SPECIALS)[0], fn(SPECIALS), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(torch.signbit(interpret(gm, SPECIALS)[0]), torch.signbit(fn(SPECIALS)))


MUST_NOT = [
    ("plus zero turns -0 into 0", lambda x: p.add_scalar(x, 0.0), ["add_scalar"]),
    ("minus -0", lambda x: p.sub_scalar(x, -0.0), ["sub_scalar"]),
    ("times zero of NaN", lambda x: p.mul_scalar(x, 0.0), ["mul_scalar"]),
    ("x - x of inf", lambda x: p.sub(x, x), ["sub"]),
    ("convert through a narrower type", lambda x: p.convert(p.convert(x, torch.bfloat16), torch.float32), ["convert", "convert"]),
    ("different constants", lambda x: p.add(p.mul_scalar(x, 0.0), p.mul_scalar(x, -0.0)), ["mul_scalar", "mul_scalar", "add"]),
    ("reshape of a permutation", lambda x: p.reshape(p.permute(x, [1, 0]), [2, 4]), ["permute", "reshape"]),
]  # fmt: skip


@pytest.mark.parametrize(("fn", "expected"), [(f, e) for _, f, e in MUST_NOT], ids=[n for n, _, _ in MUST_NOT])
def test_must_not_fire(fn, expected):
    gm = build(fn, SPECIALS)
    assert prims_of(gm) == expected
    torch.testing.assert_close(interpret(gm, SPECIALS)[0], fn(SPECIALS), rtol=0, atol=0, equal_nan=True)


def test_integers():
    assert prims_of(build(lambda x: p.add_scalar(x, 0), INTS)) == []
    assert prims_of(build(lambda x: p.bitwise_or_scalar(p.shift_left_scalar(x, 0), 0), INTS)) == []
    zero = build(lambda x: p.floordiv(full_like(x, 1), full_like(x, 0)), INTS)  # raises when it runs, not when it is built
    assert prims_of(zero)[-1] == "floordiv"


def test_numbers_that_compare_equal_are_told_apart():
    gm = build(lambda x: p.add(p.convert(p.mul_scalar(x, 1 + 1), torch.float32), p.mul_scalar(p.convert(x, torch.float32), 2.0)), INTS)
    assert prims_of(gm) == ["mul_scalar", "convert", "convert", "mul_scalar", "add"]


def test_every_simplification_is_of_a_prim():
    from lamina_primops import PRIMS

    assert set(SIMPLIFY) <= set(PRIMS)


def test_random_calls_are_never_shared():
    def f(x):
        from lamina_primops.decompositions.common import aten_call

        size = [2, 4]
        return p.add(aten_call(torch.ops.aten.rand.default, size), p.add(aten_call(torch.ops.aten.rand.default, size), x))

    assert prims_of(build(f, SPECIALS)) == ["aten.rand.default", "aten.rand.default", "add", "add"]


