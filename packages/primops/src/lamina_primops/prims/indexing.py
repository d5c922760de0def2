"""Data-dependent reads and writes. Index tensors are int64 or int32; boolean masks are gone before.

`gather`, `scatter`, `index_select`: indices in 0..size-1. `index`, `index_put`: NumPy's rule, negative indices wrap. Out of range raises.
`scatter` and `index_put` without accumulation leave it open which of several writes to one place wins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .registry import register
from .spec import Int, Spec, TensorLike, check_dim, contiguous, dense_like, same_sizes

__all__ = ["REDUCE", "index_shape"]

REDUCE = ("set", "add", "mul", "amax", "amin")
_INDEX = frozenset({torch.int64, torch.int32})
_SCATTER = {"add": "sum", "mul": "prod", "amax": "amax", "amin": "amin"}


def _check_index(name: str, index: TensorLike) -> None:
    if index.dtype not in _INDEX:
        raise TypeError(f"{name}: the index has {index.dtype}, not int64 or int32")


def _gather_meta(x: TensorLike, dim: int, index: TensorLike) -> Spec:
    _check_index("gather", index)
    if index.ndim != x.ndim:
        raise ValueError(f"gather: the index has rank {index.ndim}, the operand {x.ndim}")
    check_dim(dim, x.ndim)
    return Spec(tuple(index.shape), dense_like(index.shape, (index,)), x.dtype, x.device)


def index_shape(x: TensorLike, indices: Sequence[TensorLike | None]) -> tuple[Int, ...]:
    """Shape of x[indices] by NumPy's rule: adjacent index tensors put their common shape in their place, separated ones in front."""
    used = [d for d, i in enumerate(indices) if i is not None]
    if not used:
        raise ValueError("index: no index tensor")
    if len(indices) > x.ndim:
        raise ValueError(f"index: {len(indices)} indices for rank {x.ndim}")
    common = tuple(indices[used[0]].shape)  # type: ignore[union-attr]
    for d in used:
        i = indices[d]
        _check_index("index", i)  # type: ignore[arg-type]
        if not same_sizes(i.shape, common):  # type: ignore[union-attr]
            raise ValueError(f"index: index tensors have shapes {common} and {tuple(i.shape)}; broadcast is explicit")  # type: ignore[union-attr]
    rest = [d for d in range(x.ndim) if d not in used]
    if used[-1] - used[0] + 1 != len(used):
        return (*common, *(x.shape[d] for d in rest))
    before, after = [d for d in rest if d < used[0]], [d for d in rest if d > used[0]]
    return (*(x.shape[d] for d in before), *common, *(x.shape[d] for d in after))


def _index_meta(x: TensorLike, indices: Sequence[TensorLike | None]) -> Spec:
    shape = index_shape(x, indices)
    return Spec(shape, contiguous(shape), x.dtype, x.device)


def _scatter_meta(x: TensorLike, dim: int, index: TensorLike, src: TensorLike, reduce: str) -> Spec:
    _check_index("scatter", index)
    if reduce not in REDUCE:
        raise ValueError(f"scatter: unknown reduction {reduce!r}; one of {', '.join(REDUCE)}")
    if x.dtype is not src.dtype:
        raise TypeError(f"scatter: operands have {x.dtype} and {src.dtype}; conversion is explicit")
    if not x.ndim == index.ndim == src.ndim:
        raise ValueError(f"scatter: ranks {x.ndim}, {index.ndim} and {src.ndim} differ")
    check_dim(dim, x.ndim)
    return Spec(tuple(x.shape), contiguous(x.shape), x.dtype, x.device)


def _scatter(x: torch.Tensor, dim: int, index: torch.Tensor, src: torch.Tensor, reduce: str) -> torch.Tensor:
    index = index.long()
    if reduce == "set":
        return torch.scatter(x, dim, index, src)
    return torch.scatter_reduce(x, dim, index, src, _SCATTER[reduce], include_self=True)


def _index_put_meta(x: TensorLike, indices: Sequence[TensorLike | None], values: TensorLike, accumulate: bool) -> Spec:
    shape = index_shape(x, indices)
    if x.dtype is not values.dtype:
        raise TypeError(f"index_put: operands have {x.dtype} and {values.dtype}; conversion is explicit")
    if not same_sizes(values.shape, shape):
        raise ValueError(f"index_put: the values have shape {tuple(values.shape)}, the place {shape}; broadcast is explicit")
    return Spec(tuple(x.shape), contiguous(x.shape), x.dtype, x.device)


def _index_select_meta(x: TensorLike, dim: int, index: TensorLike) -> Spec:
    _check_index("index_select", index)
    check_dim(dim, x.ndim)
    if index.ndim != 1:
        raise ValueError(f"index_select: the index has rank {index.ndim}, not 1")
    shape = (*x.shape[:dim], index.shape[0], *x.shape[dim + 1 :])
    return Spec(shape, contiguous(shape), x.dtype, x.device)


register(
    "gather(Tensor x, int dim, Tensor index) -> Tensor", "indexing", meta=_gather_meta, reference=lambda x, dim, index: torch.gather(x, dim, index.long()),
    doc="element [.., index[..], ..] of x at every place of index; same rank",
)  # fmt: skip
register(
    "index(Tensor x, Tensor?[] indices) -> Tensor", "indexing", meta=_index_meta, reference=lambda x, indices: torch.ops.aten.index.Tensor(x, list(indices)),
    doc="x[indices], None for a whole dimension; index tensors have one shape; negative indices wrap",
)  # fmt: skip
register(
    "scatter(Tensor x, int dim, Tensor index, Tensor src, str reduce) -> Tensor", "indexing", meta=_scatter_meta, reference=_scatter,
    doc="x with src combined into [.., index[..], ..] by reduce: set, add, mul, amax or amin",
)  # fmt: skip
register(
    "index_put(Tensor x, Tensor?[] indices, Tensor values, bool accumulate) -> Tensor", "indexing", meta=_index_put_meta,
    reference=lambda x, indices, values, accumulate: torch.ops.aten.index_put.default(x, list(indices), values, accumulate),
    doc="x with values written (or added) at x[indices]; values have exactly that shape",
)  # fmt: skip
register(
    "index_select(Tensor x, int dim, Tensor index) -> Tensor", "indexing", meta=_index_select_meta,
    reference=lambda x, dim, index: torch.index_select(x, dim, index), doc="rows of x along dim; index has rank 1",
)  # fmt: skip
