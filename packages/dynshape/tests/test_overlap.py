"""Writes to memory that overlaps: fakes raise what eager raises, before anything runs."""

from __future__ import annotations

import pytest
import torch
from lamina_dynshape import FakeMode, ShapeEnv

WRITES = [
    lambda x: x.add_(x), lambda x: x.add_(x.view(-1)[:1]), lambda x: x[:3, :3].add_(x[:3, :3].t()), lambda x: x[0].add_(x[1]), lambda x: x[0].add_(x.view(-1)[:4]),
    lambda x: x.view(-1)[1:].add_(x.view(-1)[:-1]), lambda x: x[:1].expand(3, 4).add_(1), lambda x: x[:1].expand(3, 4).fill_(2), lambda x: x[:1].expand(3, 4).zero_(),
    lambda x: x[:1].expand(3, 4).copy_(torch.ones(3, 4)), lambda x: x.view(-1)[1:].copy_(x.view(-1)[:-1]), lambda x: x[:1].expand(3, 4).relu_(), lambda x: x[:1].expand(3, 4).clamp_(1),
    lambda x: x.addcmul_(x.view(-1)[:1], x), lambda x: x.lerp_(x.view(-1)[:1], 0.5), lambda x: x.div_(x[0]), lambda x: x.sub_(x[:, :1]), lambda x: x.t().add_(x.t()), lambda x: x[:1].expand(3, 4).normal_(),
    lambda x: x[:, :0].add_(x[:, :0]), lambda x: x[:, ::2].add_(x[:, 1::2]), lambda x: x[:, ::2].add_(x[:, :2]), lambda x: x.pow_(x[0]), lambda x: x[:1].expand(3, 4).pow_(2), lambda x: x.eq_(x[0]),
    lambda x: torch.threshold_(x[:1].expand(3, 4), 1.0, 1.0), lambda x: x[:1].expand(3, 4).conj_physical_(), lambda x: x[:1, :1].add_(x), lambda x: x.copy_(x), lambda x: x.add_(x.view(torch.int32)[0]),
]  # fmt: skip


def outcome(write, x):
    try:
        write(x)
    except RuntimeError as e:
        return str(e)
    return None


@pytest.mark.parametrize("number", range(len(WRITES)))
def test_overlapping_writes_raise_as_in_eager(number):
    x = torch.arange(12.0).reshape(3, 4)
    mode = FakeMode(allow_real=True)
    fake = mode.from_real(x)
    with mode:
        got = outcome(WRITES[number], fake)
    assert got == outcome(WRITES[number], x)


@pytest.mark.parametrize("number", [n for n in range(len(WRITES)) if n not in (2, 7, 8)])
def test_overlapping_writes_raise_at_symbolic_sizes(number):
    x = torch.arange(20.0).reshape(4, 5)[:3, :4].contiguous()
    mode = FakeMode(ShapeEnv(), allow_real=True)
    fake = mode.from_real(x, source="x", dynamic_dims=(0, 1))
    with mode:
        got = outcome(WRITES[number], fake)
    assert (got is None) == (outcome(WRITES[number], x) is None)
