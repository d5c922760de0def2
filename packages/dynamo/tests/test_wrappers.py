"""Wrapper subclasses with `__torch_dispatch__`: taken apart at the graph's border, without gradients; with gradients a break with a reason."""

import lamina_dynamo
import pytest
import torch
from lamina_dynshape.support.counters import counters
from torch import nn


class Two(torch.Tensor):
    """A pair that every operator runs on, one after the other, and a tag that goes along."""

    @staticmethod
    def __new__(cls, a, b, tag="t"):
        return torch.Tensor._make_wrapper_subclass(cls, a.shape, strides=a.stride(), dtype=a.dtype, device=a.device, requires_grad=a.requires_grad)

    def __init__(self, a, b, tag="t"):
        self.a, self.b, self.tag = a, b, tag

    def __repr__(self):
        return f"Two({self.a}, {self.b})"

    def __tensor_flatten__(self):
        return ["a", "b"], self.tag

    @staticmethod
    def __tensor_unflatten__(inner, tag, size, stride):
        return Two(inner["a"], inner["b"], tag)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        def on(side):
            pick = lambda v: getattr(v, side) if isinstance(v, Two) else [pick(x) for x in v] if isinstance(v, (list, tuple)) else v
            return func(*pick(args), **{k: pick(v) for k, v in (kwargs or {}).items()})

        a, b = on("a"), on("b")
        tag = next(x.tag for v in args for x in (v if isinstance(v, (list, tuple)) else (v,)) if isinstance(x, Two))
        if isinstance(a, (list, tuple)):
            return type(a)(Two(x, y, tag) if isinstance(x, torch.Tensor) else x for x, y in zip(a, b, strict=True))
        return Two(a, b, tag) if isinstance(a, torch.Tensor) else a


class Scaled(torch.Tensor):
    """A matrix of int8 with one scale per row."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, data, scale):
        return torch.Tensor._make_wrapper_subclass(cls, data.shape, strides=data.stride(), dtype=scale.dtype, device=data.device)

    def __init__(self, data, scale):
        self.whole, self.scale = data, scale

    @classmethod
    def of(cls, w):
        scale = w.abs().amax(1, keepdim=True) / 127
        return cls((w / scale).round().to(torch.int8), scale)

    def __repr__(self):
        return "Scaled"

    def __tensor_flatten__(self):
        return ["whole", "scale"], None

    @staticmethod
    def __tensor_unflatten__(inner, meta, size, stride):
        return Scaled(inner["whole"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return Scaled(args[0].whole, args[0].scale)
        if func is torch.ops.aten.t.default:
            return Scaled(args[0].whole.t(), args[0].scale.t())
        plain = lambda v: v.whole * v.scale if isinstance(v, Scaled) else v
        return func(*[plain(a) for a in args], **{k: plain(v) for k, v in (kwargs or {}).items()})


def two(n=2, tag="t"):
    return Two(torch.arange(3.0 * n).reshape(n, 3), torch.ones(n, 3), tag)


def compiled(program, backend=lambda gm, inputs: gm.forward, **options):
    counters.clear()
    return lamina_dynamo.optimize(program, backend, **options)


def assert_same(got, want):
    assert type(got) is type(want)
    if isinstance(want, Two):
        assert got.tag == want.tag and got.shape == want.shape and got.stride() == want.stride()
        assert_same((got.a, got.b), (want.a, want.b))
    elif isinstance(want, torch.Tensor):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    elif isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for g, w in zip(got, want):
            assert_same(g, w)
    else:
        assert got == want


PROGRAMS = [
    lambda t: (t.sin() @ t.t() + 1).relu(),
    lambda t: (t.a + t.b, t.tag, t * 2, t.shape, type(t).__name__, isinstance(t, Two)),
    lambda t: [x * 2 for x in t.split(1)] + [torch.cat([t, t])],
    lambda t: (Two(t.a + 1, t.b, "made") * t).sum(0),
    lambda t: torch.nn.functional.layer_norm(t, (3,)),
    lambda t: (t, t + torch.ones(3)),
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_without_gradients_it_is_one_graph(program):
    fast = compiled(program, fullgraph=True)
    with torch.no_grad():
        for _ in range(2):
            assert_same(fast(two()), program(two()))
    assert counters["graphs"]["captured"] == 1


def test_guards_on_the_context_and_the_inner_tensors():
    fast = compiled(lambda t: (t * 2, t.tag))
    for t in (two(), two(tag="u"), two(n=4), Two(torch.ones(2, 3), torch.ones(2, 3).t().contiguous().t()), two()):
        assert_same(fast(t), (t * 2, t.tag))
    assert not counters["graph_breaks"]


def test_a_graph_of_plain_tensors():
    seen = []

    def backend(gm, inputs):
        seen.extend(type(x) for x in inputs)
        return gm.forward

    compiled(lambda t: t * 2 + 1, backend)(two())
    assert set(seen) == {torch.Tensor}


def test_made_inside_and_broken_in_the_middle():
    def program(x):
        t = Two(x, x + 1) * 3
        lamina_dynamo.graph_break()
        return t + 1, t.a

    fast = compiled(program)
    for _ in range(2):
        assert_same(fast(torch.ones(2)), program(torch.ones(2)))
    assert counters["graph_breaks"] == {"graph-break": 1}


def test_a_constructor_that_is_captured_on_its_own():
    def program(x):
        lamina_dynamo.graph_break() if type(Two(x, x + 1) * 2).__name__ else None
        return Two(x, x + 1) * 2

    fast = compiled(program)
    assert_same(fast(torch.ones(2)), program(torch.ones(2)))
    init = compiled(Two.__init__)
    t = Two.__new__(Two, torch.ones(2), torch.ones(2))
    init(t, torch.ones(2), torch.zeros(2))
    assert t.tag == "t" and counters["graph_breaks"]["tensor-subclass"]


def test_weights_of_a_module():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    for layer in (net[0], net[2]):
        layer.weight = nn.Parameter(Scaled.of(layer.weight.detach()), requires_grad=False)
    x = torch.randn(5, 4)
    fast = compiled(net, fullgraph=True)
    with torch.no_grad():
        for _ in range(2):
            assert_same(fast(x), net(x))
    assert counters["graphs"]["captured"] == 1


def test_gradients_break_with_a_reason():
    def program(t, w):
        return (t * w).sin()

    def run(fn):
        w = torch.ones(3, requires_grad=True)
        out = fn(two(), w)
        (out.a.sum() if not out.requires_grad else out.sum()).backward()
        return out.a.detach(), w.grad if not isinstance(w.grad, Two) else (w.grad.a, w.grad.b)

    fast = compiled(program)
    assert_same(run(fast), run(program))
    assert counters["graph_breaks"]["tensor-subclass"]
    t = two().requires_grad_()
    assert_same(fast(t, torch.ones(3)), program(t, torch.ones(3)))


def test_writes_break():
    def program(t):
        t.mul_(2)
        return t + 1

    fast = compiled(program)
    for t, u in ((two(), two()), (two(), two())):
        assert_same(fast(t), program(u))
        assert_same(t, u)
    assert counters["graph_breaks"]["tensor-subclass"]
