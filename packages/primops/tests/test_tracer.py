"""Tracing: what is recorded, in which order, with which metadata."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from helpers import aten, fakes, prims_of, same_as_eager
from lamina_dynshape import FakeMode, ShapeEnv
from lamina_dynshape.support.errors import InternalError, Unsupported
from lamina_primops import Frame, TraceMode, Tracer, interpret, lower, print_graph, trace, verify
from lamina_primops.wrappers import inner_of, take_apart, wrap_of

X = torch.randn(3, 4)


def calls(gm):
    return [str(n.target) for n in gm.graph.nodes if n.op == "call_function"]


def test_composite_ops_arrive_as_their_parts():
    gm = trace(lambda x, w, b: torch.nn.functional.linear(x, w, b), fakes(X, torch.randn(5, 4), torch.randn(5)))
    assert calls(gm) == ["aten.t.default", "aten.addmm.default"]
    verify(gm, "aten")


def test_composite_ops_are_decomposed_in_inference_mode_too():
    with torch.inference_mode():
        gm = trace(lambda x, y: torch.matmul(x, y), fakes(X, torch.randn(4, 2)))
    assert calls(gm) == ["aten.mm.default"]


def test_an_op_with_a_kernel_of_its_own_is_not_decomposed():
    gm = trace(lambda g, x: aten.silu_backward.default(g, x), fakes(X, X.clone()))
    assert calls(gm) == ["aten.silu_backward.default"]


def test_a_composite_that_asks_for_plain_sizes_gets_them():
    mode = FakeMode(ShapeEnv())
    x, i = mode.from_real(X, dynamic_dims={0, 1}), mode.from_real(torch.zeros(2, 4, dtype=torch.int64), dynamic_dims={0, 1})
    gm = trace(lambda x, i: torch.take_along_dim(x, i, 0), [x, i])
    assert calls(gm)[-1] == "aten.gather.default"


def test_detach_and_alias_leave_no_node():
    gm = trace(lambda x: torch.exp(x.detach()).detach() * 2, fakes(X))
    assert calls(gm) == ["aten.exp.default", "aten.mul.Tensor"]


def test_dead_code_is_dropped_but_random_ops_stay_in_order():
    def f(x):
        torch.rand(3)
        torch.sin(x)
        torch.randn(3)
        return torch.cos(x)

    assert calls(trace(f, fakes(X))) == ["aten.rand.default", "aten.randn.default", "aten.cos.default"]


def test_in_place_is_refused_below_functionalization():
    with pytest.raises(Unsupported, match="in-place op"):
        trace(lambda x: x.clone().add_(1), fakes(X))


def test_real_tensors_become_constants_once():
    c = torch.arange(4.0)
    gm = trace(lambda x: x * c + c, fakes(X))
    assert [n.target for n in gm.graph.nodes if n.op == "get_attr"] == ["_tensor_constant0"]
    torch.testing.assert_close(interpret(gm, X)[0], X * c + c)
    torch.testing.assert_close(interpret(lower(gm), X)[0], X * c + c)


def test_constants_made_in_the_program_are_lifted_and_known():
    def f(x):
        n = torch.tensor(3)
        return x * torch.tensor([1.0, 2.0, 3.0, 4.0]) + n.item()

    gm = trace(f, fakes(X))
    torch.testing.assert_close(interpret(gm, X)[0], f(X))


def test_several_results_and_unused_ones():
    gm = trace(lambda x: torch.max(x, 1)[0], fakes(X))
    assert calls(gm) == ["aten.max.dim", "<built-in function getitem>"]


def test_backward_through_the_engine():
    w = torch.randn(4, 4)

    def f(x, w):
        w.requires_grad_()
        y = torch.tanh(x @ w).sum()
        return torch.autograd.Variable._execution_engine.run_backward((y,), (torch.ones_like(y),), False, False, (w,), True, accumulate_grad=False)

    gm = trace(f, fakes(X, w))
    real = w.clone().requires_grad_()
    torch.tanh(X @ real).sum().backward()
    torch.testing.assert_close(interpret(gm, X, w)[0], real.grad)
    assert "aten.tanh_backward.default" in calls(gm)


def test_symbolic_sizes_are_nodes_shared_by_expression():
    x = fakes(X, symbolic=True)[0]
    gm = trace(lambda x: (x.new_zeros(x.shape[0] * 2 + 1), x.new_ones(1 + 2 * x.shape[0]), x.reshape(x.shape[1] * x.shape[0])), [x])
    verify(gm, "aten")
    assert sum(t == "aten.sym_size.int" for t in calls(gm)) == 2  # s0 and s1, once each
    assert sum("mul" in t for t in calls(gm)) == 2  # 2*s0 and s0*s1
    for rows in (3, 5):
        y = torch.randn(rows, 4)
        a, b, c = interpret(gm, y)
        assert a.shape == b.shape == (2 * rows + 1,) and torch.equal(c, y.reshape(-1))


def test_size_placeholders_are_used_before_reading_sizes():
    mode = FakeMode(ShapeEnv())
    x = mode.from_real(X, source="x", dynamic_dims={0})
    tracer = Tracer(mode)
    tracer.placeholder("s", x.shape[0])
    tracer.placeholder("x", x)
    with mode, TraceMode(tracer):
        out = x.expand(2, x.shape[0], 4)
    tracer.output([out, x.shape[0]])
    gm = tracer.graph_module()
    assert calls(gm) == ["aten.expand.default"]
    assert interpret(gm, 3, X)[1] == 3


def test_stacks():
    tracer = Tracer(FakeMode())
    x = tracer.fake_mode.from_real(X)
    tracer.placeholder("x", x)
    frame = Frame("model.py", 3, "forward", "y = x.exp()")
    with tracer.fake_mode, TraceMode(tracer):
        with tracer.stack((frame,)):
            y = torch.exp(x)
        z = torch.sin(y)
    tracer.output([z])
    gm = tracer.graph_module()
    exp, sin = [n for n in gm.graph.nodes if n.op == "call_function"]
    assert exp.meta["stack"] == (frame,) and sin.meta["stack"] == ()
    assert "# model.py:3 in forward" in print_graph(gm)
    assert "# model.py:3 in forward" in print_graph(lower(gm))


def test_a_fake_from_elsewhere_is_refused():
    tracer = Tracer(FakeMode())
    with pytest.raises(InternalError, match="not made under this tracer"):
        tracer.node_of(FakeMode().from_real(X))


def test_decompositions_while_tracing():
    gm = trace(lambda x: torch.exp(x), fakes(X), decompositions={aten.exp.default: lambda x: torch.exp2(x * 1.5)})
    assert calls(gm) == ["aten.mul.Tensor", "aten.exp2.default"]


def test_lazy_conjugation_is_made_real():
    z = torch.randn(3, dtype=torch.complex64)
    gm = trace(lambda z: torch.view_as_real((z.conj() * 2).resolve_conj()), fakes(z))
    torch.testing.assert_close(interpret(gm, z)[0], torch.view_as_real((z.conj() * 2).resolve_conj()))


def test_tracing_and_lowering_do_not_import_the_peer():
    code = (
        "import sys, torch; from lamina_dynshape import FakeMode; from lamina_primops import trace, lower, interpret\n"
        "m = FakeMode(); x = torch.randn(3, 4); gm = trace(lambda x: torch.softmax(x.t() @ x, -1).sum(), [m.from_real(x)]); interpret(lower(gm), x)\n"
        "print([m for m in sys.modules if m.startswith(('torch._dynamo', 'torch._inductor'))])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_same_as_eager_helper_notices_differences():
    lowered = same_as_eager(lambda x: torch.relu(x).sum(1), [X])
    assert prims_of(lowered) == ["maximum_scalar", "sum"]


def test_checks_stay_in_the_graph():
    def f(x):
        torch._assert_async((x > 0).all(), "bad")
        return x + 1

    mode = FakeMode()
    gm = trace(f, [mode.from_real(torch.ones(3))])
    verify(gm, "aten")
    lowered = lower(gm, to="prims")
    verify(lowered, "prims")
    for graph in (gm, lowered):
        assert any("_assert_async" in str(n.target) for n in graph.graph.nodes)
        with pytest.raises(RuntimeError, match="bad"):
            interpret(graph, -torch.ones(3))


def test_calls_with_an_effect_stay_and_are_told_by_one_predicate():
    from lamina_primops.fxtools import has_effect

    with_effect = [aten.add_.Tensor, aten.rand.default, aten._assert_async.msg, aten._functional_assert_async.msg, aten.sym_constrain_range.default]
    assert all(map(has_effect, with_effect))
    assert not any(map(has_effect, [aten.add.Tensor, aten.detach.default, aten.item.default, print, "name"]))


def test_a_custom_op_without_results_stays_in_every_stage():
    with torch.library._scoped_library("lamina_test", "DEF") as library:
        library.define("note(Tensor x) -> ()")
        library.impl("note", lambda x: None, "Meta")
        library.impl("note", lambda x: None, "CPU")
        gm = trace(lambda x: (torch.ops.lamina_test.note(x), x + 1)[1], fakes(X))
        assert calls(gm) == ["lamina_test.note.default", "aten.add.Tensor"]
        assert "lamina_test.note.default" in calls(lower(gm, to="prims"))


class Pair(torch.Tensor):
    @staticmethod
    def __new__(cls, a, b):
        return torch.Tensor._make_wrapper_subclass(cls, a.shape, strides=a.stride(), dtype=a.dtype)

    def __init__(self, a, b):
        self.a, self.b = a, b

    def __tensor_flatten__(self):
        return ["a", "b"], "context"

    @staticmethod
    def __tensor_unflatten__(inner, context, size, stride):
        return Pair(inner["a"], inner["b"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return Pair(*[func(*[getattr(v, side) if isinstance(v, Pair) else v for v in args], **(kwargs or {})) for side in ("a", "b")])


def test_operators_on_a_wrapper_are_those_that_its_class_calls():
    gm = trace(lambda a, b: take_apart(torch.add(Pair(a, b), 1))[1], fakes(torch.ones(2), torch.ones(2)))
    assert calls(gm) == ["aten.add.Tensor", "aten.add.Tensor"]


def test_wrappers_are_taken_apart_and_put_together():
    x, y, z = torch.ones(2), torch.zeros(2), torch.ones(3)
    structure, parts = take_apart(Pair(Pair(x, y), y))
    assert all(a is b for a, b in zip(parts, (x, y, y), strict=True)) and structure.is_static
    made = structure.build(iter(parts))
    assert type(made.a) is Pair and made.a.b is y and made.b is y
    assert take_apart(x) == (None, [x])
    assert structure.matches(take_apart(made)[0])
    assert not structure.matches(take_apart(made.a)[0]) and not structure.matches(None) and not structure.matches(take_apart(Pair(Pair(z, z), z))[0])


def test_a_wrapper_of_inner_tensors_is_a_node():
    a, b = torch.ones(2, requires_grad=True), torch.zeros(2)
    made = wrap_of(Pair, ("a", "b"), "context")((2,), (1,), a, b)
    assert type(made) is Pair and not made.a.requires_grad and inner_of(made, "b") is b
