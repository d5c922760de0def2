"""Packed sequences of known lengths, written out in operators on tensors: packing, padding, and recurrent layers over them.

Between: capture, which knows the lengths -> torch calls that need no more than their values.
Keeps:   the operators of the C++ composites in their order, so that results are equal to the last bit.
Source:  ATen/native/PackedSequence.cpp, ATen/native/RNN.cpp (`PackedLayer`, `ReversedPackedLayer`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from lamina_dynshape.composites import _gru_step, _layers, _lstm_step, _rnn_step

__all__ = ["LAYERS", "pack", "pad"]


def pack(x: Tensor, lengths: Sequence[int], batch_first: bool) -> tuple[Tensor, Tensor] | None:
    """(rows that exist, time step by time step; how many there are at each step), or None where eager raises. `lengths` fall."""
    x = x.transpose(0, 1) if batch_first else x
    if not lengths or x.shape[1] != len(lengths) or min(lengths) < 1 or list(lengths) != sorted(lengths, reverse=True) or x.shape[0] < lengths[0]:
        return None
    sizes = [sum(n > t for n in lengths) for t in range(lengths[0])]
    parts, start = [], 0
    for size, run in groupby(sizes):
        stop = start + len(list(run))
        parts.append(x[start:stop, :size].reshape(-1, *x.shape[2:]))
        start = stop
    return torch.cat(parts), torch.tensor(sizes)


def pad(data: Tensor, sizes: Sequence[int], batch_first: bool, value: float, total_length: int) -> tuple[Tensor, Tensor]:
    """(padded tensor, lengths) of packed rows; `total_length` steps, or as many as there are."""
    batch, features = sizes[0], tuple(data.shape[1:])
    steps, start = [], 0
    for size, run in groupby(sizes):
        count = len(list(run))
        part = data[start : start + count * size].reshape(count, size, *features)
        start += count * size
        steps.append(part if size == batch else torch.cat([part, part.new_full((count, batch - size, *features), value)], 1))
    if total_length > len(sizes):
        steps.append(data.new_full((total_length - len(sizes), batch, *features), value))
    out = torch.cat(steps)
    lengths = [sum(b < size for size in sizes) for b in range(batch)]
    return (out.transpose(0, 1) if batch_first else out), torch.tensor(lengths)


# ---- recurrent layers ----------------------------------------------------------------------------------------------------
def _part(state: Any, start: int, stop: int) -> Any:
    return tuple(s[start:stop] for s in state) if isinstance(state, tuple) else state[start:stop]


def _join(states: Sequence[Any]) -> Any:
    return tuple(torch.cat(s) for s in zip(*states, strict=True)) if isinstance(states[0], tuple) else torch.cat(list(states))


def _over_packed(x: Tensor, weights: list[Tensor], state: Any, reverse: bool, step: Callable[..., Any], sizes: Sequence[int]) -> tuple[Tensor, Any]:
    """One direction. Forwards, sequences end and leave their state behind; backwards, they begin with theirs."""
    has_bias = len(weights) > 2
    parts = torch.nn.functional.linear(x, weights[0], weights[2] if has_bias else None).split(list(sizes))
    first, ended, outputs = state, [], []
    now = sizes[-1] if reverse else sizes[0]
    state = _part(state, 0, now)
    for part, size in list(zip(parts, sizes, strict=True))[:: -1 if reverse else 1]:
        if size > now:
            state = _join([state, _part(first, now, size)])
        elif size < now:
            ended.append(_part(state, size, now))
            state = _part(state, 0, size)
        now = size
        output, state = step(part, weights[1], weights[3] if has_bias else None, state)
        outputs.append(output)
    last = _join([state, *reversed(ended)]) if ended else state
    return torch.cat(outputs[::-1] if reverse else outputs), last


def _packed(step: Callable[..., Any], states: int) -> Callable[..., Any]:
    def form(data: Tensor, sizes: Sequence[int], hx: Any, params: Any, has_biases: bool, num_layers: int, dropout: float, train: bool, bidirectional: bool) -> Any:
        """None where eager raises, or has another layer (projections)."""
        given = tuple(hx) if states > 1 else (hx,)
        if len(params) != num_layers * (2 if bidirectional else 1) * (4 if has_biases else 2) or any(h.shape[1] != sizes[0] for h in given):
            return None

        def one(x: Tensor, w: list[Tensor], at: int, reverse: bool) -> tuple[Tensor, Any]:
            state = tuple(h[at] for h in given) if states > 1 else given[0][at]
            return _over_packed(x, w, state, reverse, step, sizes)

        y, last = _layers(data, params, has_biases, num_layers, dropout, train, bidirectional, False, one)
        if states == 1:
            return y, torch.stack(last)
        return (y, *[torch.stack([s[i] for s in last]) for i in range(states)])

    return form


LAYERS = {
    torch.lstm: _packed(_lstm_step, 2), torch.gru: _packed(_gru_step, 1),
    torch.rnn_tanh: _packed(functools.partial(_rnn_step, torch.tanh), 1), torch.rnn_relu: _packed(functools.partial(_rnn_step, torch.relu), 1),
}  # fmt: skip
