"""Wrapper subclasses in joint graphs: autograd works on the wrapper, compiled graphs have plain tensors alone."""

import pytest
import torch
from lamina_aotgrad import aot_function
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.errors import Unsupported
from lamina_primops.wrappers import inner_of, wrap_of
from torch import fx


class Rounds(torch.Tensor):
    """Products with it round the other operand."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, data):
        return torch.Tensor._make_wrapper_subclass(cls, data.shape, strides=data.stride(), dtype=data.dtype)

    def __init__(self, data):
        self.inside = data

    def __repr__(self):
        return f"Rounds({self.inside})"

    def __tensor_flatten__(self):
        return ["inside"], None

    @staticmethod
    def __tensor_unflatten__(inner, context, size, stride):
        return Rounds(inner["inside"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        plain = lambda v: v.inside if isinstance(v, Rounds) else v.round() if isinstance(v, torch.Tensor) and func is torch.ops.aten.mul.Tensor else v
        out = func(*[plain(a) for a in args], **(kwargs or {}))
        return Rounds(out) if all(isinstance(a, Rounds) for a in args if isinstance(a, torch.Tensor)) else out


def compiled(program, inputs, graphs):
    """`program` compiled; its graphs are noted."""

    def compiler(gm, fakes, *, kind, signature):
        assert all(type(f).__name__ == "FakeTensor" for f in fakes)
        graphs[kind] = [str(n.target) for n in gm.graph.nodes if n.op == "call_function"]
        return gm.forward

    counters.clear()
    return aot_function(program, inputs, fw_compiler=compiler)


def values(*inputs):
    return [t.inside if isinstance(t, Rounds) else t for t in inputs]


def same(got, want):
    for g, w in zip(got, want, strict=True):
        assert type(g) is type(w)
        if w is not None:
            torch.testing.assert_close(*[values(t.detach())[0] for t in (g, w)], rtol=0, atol=0)


def grads(fn, inputs):
    outs = fn(*inputs)
    torch.autograd.backward([o.sum() for o in outs if o.requires_grad], [torch.ones_like(o.sum()) for o in outs if o.requires_grad])
    return [*outs, *[t.grad for t in inputs if t.is_leaf]]


def leaves():
    data = torch.tensor([1.5, 2.25])
    return [data, torch.tensor([0.3, 0.8], requires_grad=True), Rounds(data)]


def test_autograd_is_above_the_class():
    graphs = {}
    program = lambda data, x, w: (x * w,)
    fast = compiled(program, leaves(), graphs)
    same(grads(fast, leaves()), grads(program, leaves()))
    assert graphs == {"forward": ["aten.round.default", "aten.mul.Tensor"], "backward": ["aten.round.default", "aten.mul.Tensor"]}


def test_wrappers_that_take_gradients():
    program = lambda data, x, w: ((w + w).sin(), x * w)
    make = lambda: [t.requires_grad_() if isinstance(t, Rounds) else t for t in leaves()]
    fast = compiled(program, make(), {})
    same(grads(fast, make()), grads(program, make()))
    (out, _) = fast(*make())
    assert type(out) is Rounds and out.requires_grad


def graph(*calls):
    """A captured graph of two plain inputs."""
    g = fx.Graph()
    values = [g.placeholder(n) for n in ("data", "x")]
    for target, args in calls:
        values.append(g.call_function(target, tuple(values[a] if type(a) is int else a for a in args)))
    g.output((values[-1],))
    return fx.GraphModule(torch.nn.Module(), g)


WRAP = wrap_of(Rounds, ("inside",), None), ((2,), (1,), 0)


def test_wrapped_in_the_graph():
    gm = graph(WRAP, (torch.mul, (1, 2)), (torch.add, (2, 2)), (inner_of, (4, "inside")), (torch.mul, (3, 5)))
    fast = compiled(gm, leaves()[:2], graphs := {})
    same(grads(fast, leaves()[:2]), grads(gm.forward, leaves()[:2]))
    assert "forward" in graphs


def test_hidden_views_are_refused():
    gm = graph(WRAP, (inner_of, (2, "inside")), (torch.mul, (1, 2)))
    gm.graph.output_node().args = ((list(gm.graph.nodes)[3], list(gm.graph.nodes)[4]),)
    gm.recompile()
    with pytest.raises(Unsupported, match="shares memory through a tensor subclass"):
        compiled(gm, leaves()[:2], {})


def test_inner_tensors_must_be_inputs():
    with pytest.raises(Unsupported, match="no inputs of the graph"):
        compiled(lambda w: (w * 2,), [leaves()[2]], {})


def test_writes_to_wrapper_inputs_are_refused():
    with pytest.raises(Unsupported, match="write to an input of a tensor subclass"):
        compiled(lambda data, x, w: (x * w.add_(w),), leaves(), {})


def test_gradients_of_another_class_run_the_program_again():
    def run(fn):
        data, _, w = leaves()
        w.requires_grad_()
        (out,) = fn(data, w)
        out.backward(torch.ones(2))
        return out.detach(), w.grad

    program = lambda data, w: ((w + w).sin(),)
    data, _, w = leaves()
    fast = compiled(program, [data, w.requires_grad_()], {})
    same(run(fast), run(program))
    assert counters["fallbacks"]["aot gradient of another class"] == 1


def test_a_wrapper_for_a_plain_gradient_runs_the_operators():
    def run(fn):
        x = torch.tensor([0.5, 1.5], requires_grad=True)
        (out,) = fn(x)
        out.backward(Rounds(torch.tensor([1.0, 2.0])))
        return out.detach(), x.grad

    program = lambda x: ((x * x).sin(),)
    fast = compiled(program, [torch.ones(2, requires_grad=True)], {})
    same(run(fast), run(program))
    assert counters["fallbacks"]["aot gradient of another class"] == 1


def test_a_wrapper_for_a_plain_gradient_beside_wrappers_is_an_error():
    data, x, w = leaves()
    (out,) = compiled(lambda data, x, w: (x * w,), leaves(), {})(data, x, w)
    with pytest.raises(RuntimeError, match="gradients of other classes than Rounds"):
        out.backward(Rounds(torch.ones(2)))


def test_what_is_kept_of_a_wrapper_is_watched():
    data, x, w = leaves()
    (out,) = compiled(lambda data, x, w: (x * w,), leaves(), {})(data, x, w)
    w.add_(w)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()
