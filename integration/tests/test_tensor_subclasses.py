"""Tensors that compiled code meets and that are not plain ones: wrapper subclasses, sparse and nested tensors. Eager's results, and a recorded reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lamina

BACKENDS = ["aot_eager", "inductor"]


class TwoTensor(Tensor):
    """A pair of tensors that every operator runs on, one after the other."""

    @staticmethod
    def __new__(cls, a: Tensor, b: Tensor) -> TwoTensor:
        return Tensor._make_wrapper_subclass(cls, a.shape, strides=a.stride(), dtype=a.dtype, device=a.device, requires_grad=a.requires_grad)

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b

    def __repr__(self) -> str:
        return f"TwoTensor({self.a}, {self.b})"

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["a", "b"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta: Any, size: Any, stride: Any) -> TwoTensor:
        return TwoTensor(inner["a"], inner["b"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def on(side: str) -> Any:
            pick = lambda v: getattr(v, side) if isinstance(v, TwoTensor) else [pick(x) for x in v] if isinstance(v, (list, tuple)) else v
            return func(*pick(args), **{k: pick(v) for k, v in (kwargs or {}).items()})

        a, b = on("a"), on("b")
        if isinstance(a, (list, tuple)):
            return type(a)(TwoTensor(x, y) if isinstance(x, Tensor) else x for x, y in zip(a, b, strict=True))
        return TwoTensor(a, b) if isinstance(a, Tensor) else a


class ScaledInt8(Tensor):
    """A matrix of int8 with one scale per row, which operators see as float32."""

    @staticmethod
    def __new__(cls, data: Tensor, scale: Tensor) -> ScaledInt8:
        return Tensor._make_wrapper_subclass(cls, data.shape, strides=data.stride(), dtype=scale.dtype, device=data.device, requires_grad=False)

    def __init__(self, data: Tensor, scale: Tensor) -> None:
        self.data8, self.scale = data, scale

    def __repr__(self) -> str:
        return f"ScaledInt8({tuple(self.shape)})"

    @classmethod
    def of(cls, weight: Tensor) -> ScaledInt8:
        scale = weight.abs().amax(1, keepdim=True) / 127
        return cls((weight / scale).round().to(torch.int8), scale)

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["data8", "scale"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta: Any, size: Any, stride: Any) -> ScaledInt8:
        return ScaledInt8(inner["data8"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return ScaledInt8(args[0].data8, args[0].scale)
        plain = lambda v: v.data8 * v.scale if isinstance(v, ScaledInt8) else v
        return func(*[plain(a) for a in args], **{k: plain(v) for k, v in (kwargs or {}).items()})


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_tensor_as_an_input(backend):
    fn = lambda x: (x.sin() @ x.t() + 1).relu()
    make = lambda: TwoTensor(torch.arange(6.0).reshape(2, 3), torch.ones(2, 3))
    want = fn(make())
    compiled = lamina.compile(fn, backend=backend)
    for _ in range(2):
        got = compiled(make())
        assert type(got) is TwoTensor
        torch.testing.assert_close(got.a, want.a)
        torch.testing.assert_close(got.b, want.b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_tensor_trains(backend):
    fn = lambda x, y: ((x * y).sin() + y).sum()

    def run(f: Any) -> list[Tensor]:
        torch.manual_seed(0)
        x = TwoTensor(torch.randn(3), torch.randn(3)).requires_grad_()
        y = torch.randn(3, requires_grad=True)
        out = f(x, y)
        out.backward()
        return [out.a, out.b, x.grad.a, x.grad.b, y.grad.a, y.grad.b]

    for mine, eager in zip(run(lamina.compile(fn, backend=backend)), run(fn), strict=True):
        torch.testing.assert_close(mine, eager)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scaled_int8_weight_of_a_module(backend):
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    for layer in (net[0], net[2]):
        layer.weight = nn.Parameter(ScaledInt8.of(layer.weight.detach()), requires_grad=False)
    x = torch.randn(5, 4, requires_grad=True)
    want = net(x)
    (expected,) = torch.autograd.grad(want.sum(), x)
    got = lamina.compile(net, backend=backend)(x)
    (gradient,) = torch.autograd.grad(got.sum(), x)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_subclass_made_inside(backend):
    def fn(x: Tensor) -> Tensor:
        y = TwoTensor(x, x + 1)
        z = y * 2
        return z.a + z.b

    x = torch.randn(3)
    torch.testing.assert_close(lamina.compile(fn, backend=backend)(x), fn(x))


def test_gradients_are_the_reason():
    make = lambda: TwoTensor(torch.ones(2), torch.ones(2)).requires_grad_()
    lamina.counters.clear()
    lamina.compile(lambda x: x + 1, backend="eager")(make())
    assert lamina.counters["graph_breaks"]["tensor-subclass"] == 1
    with pytest.raises(lamina.exc.Unsupported, match="subclass"):
        lamina.compile(lambda x: x + 1, backend="eager", fullgraph=True)(make())


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_gradients_it_is_one_graph_of_inner_tensors(backend):
    fn = lambda x: (x.sin() @ x.t() + 1).relu()
    make = lambda: TwoTensor(torch.arange(6.0).reshape(2, 3), torch.ones(2, 3))
    lamina.counters.clear()
    compiled = lamina.compile(fn, backend=backend, fullgraph=True)
    want = fn(make())
    for _ in range(2):
        got = compiled(make())
        torch.testing.assert_close((got.a, got.b), (want.a, want.b))
    assert lamina.counters["graphs"]["captured"] == 1 and not lamina.counters["fallbacks"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_sparse_and_nested_inputs_run_eagerly(backend):
    fn = lambda s, x: (torch.sparse.mm(s, x) if s.is_sparse else s @ x) + 1
    x = torch.randn(4, 3, requires_grad=True)
    dense = torch.eye(4) * 2
    for s in (dense.to_sparse(), dense.to_sparse_csr()):
        lamina.counters.clear()
        compiled = lamina.compile(fn, backend=backend)
        out = compiled(s, x)
        torch.testing.assert_close(out, fn(s, x))
        assert lamina.counters["graph_breaks"]["tensor-layout"]
        with pytest.raises(lamina.exc.Unsupported, match="strided"):
            lamina.compile(fn, backend=backend, fullgraph=True)(s, x)
    for layout in (torch.strided, torch.jagged):
        nested = torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)], layout=layout)
        lamina.counters.clear()
        compiled = lamina.compile(lambda n: n * 2 + 1, backend=backend)
        for mine, eager in zip(compiled(nested).unbind(), (nested * 2 + 1).unbind(), strict=True):
            torch.testing.assert_close(mine, eager)
        assert lamina.counters["graph_breaks"], "no reason recorded"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sparse_tensor_made_inside(backend):
    def fn(x: Tensor) -> Tensor:
        return torch.sparse.mm(x.relu().to_sparse(), x.t()) + 1

    x = torch.randn(4, 3)
    torch.testing.assert_close(lamina.compile(fn, backend=backend)(x), fn(x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_dtensor(backend):
    dist = pytest.importorskip("torch.distributed.tensor")
    import torch.distributed as c10d

    if not c10d.is_available():
        pytest.skip("no torch.distributed")
    c10d.init_process_group("gloo", rank=0, world_size=1, store=c10d.HashStore())
    try:
        mesh = c10d.device_mesh.init_device_mesh("cpu", (1,))
        x = dist.distribute_tensor(torch.randn(4, 3), mesh, [dist.Shard(0)])
        fn = lambda x: (x * 2 + 1).relu()
        torch.testing.assert_close(lamina.compile(fn, backend=backend)(x).to_local(), fn(x).to_local())
    finally:
        c10d.destroy_process_group()
