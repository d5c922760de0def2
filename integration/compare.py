"""Is a result correct: its distance from a float64 run may be at most twice that of eager float32, plus a small part of the spread.

Float64 eager decides whose rounding error is larger, so that neither order of summation is punished.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["compare", "flatten"]


def flatten(value: Any, path: str = "out") -> dict[str, torch.Tensor]:
    """All tensors of a nested output, by path."""
    if isinstance(value, torch.Tensor):
        return {path: value.detach()}
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {k: v for key, item in value.items() for k, v in flatten(item, f"{path}.{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for index, item in enumerate(value) for k, v in flatten(item, f"{path}.{index}").items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return flatten(fields, path)
    return {}


def compare(got: Any, eager: Any, exact: Any, *, factor: float = 2.0, share: float = 1e-3) -> str | None:
    """None if `got` is as good as `eager` measured against the float64 run `exact`, else what differs first."""
    got, eager, exact = flatten(got), flatten(eager), flatten(exact)
    if got.keys() != eager.keys():
        return f"other outputs: {sorted(got.keys() ^ eager.keys())[:4]}"
    for path, reference in eager.items():
        said = _differs(got[path], reference, exact.get(path), factor, share)
        if said:
            return f"{path}: {said}"
    return None


def _differs(got: torch.Tensor, eager: torch.Tensor, exact: torch.Tensor | None, factor: float, share: float) -> str | None:
    if got.shape != eager.shape or got.dtype != eager.dtype:
        return f"{got.dtype}{tuple(got.shape)}, eager {eager.dtype}{tuple(eager.shape)}"
    if not eager.is_floating_point() or exact is None or exact.shape != eager.shape:
        return None if torch.equal(got, eager) or _close(got, eager) else "values differ"
    if not torch.equal(got.isfinite(), eager.isfinite()):
        return "infinities or NaN differ"
    finite = eager.isfinite()
    target = exact.double()[finite]
    if target.numel() == 0:
        return None
    error, own = (float((t.double()[finite] - target).pow(2).mean().sqrt()) for t in (got, eager))
    spread = float(target.std()) if target.numel() > 1 else float(target.abs().max())
    allowed = factor * own + share * max(spread, 1e-12)
    return None if error <= allowed else f"error {error:.2e}, eager's {own:.2e}, allowed {allowed:.2e}"


def _close(got: torch.Tensor, eager: torch.Tensor) -> bool:
    return eager.is_floating_point() and torch.allclose(got, eager, rtol=1e-4, atol=1e-5, equal_nan=True)
