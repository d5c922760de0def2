"""`torch.utils.checkpoint` in compiled programs: eager's gradients and random stream, and no more kept than eager keeps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, checkpoint_sequential, create_selective_checkpoint_contexts

import lamina

N = 64
KEPT = N * N * 4  # bytes of one activation


def _inputs(count: int) -> list[torch.Tensor]:
    torch.manual_seed(3)
    return [(torch.randn(N, N) / 8).requires_grad_() for _ in range(count)]


def _run(fn: Callable[..., Any], inputs: list[torch.Tensor]) -> tuple[list[torch.Tensor], int]:
    """Output and gradients; bytes that a compiled graph keeps beside its inputs and outputs."""
    torch.manual_seed(11)
    out = fn(*inputs)
    alive = {t.untyped_storage().data_ptr() for t in (*inputs, out)}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in getattr(out.grad_fn, "saved_tensors", ())}
    kept = sum(size for address, size in storages.items() if address not in alive)
    out.sum().backward()
    results = [out.detach(), *[t.grad for t in inputs], torch.rand(3)]
    for t in inputs:
        t.grad = None
    return results, kept


def _check(fn: Callable[..., Any], count: int, kept: int, backend: str) -> None:
    inputs = _inputs(count)
    want, _ = _run(fn, inputs)
    compiled = lamina.compile(fn, backend=backend, fullgraph=True)
    for _ in range(2):
        got, saved = _run(compiled, inputs)
        for mine, eager in zip(got, want, strict=True):
            torch.testing.assert_close(mine, eager, rtol=1e-4, atol=1e-5)
        assert saved == kept * KEPT, f"{saved / KEPT} activations kept"


def layer(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.tanh(torch.sin(x @ w) @ w)


def _two_layers(reentrant: bool) -> Callable[..., torch.Tensor]:
    def fn(x, w, v):
        x = checkpoint(layer, x, w, use_reentrant=reentrant)
        return checkpoint(layer, x, v, use_reentrant=reentrant)

    return fn


BACKENDS = ["aot_eager", "inductor"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_only_the_inputs_of_regions_are_kept(reentrant, backend):
    _check(_two_layers(reentrant), 3, 1, backend)


def test_without_checkpoint_more_is_kept():
    _, saved = _run(lamina.compile(lambda x, w, v: layer(layer(x, w), v), backend="aot_eager"), _inputs(3))
    assert saved >= 3 * KEPT


def test_a_region_among_plain_calls():
    def fn(x, w):
        y = torch.exp(x @ w)  # kept: its own backward reads it, and the region starts from it
        z = checkpoint(layer, y, w, use_reentrant=False)
        return torch.exp(z @ w)

    _check(fn, 2, 2, "aot_eager")


def test_nested_regions_keep_what_the_outer_one_needs():
    def outer(x, w):
        return checkpoint(layer, torch.sin(checkpoint(layer, x, w, use_reentrant=False) @ w), w, use_reentrant=False)

    # kept: x @ w, which cos reads again, and the outer region's input; its output comes of the recomputation
    _check(lambda x, w: checkpoint(outer, torch.cos(x @ w), w, use_reentrant=False).sin(), 2, 2, "aot_eager")


@pytest.mark.parametrize("backend", BACKENDS)
def test_selective_policy_saves_products(backend):
    def policy(ctx, op, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE if op is torch.ops.aten.mm.default else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    # the second product is in no backward formula: tanh reads its own result, which is the output
    _check(lambda x, w: checkpoint(layer, x, w, use_reentrant=False, context_fn=contexts), 2, 1, backend)


def test_selective_list_of_operators():
    contexts = functools.partial(create_selective_checkpoint_contexts, [torch.ops.aten.sin.default])
    _check(lambda x, w: checkpoint(layer, x, w, use_reentrant=False, context_fn=contexts), 2, 1, "aot_eager")


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_draws_once_and_from_eagers_stream(backend):
    def block(x, w):
        return F.dropout(torch.sin(x @ w), 0.5) @ w

    _check(lambda x, w: checkpoint(block, x, w, use_reentrant=False).cos(), 2, 2, backend)


def test_sequential():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(*[torch.nn.Sequential(torch.nn.Linear(N, N), torch.nn.Tanh(), torch.nn.Linear(N, N), torch.nn.Tanh()) for _ in range(4)])

        def forward(self, x):
            return checkpoint_sequential(self.layers, 4, x, use_reentrant=False)

    torch.manual_seed(0)
    net = Net()
    (x,) = _inputs(1)
    want, _ = _run(net, [x])
    grads = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    got, _ = _run(lamina.compile(net, backend="aot_eager", fullgraph=True), [x])
    for mine, eager in zip((*got, *[p.grad for p in net.parameters()]), (*want, *grads), strict=True):
        torch.testing.assert_close(mine, eager)


def test_reentrant_without_differentiable_arguments_is_eagers():
    w = torch.randn(N, N, requires_grad=True)

    def fn(x):
        return checkpoint(lambda t: t @ w, x, use_reentrant=True) + 1

    x = torch.randn(N, N)
    with pytest.warns(UserWarning, match="None of the inputs"):
        assert not lamina.compile(fn, backend="aot_eager")(x).requires_grad


def test_contexts_of_the_users_break_the_graph():
    import contextlib

    entered = []

    @contextlib.contextmanager
    def note(name):
        entered.append(name)
        yield

    def fn(x):
        return checkpoint(torch.sin, x, use_reentrant=False, context_fn=lambda: (note("forward"), note("recompute"))) * 2

    x = torch.randn(4, requires_grad=True)
    lamina.compile(fn, backend="aot_eager")(x).sum().backward()
    assert entered == ["forward", "recompute"]
    torch.testing.assert_close(x.grad, 2 * x.detach().cos())
