"""Compile a function for real inputs and compare with eager by the fp64 rule."""

from __future__ import annotations

import pytest
import torch
from lamina_dynshape import FakeMode
from lamina_inductor.compile import compile_graph
from lamina_inductor.config import config
from lamina_primops import trace

THREADS = pytest.mark.parametrize("threads", [1, 2])


def compiled(fn, *args):
    """`fn` (returning a tuple) compiled for these inputs."""
    mode = FakeMode()
    fakes = [mode.from_real(a) for a in args]
    with config.patch(cache=False):
        return compile_graph(trace(lambda *a: tuple(x for x in fn(*a) if x is not None), fakes), fakes)


def same_as_eager(fn, *args, exact=False):
    """Run twice; strides as eager's, errors at most twice eager's against float64. Returns the compiled graph."""
    graph = compiled(fn, *args)
    eager = [x for x in fn(*args) if x is not None]
    wide = [a.double() if a.is_floating_point() else a for a in args]
    truth = eager if exact else [x for x in fn(*wide) if x is not None]
    for _ in range(2):
        got = graph(*args)
        assert len(got) == len(eager)
        for g, e, t in zip(got, eager, truth, strict=True):
            assert g.shape == e.shape and g.dtype == e.dtype
            assert all(a == b for n, a, b in zip(g.shape, g.stride(), e.stride(), strict=True) if n > 1) or not g.numel()
            if exact or not g.is_floating_point():
                assert torch.equal(g, e) or torch.equal(g.isnan(), e.isnan()) and torch.equal(g.nan_to_num(), e.nan_to_num())
                continue
            scale = t.abs().max().item() if t.numel() else 1.0
            own = (g.double() - t).abs().max().item() if t.numel() else 0.0
            theirs = (e.double() - t).abs().max().item() if t.numel() else 0.0
            assert own <= 2 * theirs + 4e-7 * scale * (1 if g.dtype is torch.float32 else 2**16), f"error {own}, eager {theirs}"
    return graph


@pytest.fixture
def use_threads(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    yield
    torch.set_num_threads(before)
