"""Shared by the tests: compile a function through the tracer and compare with eager and the reference interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lamina_dynshape import FakeMode
from lamina_inductor.compile import CompiledGraph, build_loops, compile_prims
from lamina_inductor.ir.interp import interpret_loops
from lamina_inductor.ir.nodes import LoopGraph
from lamina_inductor.ir.printer import parse_loops, print_loops
from lamina_inductor.ir.verify import verify_loops
from lamina_primops import lower, trace


def prims_of(fn: Callable[..., Any], *inputs: Any) -> torch.fx.GraphModule:
    mode = FakeMode()
    fakes = [mode.from_real(t) if isinstance(t, torch.Tensor) else t for t in inputs]
    return lower(trace(fn, fakes))


def loops_of(fn: Callable[..., Any], *inputs: Any) -> LoopGraph:
    graph = build_loops(prims_of(fn, *inputs))
    verify_loops(graph, level=3)
    return graph


def assert_same(got: Any, want: Any, *, tol: float = 2e-5) -> None:
    want = want if isinstance(want, (tuple, list)) else (want,)
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        low = w.dtype in (torch.bfloat16, torch.float16)
        if w.dtype.is_floating_point:
            torch.testing.assert_close(g, w, equal_nan=True, rtol=1e-2 if low else tol, atol=1e-2 if low else tol)
        else:
            assert torch.equal(g, w)


def check(fn: Callable[..., Any], *inputs: Any, kernels: int | None = None, fallbacks: int = 0, tol: float = 2e-5, reference: bool = True) -> CompiledGraph:
    """Compile and run `fn` twice; compare with eager, with the interpreter, and with the expected counts."""
    want = fn(*inputs)
    prims = prims_of(fn, *inputs)
    graph = build_loops(prims)
    verify_loops(graph, level=3)
    text = print_loops(graph)
    again = parse_loops(text, externs={n.name: n for n in graph.nodes if not hasattr(n, "effect")})
    assert print_loops(again) == text
    if reference:
        assert_same(interpret_loops(graph, inputs), want, tol=tol)
    compiled = compile_prims(prims)
    assert_same(compiled(*inputs), want, tol=tol)
    got = compiled(*inputs)
    assert_same(got, want, tol=tol)
    for g, w in zip(got, want if isinstance(want, (tuple, list)) else (want,), strict=True):
        assert all(a == b or n == 1 for n, a, b in zip(w.shape, g.stride(), w.stride(), strict=True)) or w.numel() == 0
    if kernels is not None:
        assert compiled.data.kernel_calls == kernels, compiled.source
    assert len(compiled.fallbacks) == fallbacks, compiled.fallbacks
    return compiled
