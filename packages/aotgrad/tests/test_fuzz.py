"""Random programs of views, in-place writes and slices on inputs that may alias: equal to eager or refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lamina_aotgrad import aot_function, default, min_cut, run_graph
from lamina_dynshape.support.errors import Unsupported
from torch import Tensor

VIEWS: list[Callable[[Tensor], Tensor]] = [
    lambda t: t.t() if t.dim() == 2 else t.unsqueeze(0),
    lambda t: t[1:] if t.dim() and t.shape[0] > 2 else t[None],
    lambda t: t.reshape(-1),
    lambda t: t.view(-1) if t.is_contiguous() else t.detach(),
    lambda t: t[..., ::2] if t.dim() else t.view(1),
    lambda t: t.squeeze(0).unsqueeze(-1),
    lambda t: t.flatten().unfold(0, 2, 1) if t.numel() > 2 else t,
    lambda t: t.expand(2, *t.shape)[1],
    lambda t: t.split(1, 0)[0] if t.dim() else t,
    lambda t: t.detach(),
    lambda t: t.select(0, 0) if t.dim() else t,
    lambda t: t.diagonal() if t.dim() == 2 else t.view_as(t),
    lambda t: t.contiguous(),
]
WRITES: list[Callable[[Tensor], Any]] = [
    lambda t: t.add_(1.5),
    lambda t: t.mul_(0.5),
    lambda t: t.zero_(),
    lambda t: t.copy_(t.flip(0) if t.dim() else t + 1),
    lambda t: t.fill_(2.0),
    lambda t: t.sin_(),
    lambda t: t.clamp_(min=0),
    lambda t: t.__setitem__(0, 3.0) if t.dim() and t.shape[0] else None,
]
PURE: list[Callable[[Tensor], Tensor]] = [lambda t: t.sin(), lambda t: t * t, lambda t: t + 1, lambda t: t.clone(), lambda t: t.sum(), lambda t: t.exp().neg()]

step = st.tuples(st.sampled_from(["view", "view", "write", "pure", "binary", "no_grad_write"]), st.integers(0, 12), st.integers(0, 9), st.integers(0, 9))


def build(steps: list[tuple[str, int, int, int]], outputs: list[int]) -> Callable[..., tuple[Tensor, ...]]:
    """The program: each step reads values made so far and appends one."""

    def program(*inputs: Tensor) -> tuple[Tensor, ...]:
        values = list(inputs)
        for kind, which, a, b in steps:
            x = values[a % len(values)]
            if kind == "view":
                values.append(VIEWS[which % len(VIEWS)](x))
            elif kind == "write":
                WRITES[which % len(WRITES)](x)
            elif kind == "no_grad_write":
                with torch.no_grad():
                    WRITES[which % len(WRITES)](x)
            elif kind == "pure":
                values.append(PURE[which % len(PURE)](x))
            else:
                y = values[b % len(values)]
                values.append(x.sum() * y if x.shape != y.shape else x * y)
        return tuple(values[o % len(values)] for o in outputs)

    return program


def make(kinds: list[int]) -> list[Tensor]:
    """Inputs: plain, a leaf with gradients, a value with history, or a view of the tensor before."""
    torch.manual_seed(0)
    found: list[Tensor] = []
    for kind in kinds:
        t = torch.randn(3, 4)
        if kind == 1:
            t.requires_grad_()
        elif kind == 2:
            t = t.requires_grad_() * 2
        elif kind == 3 and found and not found[-1].requires_grad:
            t = found[-1][1:]
        found.append(t)
    return found


def outcome(program: Callable[..., Any], inputs: list[Tensor], gradients: Callable[..., Any]) -> Any:
    """Outputs, inputs, gradients; or the error of the forward, or of the backward."""
    try:
        outputs = program(*inputs)
    except (RuntimeError, IndexError) as error:
        return "forward raises", type(error), None, None
    snapshot = [t.detach().clone() for t in (*outputs, *inputs)]
    try:
        return "ok", snapshot, gradients(inputs, outputs), outputs
    except RuntimeError:
        return "backward raises", snapshot, None, outputs


@pytest.mark.parametrize("partition", [min_cut, default])
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=3), st.lists(step, min_size=1, max_size=7), st.lists(st.integers(0, 12), min_size=1, max_size=3))
def test_like_eager_or_refused(observe_all, gradients_of, partition, kinds, steps, outputs):
    program = build(steps, outputs)
    eager_inputs, inputs = make(kinds), make(kinds)
    status, values, grads, eager_outputs = outcome(program, eager_inputs, gradients_of)
    try:
        compiled = aot_function(program, make(kinds), fw_compiler=run_graph, partition=partition)
    except Unsupported:
        return
    except (RuntimeError, IndexError):
        assert status == "forward raises"
        return
    ours, our_values, our_grads, our_outputs = outcome(compiled, inputs, gradients_of)
    if status == "backward raises":  # views of several results: eager refuses some that a replay after the write can do
        return
    assert ours == status
    if status == "forward raises":
        return
    for a, b in zip(our_values, values, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
    for a, b in zip(our_grads or (), grads or (), strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a, b, equal_nan=True)
    mine, theirs = observe_all(inputs, our_outputs), observe_all(eager_inputs, eager_outputs)
    assert all(m or not e for m, e in zip(mine.pop("written"), theirs.pop("written"), strict=True))
    assert mine == theirs
