"""One harness for the package's tests: run a program eagerly and through aotgrad on equal inputs, compare all that can be seen."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from lamina_aotgrad import aot_function, min_cut, run_graph
from lamina_dynshape.support.counters import counters
from torch import Tensor, fx

sys.path.insert(0, os.path.dirname(__file__))
from observing import gradients, observe  # noqa: E402

os.environ.setdefault("LAMINA_VERIFY", "1")
os.environ.setdefault("LAMINA_STRICT", "1")


@pytest.fixture(autouse=True)
def _clean(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(sum(map(ord, request.node.name)))
    counters.clear()
    yield
    assert torch.is_grad_enabled()


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
