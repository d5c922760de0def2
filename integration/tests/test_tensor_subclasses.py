"""Tensors that compiled code meets and that are not plain ones: wrapper subclasses, sparse and nested tensors. Eager's results, and a recorded reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lamina
from integration.wrapper_programs import IN_PARTS, WHOLE, ScaledInt8, TwoTensor, flat, randn, two

BACKENDS = ["aot_eager", "inductor"]


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
        lamina.counters.clear()
        w = dist.distribute_tensor(torch.randn(3), mesh, [dist.Replicate()]).requires_grad_()
        trained = lambda w: (x * w).sin().sum()
        found = []
        for f in (trained, lamina.compile(trained, backend=backend)):
            w.grad = None
            f(w).backward()
            found.append(w.grad)
        assert type(found[1]) is type(found[0])
        torch.testing.assert_close(found[1].to_local(), found[0].to_local())
        assert lamina.counters["graph_breaks"]["tensor-subclass"]
    finally:
        c10d.destroy_process_group()


# ---- programs on wrappers ----------------------------------------------------------------------------------------------
def assert_same(mine: Any, eager: Any) -> None:
    assert type(mine) is type(eager)
    if isinstance(eager, list):
        assert len(mine) == len(eager)
        for m, e in zip(mine, eager, strict=True):
            assert_same(m, e)
    elif isinstance(eager, Tensor):
        assert mine.stride() == eager.stride()
        torch.testing.assert_close(mine, eager)
    else:
        assert mine == eager


def check(program: Any, compile: Any) -> None:
    """Values, gradients and classes as in eager, twice."""
    torch.manual_seed(0)
    want = flat(program(lambda fn: fn))
    lamina.counters.clear()
    for _ in range(2):
        torch.manual_seed(0)
        assert_same(flat(program(compile)), want)


@pytest.mark.parametrize("program", WHOLE)
@pytest.mark.parametrize("backend", BACKENDS)
def test_whole(backend, program):
    check(WHOLE[program], lambda fn: lamina.compile(fn, backend=backend, fullgraph=True))
    assert not lamina.counters["graph_breaks"] and all(reason.startswith("aten.") for reason in lamina.counters["fallbacks"])


@pytest.mark.parametrize("program", IN_PARTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_in_parts(backend, program):
    check(IN_PARTS[program], lambda fn: lamina.compile(fn, backend=backend))
    assert lamina.counters["graph_breaks"] or lamina.counters["fallbacks"], "no reason recorded"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_of_a_class_that_the_frame_never_met_is_an_error(backend):
    x = randn(3, requires_grad=True)
    y = lamina.compile(lambda x: x * 2, backend=backend)(x)
    with pytest.raises(RuntimeError, match="gradients of other classes than TwoTensor"):
        (y * two(3)).sum().backward()
