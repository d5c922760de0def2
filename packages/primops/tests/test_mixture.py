"""Splitting a graph between backends: parts are acyclic and as few as can be, order is kept, results are those of the whole graph."""

from __future__ import annotations

import random

import pytest
import torch
from helpers import aten, fakes
from lamina_primops import compile_parts, interpret, lower, split_by_support, trace, verify
from torch import fx


def parts(split):
    return [n for n in split.graph.nodes if n.op == "call_module"]


def traced(fn, *reals, prims=False, symbolic=False):
    gm = trace(fn, fakes(*reals, symbolic=symbolic))
    return lower(gm) if prims else gm


def only(*targets):
    return lambda node: node.target in targets


def check(gm, supports, *reals):
    """The split computes what the graph computes, its parts are graphs of the dialect that hold supported nodes only."""
    split = split_by_support(gm, supports)
    for n in parts(split):
        part = split.get_submodule(n.target)
        verify(part, "aten")
        assert any(supports(m) for m in part.graph.nodes if m.op == "call_function")
    for got, want in zip(compile_parts(split, lambda part: part.forward)(*reals), interpret(gm, *reals), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
        assert got.stride() == want.stride()
    return split


def test_a_node_of_the_rest_between_two_supported_ones_makes_two_parts():
    x = torch.randn(3)
    split = check(traced(lambda x: x.exp().sin() + 1, x), only(aten.exp.default, aten.add.Tensor), x)
    assert len(parts(split)) == 2


def test_branches_that_do_not_depend_on_each_other_are_one_part():
    x, y = torch.randn(3), torch.randn(3)
    split = check(traced(lambda x, y: (x.exp(), y.sin().exp(), x.exp().exp()), x, y), only(aten.exp.default), x, y)
    assert len(parts(split)) == 1


def test_a_diamond_with_one_unsupported_side_is_cut():
    x = torch.randn(3)
    split = check(traced(lambda x: (lambda a: a.exp() + a.sin())(x.exp()), x), only(aten.exp.default, aten.add.Tensor), x)
    assert len(parts(split)) == 2


def test_results_of_an_op_with_several_go_with_it():
    x = torch.randn(3, 4)
    split = check(traced(lambda x: x.topk(2)[0] * 2, x), only(aten.topk.default), x)
    (part,) = parts(split)
    assert [str(n.target) for n in split.get_submodule(part.target).graph.nodes if n.op == "call_function"][0] == "aten.topk.default"


def test_random_ops_keep_their_order():
    x = torch.randn(3)
    gm = traced(lambda x: (torch.rand_like(x), torch.randn_like(x.exp().sin()), torch.rand_like(x)), x)
    split = split_by_support(gm, only(aten.rand_like.default, aten.exp.default))
    torch.manual_seed(0)
    want = interpret(gm, x)
    torch.manual_seed(0)
    got = compile_parts(split, lambda part: part.forward)(x)
    assert all(map(torch.equal, got, want))


def test_nothing_and_everything_supported():
    x = torch.randn(3)
    gm = traced(lambda x: x.exp().sin(), x)
    assert not parts(check(gm, lambda n: False, x))
    assert len(parts(check(gm, lambda n: True, x))) == 1


def test_symbolic_sizes_are_inputs_of_the_parts():
    x = torch.randn(4, 5)
    gm = traced(lambda x: x.exp().reshape(x.shape[1], x.shape[0]) * x.shape[0], x, symbolic=True)
    check(gm, lambda n: True, x)
    check(gm, only(aten.mul.Tensor), torch.randn(7, 3))


def test_layouts_are_made_where_they_are_promised():
    x = torch.randn(4, 5)
    gm = traced(lambda x: x.t().contiguous().t().exp(), x)
    split = split_by_support(gm, only(aten.exp.default))
    got = compile_parts(split, lambda part: lambda *a: [t.contiguous() for t in part(*a)])(x)
    assert got[0].stride() == interpret(gm, x)[0].stride()


def test_a_second_backend_takes_from_the_rest():
    x = torch.randn(3)
    first = split_by_support(traced(lambda x: x.exp().sin().exp().cos(), x), only(aten.exp.default))
    both = split_by_support(first, only(aten.sin.default, aten.cos.default))
    assert len(parts(both)) == 4 and all(n.op != "call_function" or n.target.__name__ == "getitem" for n in both.graph.nodes)
    torch.testing.assert_close(interpret(both, x)[0], x.exp().sin().exp().cos())


@pytest.mark.parametrize("seed", range(60))
def test_random_graphs_are_split_acyclically_and_maximally(seed):
    rng = random.Random(seed)

    def program(x):
        values = [x]
        for _ in range(12):
            a, b = rng.choice(values), rng.choice(values)
            values.append(rng.choice([a.sin, a.exp, lambda: a + b])() * 0.5)
        return tuple(values[-3:])

    x = torch.randn(3)
    gm = traced(program, x)
    supports = only(*rng.sample([aten.sin.default, aten.exp.default, aten.add.Tensor, aten.mul.Tensor], 2))
    split = check(gm, supports, x)
    _assert_maximal(split)


def _assert_maximal(split: fx.GraphModule) -> None:
    """Between any two parts there is a path through the rest: putting them together would close a cycle."""
    reach: dict[fx.Node, set[fx.Node]] = {}  # parts from which there is a path through at least one node of the rest
    direct: dict[fx.Node, set[fx.Node]] = {}
    for n in split.graph.nodes:
        before = n.all_input_nodes
        reach[n] = set().union(*(reach[m] for m in before))
        if n.op == "call_module":
            direct[n] = {n}
            continue
        if n.op == "call_function" and n.target.__name__ != "getitem":
            reach[n] |= set().union(*(direct.get(m, set()) for m in before))
        else:
            direct[n] = set().union(*(direct.get(m, set()) for m in before))
    found = parts(split)
    for earlier, later in zip(found, found[1:]):
        assert earlier in reach[later]
