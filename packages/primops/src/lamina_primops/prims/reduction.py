"""Reduction prims. Dims are canonical, distinct and not empty; the caller lists all of them for a full reduction.

Accumulation: float32 sums may be reordered and vectorised freely, in float32 or wider; low-precision floats are converted to float32 before.
`argmax`, `argmin`: the first occurrence; a NaN wins. `amax`, `amin` propagate NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .registry import register
from .spec import DtypeNotTaken, Int, Spec, TensorLike, check_dim, contiguous

__all__ = ["reduced_shape"]

_BOOL = frozenset({torch.bool})
_INT = frozenset({torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8})
_FLOAT = frozenset({torch.float32, torch.float64})
_LOW = frozenset({torch.float16, torch.bfloat16})


def reduced_shape(shape: Sequence[Int], dims: Sequence[int], keepdim: bool) -> tuple[Int, ...]:
    """`shape` after reducing `dims`."""
    if keepdim:
        return tuple(1 if d in dims else s for d, s in enumerate(shape))
    return tuple(s for d, s in enumerate(shape) if d not in dims)


def _check(name: str, x: TensorLike, dims: Sequence[int], domain: frozenset[torch.dtype]) -> None:
    if x.dtype not in domain:
        raise DtypeNotTaken(f"{name} does not take {x.dtype}; convert first")
    if len(dims) == 0:
        raise ValueError(f"{name}: no dimensions to reduce")
    for d in dims:
        check_dim(d, x.ndim)
    if len(set(dims)) != len(dims):
        raise ValueError(f"{name}: {tuple(dims)} repeats a dimension")


def _reduction_meta(name: str, domain: frozenset[torch.dtype]) -> Callable[..., Spec]:
    def meta(x: TensorLike, dims: Sequence[int], keepdim: bool) -> Spec:
        _check(name, x, dims, domain)
        shape = reduced_shape(x.shape, dims, keepdim)
        return Spec(shape, contiguous(shape), x.dtype, x.device)

    return meta


def _arg_meta(name: str) -> Callable[..., Spec]:
    def meta(x: TensorLike, dim: int, keepdim: bool) -> Spec:
        _check(name, x, (dim,), _FLOAT | _INT | _LOW)
        shape = reduced_shape(x.shape, (dim,), keepdim)
        return Spec(shape, contiguous(shape), torch.int64, x.device)

    return meta


def _var_mean_meta(x: TensorLike, dims: Sequence[int], correction: Any, keepdim: bool) -> tuple[Spec, Spec]:
    _check("var_mean", x, dims, _FLOAT)
    shape = reduced_shape(x.shape, dims, keepdim)
    spec = Spec(shape, contiguous(shape), x.dtype, x.device)
    return spec, spec


def _prod(x: torch.Tensor, dims: Sequence[int], keepdim: bool) -> torch.Tensor:
    for d in sorted(dims, reverse=True):
        x = torch.prod(x, d, keepdim, dtype=x.dtype)
    return x


def _first(pick: Callable[..., Any]) -> Callable[..., Any]:
    # torch.argmax does not promise which of equal elements it returns; compare with the extreme and take the first True
    def reference(x: torch.Tensor, dim: int, keepdim: bool) -> torch.Tensor:
        best = pick(x, dim, keepdim=True)
        hit = x == best if not x.dtype.is_floating_point else (x == best) | (torch.isnan(x) & torch.isnan(best))
        positions = torch.arange(x.shape[dim], device=x.device).reshape([-1 if d == dim else 1 for d in range(x.ndim)])
        return torch.where(hit, positions, x.shape[dim]).amin(dim, keepdim=keepdim)

    return reference


for _name, _domain, _fn, _doc in (
    ("sum", _FLOAT | _INT, lambda x, dims, keepdim: torch.sum(x, dims, keepdim, dtype=x.dtype), "sum in the operand's dtype; integers wrap"),
    ("prod", _FLOAT | _INT, _prod, "product in the operand's dtype"),
    ("amax", _FLOAT | _INT | _LOW | _BOOL, lambda x, dims, keepdim: torch.amax(x, dims, keepdim), "largest element; NaN if there is one"),
    ("amin", _FLOAT | _INT | _LOW | _BOOL, lambda x, dims, keepdim: torch.amin(x, dims, keepdim), "smallest element; NaN if there is one"),
    ("any", _BOOL, lambda x, dims, keepdim: torch.any(x, dims, keepdim), "whether some element is True"),
    ("all", _BOOL, lambda x, dims, keepdim: torch.all(x, dims, keepdim), "whether every element is True"),
):
    register(f"{_name}(Tensor x, int[] dims, bool keepdim) -> Tensor", "reduction", meta=_reduction_meta(_name, _domain), reference=_fn, doc=_doc)
for _name, _pick in (("argmax", torch.amax), ("argmin", torch.amin)):
    register(
        f"{_name}(Tensor x, int dim, bool keepdim) -> Tensor", "reduction", meta=_arg_meta(_name), reference=_first(_pick),
        doc=f"int64 position of the {'largest' if _name == 'argmax' else 'smallest'} element, the first of equal ones; NaN wins",
    )  # fmt: skip
register(
    "var_mean(Tensor x, int[] dims, Scalar correction, bool keepdim) -> (Tensor, Tensor)", "reduction", meta=_var_mean_meta,
    reference=lambda x, dims, correction, keepdim: torch.var_mean(x, dims, correction=correction, keepdim=keepdim),
    doc="(sum((x-mean)**2) / max(0, n-correction), mean), numerically stable (Welford or two passes)",
)  # fmt: skip
