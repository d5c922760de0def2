"""One harness for the package's tests: run a program eagerly and through aotgrad on equal inputs, compare all that can be seen."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from lamina_aotgrad import aot_function, min_cut, run_graph
from lamina_dynshape.support.counters import counters
from torch import Tensor, fx

os.environ.setdefault("LAMINA_VERIFY", "1")
os.environ.setdefault("LAMINA_STRICT", "1")


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(sum(map(ord, request.node.name)))
    counters.clear()
    yield
    assert torch.is_grad_enabled()


def observe(inputs: Sequence[Any], outputs: Sequence[Any]) -> dict[str, Any]:
    """What a caller can see of the tensors after a call: geometry, flags, identity and sharing of memory."""
    everything = [t for t in (*inputs, *outputs) if isinstance(t, Tensor)]
    seen = {
        "layout": [(tuple(t.shape), t.stride() if t.numel() else (), t.dtype) for t in everything],
        "requires_grad": [(t.requires_grad, t.is_leaf) for t in everything],
        "same": [a is b for a, b in itertools.combinations(everything, 2)],
        "written": [t._version > 0 for t in inputs if isinstance(t, Tensor)],
    }
    shares = []
    for a, b in itertools.combinations(everything, 2):
        alias = torch._C._is_alias_of(a, b)
        shares.append((alias, b.storage_offset() - a.storage_offset() if alias else 0))
    return seen | {"shares": shares}


def gradients(inputs: Sequence[Any], outputs: Sequence[Any]) -> list[Tensor | None]:
    """Gradients of the leaf inputs under fixed random cotangents."""
    generator = torch.Generator().manual_seed(7)
    ends, cotangents = [], []
    for o in (*outputs, *inputs):
        if isinstance(o, Tensor) and o.requires_grad and not o.is_leaf and not any(o is e for e in ends):
            ends.append(o)
            cotangents.append(torch.randn(o.shape, generator=generator, dtype=o.dtype))
    if ends:
        torch.autograd.backward(ends, cotangents)
    return [t.grad for t in inputs if isinstance(t, Tensor) and t.is_leaf]


def _as_tuple(out: Any) -> tuple[Any, ...]:
    return tuple(out) if isinstance(out, (tuple, list)) else (out,)


def check_same(
    fn: Callable[..., Any], make: Callable[[], Sequence[Any]], *, graph: bool = False, calls: int = 2, compiler: Any = run_graph,
    partition: Any = min_cut, exact: bool = True, sees: bool = True,
) -> Callable[..., Any]:
    """Compare `fn` with itself through aotgrad, called twice; `make` gives fresh equal inputs when seeded equally. The compiled callable."""
    close = dict(rtol=0, atol=0) if exact else {}
    compiled = None
    for call in range(calls):
        torch.manual_seed(call)
        inputs = list(make())
        torch.manual_seed(100)
        outputs = _as_tuple(fn(*inputs))
        stream = torch.get_rng_state()
        torch.manual_seed(call)
        ours = list(make())
        if compiled is None:
            torch.manual_seed(call)
            target = fx.symbolic_trace(fn) if graph else fn
            compiled = aot_function(target, list(make()), fw_compiler=compiler, partition=partition)
        torch.manual_seed(100)
        results = _as_tuple(compiled(*ours))
        assert torch.equal(torch.get_rng_state(), stream), "random stream"
        assert len(results) == len(outputs)
        for mine, eager in zip((*results, *ours), (*outputs, *inputs), strict=True):
            if isinstance(eager, Tensor):
                torch.testing.assert_close(mine, eager, equal_nan=True, **close)
            else:
                assert mine == eager
        if sees:
            mine, eager = observe(ours, results), observe(inputs, outputs)
            # eager's batch norm writes its statistics without counting it; we count
            assert all(m or not e for m, e in zip(mine.pop("written"), eager.pop("written"), strict=True))
            assert mine == eager
        for mine, eager in zip(gradients(ours, results), gradients(inputs, outputs), strict=True):
            assert (mine is None) == (eager is None)
            if eager is not None:
                torch.testing.assert_close(mine, eager, equal_nan=True, **close)
    return compiled


@pytest.fixture
def same() -> Callable[..., Any]:
    return check_same


@pytest.fixture
def gradients_of() -> Callable[..., Any]:
    return gradients


@pytest.fixture
def observe_all() -> Callable[..., Any]:
    return observe
