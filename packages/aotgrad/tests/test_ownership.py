"""Saved tensors live as long as eager keeps them: each dies after its last use in the backward, unless the graph is retained."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from lamina_aotgrad import aot_function, run_graph
from lamina_aotgrad.partition import min_cut

dead: list[int] = []
seen: list[int] = []


@pytest.fixture(autouse=True)
def _library() -> Iterator[None]:
    """`mark(x)`: the identity; its backward notes how many saved tensors are gone by then."""
    dead.clear()
    seen.clear()
    with torch.library._scoped_library("lamina_own", "DEF") as library:
        library.define("mark(Tensor x) -> Tensor")
        library.define("note(Tensor x) -> Tensor")
        for key in ("Meta", "CPU"):
            library.impl("mark", lambda x: x.clone(), key)
        library.impl("note", lambda x: x.clone(), "Meta")
        library.impl("note", lambda x: (seen.append(len(dead)), x.clone())[1], "CPU")

        class Mark(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return torch.ops.lamina_own.mark(x)

            @staticmethod
            def backward(ctx, g):
                return torch.ops.lamina_own.note(g)

        program.mark = Mark.apply  # type: ignore[attr-defined]
        yield


def program(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor]:
    for _ in range(3):
        x = program.mark(torch.mm(x.sin(), w))  # type: ignore[attr-defined]
    return (x.sum(),)


def _unpack(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that only the backward holds."""
    fresh = tensor.clone()
    weakref.finalize(fresh, dead.append, 1)
    return fresh


def _backward(fn, retain: bool) -> list[torch.Tensor]:
    torch.manual_seed(0)
    inputs = [torch.randn(4, 4, requires_grad=True) for _ in range(2)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), _unpack):
        (out,) = fn(*inputs)
    grads = torch.autograd.grad(out, inputs, retain_graph=retain)
    gc.collect()
    return list(grads)


@pytest.mark.parametrize("retain", [False, True])
def test_each_saved_tensor_dies_after_its_last_use(retain):
    compiled = aot_function(program, [torch.randn(4, 4, requires_grad=True) for _ in range(2)], fw_compiler=run_graph)
    grads = _backward(compiled, retain)
    ours = seen[:]
    assert len(ours) == 3
    assert ours[0] < ours[1] < ours[2], f"saved tensors that were gone at each step: {ours}"
    for mine, eager in zip(grads, _backward(program, retain), strict=True):
        torch.testing.assert_close(mine, eager)


def test_a_backward_that_takes_positional_arguments_works_as_before():
    def compiler(gm, fakes, *, kind, signature):
        return lambda *args: gm.forward(*args)

    compiled = aot_function(program, [torch.randn(4, 4, requires_grad=True) for _ in range(2)], fw_compiler=compiler)
    for mine, eager in zip(_backward(compiled, False), _backward(program, False), strict=True):
        torch.testing.assert_close(mine, eager)


def test_second_backward_needs_a_retained_graph():
    compiled = aot_function(program, [torch.randn(4, 4, requires_grad=True) for _ in range(2)], fw_compiler=run_graph)
    inputs = [torch.randn(4, 4, requires_grad=True) for _ in range(2)]
    (out,) = compiled(*inputs)
    first = torch.autograd.grad(out, inputs, retain_graph=True)
    second = torch.autograd.grad(out, inputs)
    assert all(map(torch.equal, first, second))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(out, inputs)


def test_the_joint_graph_is_gone_when_its_halves_are_compiled():
    joints: list[weakref.ref] = []
    alive: list[bool] = []

    def partition(joint):
        joints.append(weakref.ref(joint.graph_module))
        return min_cut(joint)

    def compiler(gm, fakes, *, kind, signature):
        gc.collect()
        alive.append(joints[0]() is not None)
        return run_graph(gm, fakes, kind=kind, signature=signature)

    x = torch.ones(3, requires_grad=True)
    compiled = aot_function(lambda v: (v.sin().exp(),), [x], fw_compiler=compiler, partition=partition)
    compiled(x)[0].sum().backward()
    assert alive == [False, False]
    torch.testing.assert_close(x.grad, torch.ones(3).cos() * torch.ones(3).sin().exp())
