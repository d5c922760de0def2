"""Loop IR: op table, recording, verifier (each rule on a graph that breaks it), printer, interpreter."""

import pytest
import torch
from lamina_dynshape.expr import integer, symbol
from lamina_dynshape.support.errors import InternalError, VerifyError
from lamina_inductor.ir.body import Recorder
from lamina_inductor.ir.buffers import Buffer, StridedView, as_exprs, contiguous_strides, dense_strides, stride_order
from lamina_inductor.ir.interp import interpret_loops
from lamina_inductor.ir.linear import coefficients
from lamina_inductor.ir.nodes import LoopGraph, LoopNode, Reduce, Scan, Scatter, Store
from lamina_inductor.ir.ops import OPS, ops, use_handler
from lamina_inductor.ir.printer import parse_loops, print_loops
from lamina_inductor.ir.verify import RULES, verify_loops
from lamina_inductor.lowering import values
from lamina_inductor.lowering.values import Value

N = 6


def make_graph(body=None, *, dtype=torch.float32, out=torch.float32):
    """buf0[i] = body(arg0[i]) over N elements."""
    g = LoopGraph()
    a = Buffer("arg0", dtype, as_exprs([N]), as_exprs([1]), "input")
    b = Buffer("buf0", out, as_exprs([N]), as_exprs([1]))
    g.buffers += [a, b]
    g.inputs.append(a)
    i = g.fresh_var()
    r = Recorder()
    with use_handler(r):
        x = ops.load(a, i)
        value = body(x) if body else ops.exp(x)
    g.nodes.append(LoopNode("n0", [(i, integer(N))], [], Store(b, i, value), r.indirects))
    g.outputs.append(b.view())
    return g


def replace_effect(g, effect):
    n = g.nodes[0]
    g.nodes[0] = LoopNode(n.name, n.vars, n.rvars, effect, n.indirects)


def test_graph_verifies_prints_and_runs():
    g = make_graph()
    verify_loops(g, level=3)
    text = print_loops(g)
    again = parse_loops(text)
    assert print_loops(again) == text
    x = torch.randn(N)
    for graph in (g, again):
        torch.testing.assert_close(interpret_loops(graph, [x])[0], x.exp())


def test_op_table_is_closed():
    with pytest.raises(AttributeError, match="no scalar op 'frobnicate'"):
        ops.frobnicate
    with pytest.raises(RuntimeError, match="outside of a handler"):
        ops.add
    assert all(info.arity >= 0 and info.rule for info in OPS.values())


def test_recorder_shares_equal_values_and_keeps_signed_zero_apart():
    r = Recorder()
    with use_handler(r):
        a, b = ops.constant(0.0, torch.float32), ops.constant(-0.0, torch.float32)
        assert a is not b
        assert ops.add(a, b) is ops.add(a, b)
        assert ops.where(ops.lt(a, b), a, a) is a


@pytest.mark.parametrize("make, message", [
    (lambda: ops.add(ops.constant(1, torch.int64), ops.constant(1.0, torch.float32)), "convert first"),
    (lambda: ops.exp(ops.constant(1, torch.int64)), "needs a floating type"),
    (lambda: ops.bitwise_and(ops.constant(1.0, torch.float32), ops.constant(1.0, torch.float32)), "needs an integer type"),
    (lambda: ops.where(ops.constant(1.0, torch.float32), ops.constant(1.0, torch.float32), ops.constant(2.0, torch.float32)), "where"),
])
def test_recorder_refuses_wrong_types(make, message):
    with use_handler(Recorder()), pytest.raises(InternalError, match=message):
        make()


def broken_graphs():
    def two_names(g):
        g.buffers.append(Buffer("buf0", torch.float32, as_exprs([N]), as_exprs([1])))

    def shared_variable(g):
        n = g.nodes[0]
        b = Buffer("buf1", torch.float32, as_exprs([N]), as_exprs([1]))
        g.buffers.append(b)
        g.nodes.append(LoopNode("n1", n.vars, [], Store(b, n.effect.index, n.effect.value)))

    def free_variable(g):
        e = g.nodes[0].effect
        replace_effect(g, Store(e.buffer, symbol("elsewhere"), e.value))

    def reduced_index(g):
        n = g.nodes[0]
        e = n.effect
        g.nodes[0] = LoopNode(n.name, [], n.vars, Reduce("sum", (e.buffer,), e.index, e.value))

    def wrong_type(g):
        g.nodes[0].effect.value.dtype = torch.float64

    def wrong_store(g):
        e = g.nodes[0].effect
        other = Buffer("buf9", torch.int64, as_exprs([N]), as_exprs([1]))
        g.buffers.append(other)
        replace_effect(g, Store(other, e.index, e.value))

    def bad_kind(g):
        n = g.nodes[0]
        e = n.effect
        g.nodes[0] = LoopNode(n.name, [], n.vars, Reduce("median", (e.buffer,), integer(0), e.value))

    def bad_mode(g):
        e = g.nodes[0].effect
        replace_effect(g, Scatter("xor", e.buffer, e.index, e.value))

    def bad_scan(g):
        n = g.nodes[0]
        e = n.effect
        g.nodes[0] = LoopNode(n.name, [], n.vars, Scan("median", e.buffer, e.index, e.value))

    def unregistered(g):
        g.buffers.pop()

    def unwritten(g):
        g.nodes.clear()

    def writes_input(g):
        e = g.nodes[0].effect
        replace_effect(g, Store(g.buffers[0], e.index, e.value))
        g.outputs.clear()

    return {
        "defined twice": two_names, "a variable of": shared_variable, "not one of its loops": free_variable, "stores its result at": reduced_index,
        "operands make|the buffer": wrong_type, "which is torch.int64": wrong_store, "no reduction": bad_kind, "no scatter mode": bad_mode, "no scan": bad_scan,
        "does not list": unregistered, "never written": unwritten, "writes the input": writes_input,
    }


@pytest.mark.parametrize("message", broken_graphs())
def test_verifier_rejects(message):
    g = make_graph()
    broken_graphs()[message](g)
    with pytest.raises(VerifyError, match=message):
        verify_loops(g)


def test_every_rule_has_a_breaking_graph():
    assert len(broken_graphs()) >= len(RULES)


@pytest.mark.parametrize("shift, message", [(-1, "as low as -1"), (1, "pass the end by 1")])
def test_level_three_proves_bounds(shift, message):
    g = make_graph()
    e = g.nodes[0].effect
    replace_effect(g, Store(e.buffer, e.index + shift, e.value))
    verify_loops(g, level=2)
    with pytest.raises(VerifyError, match=message):
        verify_loops(g, level=3)


def test_interpreter_refuses_to_read_outside():
    g = make_graph()
    n = g.nodes[0]
    r = Recorder()
    with use_handler(r):
        value = ops.load(g.buffers[0], n.vars[0][0] + 1)
    replace_effect(g, Store(n.effect.buffer, n.effect.index, value))
    with pytest.raises(IndexError, match="leaves the buffer"):
        interpret_loops(g, [torch.randn(N)])


def test_coefficients_with_symbolic_strides():
    i, j, s = symbol("i"), symbol("j"), symbol("s0")
    terms, rest = coefficients(i * s + j * 3 + s + 2, (i, j))
    assert terms == {i: s, j: integer(3)} and rest is s + 2
    assert coefficients(i * j, (i, j)) is None
    assert coefficients((i + 1) // 2, (i,)) is None


def test_layout_helpers():
    size = as_exprs([2, 3, 4, 5])
    strides = dense_strides(size, (0, 2, 3, 1))
    assert [t.const for t in strides] == [60, 1, 15, 3]
    assert stride_order(size, strides) == (0, 2, 3, 1)
    assert stride_order(size, contiguous_strides(size)) == (0, 1, 2, 3)


@pytest.mark.parametrize("old, new", [((6, 4), (24,)), ((24,), (2, 3, 4)), ((4, 6), (8, 3)), ((2, 1, 3), (6, 1)), ((1,), (1, 1)), ((2, 3, 4), (2, 12)), ((5, 1), (5,))])
def test_reshape_of_indices_is_row_major(old, new):
    total = torch.Size(old).numel()
    remap = values.reindex_reshape(as_exprs(old), as_exprs(new))
    names = [symbol(f"r{d}") for d in range(len(new))]
    index = remap([integer(0) if n == 1 else v for v, n in zip(names, new, strict=True)])
    source, want = torch.arange(total).reshape(old), torch.arange(total).reshape(new)
    for at in torch.cartesian_prod(*[torch.arange(n) for n in new]).reshape(-1, len(new)).tolist():
        point = dict(zip(names, at, strict=True))
        assert source[tuple(e.evaluate(point) for e in index)] == want[tuple(at)]


@pytest.mark.parametrize("stride, new", [((12, 4, 1), (6, 4)), ((1, 2, 6), (2, 12)), ((24, 4, 1), (2, 12)), ((24, 8, 1), (6, 4)), ((0, 4, 1), (2, 3, 2, 2))])
def test_reshape_is_a_view_exactly_when_eager_says_so(stride, new):
    size = (2, 3, 4)
    t = torch.empty(200).as_strided(size, stride)
    b = Buffer("b", torch.float32, as_exprs(size), as_exprs(stride))
    x = Value(torch.float32, as_exprs(size), view=StridedView(b, as_exprs(size), as_exprs(stride)))
    got = values.reshape(x, as_exprs(new))
    try:
        want = t.view(new).stride()
    except RuntimeError:
        assert got.view is None
        return
    assert tuple(s.const for s in got.view.stride) == want
