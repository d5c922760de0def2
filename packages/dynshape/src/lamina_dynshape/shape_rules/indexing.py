"""Indexing, gather and scatter, embedding."""

from __future__ import annotations

from typing import Any

import torch

from lamina_dynshape import boolean as B
from lamina_dynshape.dims import eq
from lamina_dynshape.fake_tensor import DataDependent
from lamina_dynshape.layout import broadcast, contiguous, dense_like
from lamina_dynshape.shape_rules.registry import rule
from lamina_dynshape.shape_rules.views import wrap_dim


def _fresh(mode: Any, sizes: Any, like: Any, dtype: Any = None) -> Any:
    return mode.make(sizes, contiguous(sizes), dtype or like.scalar_type, like.dev)


def _copy(mode: Any, x: Any) -> Any:
    return mode.make(x.sizes, dense_like(x.sizes, x.strides), x.scalar_type, x.dev)


# -- advanced indexing --------------------------------------------------------------------------------------------------------
_MASKS = (torch.bool, torch.uint8)


def _check_masks(x: Any, indices: Any) -> None:
    """A mask has the sizes of the dimensions that it selects from."""
    dim = 0
    for index in indices:
        if index is None or index.scalar_type not in _MASKS:
            dim += 1
            continue
        if dim + len(index.sizes) > len(x.sizes):
            raise IndexError(f"too many indices for tensor of dimension {len(x.sizes)}")
        for at, size in enumerate(index.sizes):
            if not eq(size, x.sizes[dim + at]):
                raise IndexError(f"The shape of the mask {list(index.sizes)} at index {at} does not match the shape of the indexed tensor {list(x.sizes)} at index {dim + at}")
        dim += len(index.sizes)


def _expand_masks(mode: Any, x: Any, indices: Any) -> list[Any]:
    """Boolean masks become the int64 indices of their true elements, one per dimension: an unbacked length."""
    _check_masks(x, indices)
    result: list[Any] = []
    for index in indices:
        if index is None or index.scalar_type not in _MASKS:
            result.append(index)
            continue
        if not mode.has_unbacked():
            raise DataDependent("data-dependent size of boolean-mask indexing", saw=repr(index), hint="torch.where or masked_fill keep the size")
        count = mode.unbacked_size(index.sizes)
        result += [mode.make((count,), (1,), torch.int64, index.dev) for _ in index.sizes]
    return result


def _indexed(mode: Any, x: Any, indices: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """(sizes, strides) of x[indices].

    Source: ATen/native/TensorAdvancedIndexing.cpp: indexed dimensions move to the front unless adjacent; the result is laid out
    by TensorIterator over the restrided input and the indices.
    """
    from lamina_dynshape.layout import iterator_strides

    if len(indices) > len(x.sizes):
        raise IndexError(f"too many indices for tensor of dimension {len(x.sizes)}")
    dims = [d for d, i in enumerate(indices) if i is not None]
    shape: tuple[Any, ...] = ()
    for d in dims:
        try:
            shape = broadcast(shape, indices[d].sizes)
        except RuntimeError:
            shapes = ", ".join(str(list(indices[d].sizes)) for d in dims)
            raise IndexError(f"shape mismatch: indexing tensors could not be broadcast together with shapes {shapes}") from None
    rank = len(x.sizes)
    order = list(range(rank))
    if dims and dims != list(range(dims[0], dims[-1] + 1)):
        order = dims + [d for d in range(rank) if d not in dims]
    sizes = [x.sizes[d] for d in order]
    strides = [x.strides[d] for d in order]
    first = 0 if order != list(range(rank)) else dims[0] if dims else 0
    last = first + len(dims)
    out = (*sizes[:first], *shape, *sizes[last:])
    # The input takes part with stride 0 in the indexed dimensions, an index with size 1 in the others.
    source = (*strides[:first], *(0 for _ in shape), *strides[last:])
    operands = [(out, source)]
    for d in dims:
        own = (1,) * first + (1,) * (len(shape) - len(indices[d].sizes)) + indices[d].sizes + (1,) * (rank - last)
        expanded = _index_strides(indices[d], first, len(shape), rank - last)
        operands.append((own, expanded))
    return iterator_strides(tuple(operands), False)


def _index_strides(index: Any, before: int, rank: int, after: int) -> tuple[Any, ...]:
    return (0,) * before + (0,) * (rank - len(index.sizes)) + tuple(index.strides) + (0,) * after


@rule("index.Tensor", "_unsafe_index.Tensor")
def _index(mode: Any, x: Any, indices: Any) -> Any:
    indices = _expand_masks(mode, x, indices)
    sizes, strides = _indexed(mode, x, indices)
    return mode.make(sizes, strides, x.scalar_type, x.dev)


@rule("index_put_", "_index_put_impl_", "_unsafe_index_put_")
def _index_put_inplace(mode: Any, x: Any, indices: Any, values: Any, accumulate: bool = False, unsafe: bool = False) -> Any:
    _check_masks(x, indices)
    return x


@rule("index_put", "_unsafe_index_put", "_index_put_impl")
def _index_put(mode: Any, x: Any, indices: Any, values: Any, accumulate: bool = False, unsafe: bool = False) -> Any:
    _check_masks(x, indices)
    return _copy(mode, x)


@rule("index_select")
def _index_select(mode: Any, x: Any, dim: int, index: Any) -> Any:
    if len(index.sizes) > 1:
        raise IndexError("index_select(): Index is supposed to be a vector")
    count = index.sizes[0] if index.sizes else 1
    if not x.sizes:
        if type(count) is not int:
            mode.shape_env.expect_true(B.eq(count, 1), "index_select(): Index to scalar can have only 1 value")
        return _fresh(mode, (), x)
    d = wrap_dim(dim, len(x.sizes))
    return _fresh(mode, (*x.sizes[:d], count, *x.sizes[d + 1 :]), x)


@rule("embedding")
def _embedding(mode: Any, weight: Any, index: Any, padding_idx: Any = -1, scale_grad_by_freq: bool = False, sparse: bool = False) -> Any:
    if len(weight.sizes) != 2:
        raise RuntimeError("'weight' must be 2-D")
    return _fresh(mode, (*index.sizes, weight.sizes[1]), weight)


@rule("embedding_dense_backward")
def _embedding_backward(mode: Any, grad: Any, index: Any, count: Any, padding_idx: Any, scale_grad_by_freq: bool) -> Any:
    return _fresh(mode, (mode.dim(count), grad.sizes[-1]), grad)


@rule("embedding_renorm_")
def _embedding_renorm(mode: Any, weight: Any, *args: Any) -> Any:
    return weight


@rule("gather")
def _gather(mode: Any, x: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    wrap_dim(dim, len(x.sizes))
    return _fresh(mode, index.sizes, x)


@rule("take")
def _take(mode: Any, x: Any, index: Any) -> Any:
    return _fresh(mode, index.sizes, x)


@rule("scatter.src", "scatter.value", "scatter.reduce", "scatter.value_reduce", "scatter_add", "scatter_reduce.two", "index_add", "index_copy",
      "index_reduce")
def _scatter(mode: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return _fresh(mode, x.sizes, x)


@rule("index_fill.int_Scalar", "index_fill.int_Tensor", "put")
def _index_fill(mode: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return _copy(mode, x)


@rule("masked_scatter")
def _masked_scatter(mode: Any, x: Any, mask: Any, source: Any) -> Any:
    return _fresh(mode, broadcast(x.sizes, mask.sizes), x)


@rule("select_scatter", "slice_scatter", "diagonal_scatter", "as_strided_scatter")
def _view_scatter(mode: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """`clone_preserve_strides`: gaps are copied too, unless elements overlap."""
    if any(type(s) is int and s == 0 and n != 1 for s, n in zip(x.strides, x.sizes)):
        return _copy(mode, x)
    return mode.make(x.sizes, x.strides, x.scalar_type, x.dev, x.offset)


@rule("scatter_.src", "scatter_.value", "scatter_.reduce", "scatter_.value_reduce", "scatter_add_", "scatter_reduce_.two", "index_add_",
      "index_fill_.int_Scalar", "index_fill_.int_Tensor", "index_copy_", "index_reduce_", "masked_scatter_", "put_")
def _scatter_inplace(mode: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return x


@rule("slice_backward")
def _slice_backward(mode: Any, grad: Any, sizes: Any, dim: int, start: Any, end: Any, step: Any) -> Any:
    return _fresh(mode, tuple(map(mode.dim, sizes)), grad)


@rule("select_backward", "diagonal_backward", "unfold_backward", "index_select_backward_")
def _view_backward(mode: Any, grad: Any, sizes: Any, *args: Any) -> Any:
    return _fresh(mode, tuple(map(mode.dim, sizes)), grad)


@rule("value_selecting_reduction_backward")
def _selecting_backward(mode: Any, grad: Any, dim: int, indices: Any, sizes: Any, keepdim: bool) -> Any:
    return _fresh(mode, tuple(map(mode.dim, sizes)), grad)


@rule("bucketize.Tensor")
def _bucketize(mode: Any, x: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    return _fresh(mode, x.sizes, x, torch.int32 if out_int32 else torch.int64)


@rule("searchsorted.Tensor")
def _searchsorted(mode: Any, sequence: Any, x: Any, *, out_int32: bool = False, right: bool = False, side: Any = None, sorter: Any = None) -> Any:
    return _fresh(mode, x.sizes, x, torch.int32 if out_int32 else torch.int64)


@rule("one_hot")
def _one_hot(mode: Any, x: Any, classes: Any = -1) -> Any:
    if classes == -1:
        raise DataDependent("data-dependent size of one_hot", saw=repr(x), hint="pass num_classes")
    return _fresh(mode, (*x.sizes, mode.dim(classes)), x)
