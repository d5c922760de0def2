"""Eager as an implementation for the zoo's harness, as a control: what its figures say of an implementation that changes nothing, measured where a compiler is.

    python ../shared/zoo/bench.py --what train --impl eager,integration.zoo_eager --sample 12 --seed 1 --threads 1 --json control.json
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def compile(fn: Any, **options: Any) -> Any:
    """The function itself."""
    return fn


def reset() -> None:
    """Nothing is kept."""


def explain(fn: Any) -> Any:
    """No graphs."""
    return lambda *args, **kwargs: SimpleNamespace(graph_count=0, graph_break_count=0)
