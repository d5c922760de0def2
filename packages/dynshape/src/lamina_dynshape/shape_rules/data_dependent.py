"""Operators whose result's size or value depends on data: an unbacked symbol where the mode allows it, else DataDependent."""

from __future__ import annotations

from typing import Any

import torch

from lamina_dynshape.fake_tensor import DataDependent
from lamina_dynshape.layout import contiguous
from lamina_dynshape.shape_rules.registry import rule


@rule("_local_scalar_dense", "item")
def _item(mode: Any, x: Any) -> Any:
    if mode.number_of is not None and (number := mode.number_of(x)) is not None:
        return number
    if x.constant is not None:
        return x.constant.item()
    if not mode.has_unbacked():
        raise DataDependent("data-dependent value: item()", saw=repr(x), hint="keep the value in a tensor, or move this out of the compiled region")
    return mode.unbacked_value(x.scalar_type)


@rule("nonzero")
def _nonzero(mode: Any, x: Any) -> Any:
    if x.constant is not None:
        count = int(x.constant.count_nonzero())
        return mode.make((count, len(x.sizes)), (1, max(count, 1)), torch.int64, x.dev)
    count = mode.data_size("nonzero", x, "torch.where(condition, a, b) keeps the size")
    rank = len(x.sizes)
    return mode.make((count, rank), (1, count) if rank else (0, 1), torch.int64, x.dev)


@rule("masked_select")
def _masked_select(mode: Any, x: Any, mask: Any) -> Any:
    from lamina_dynshape.layout import broadcast

    if not mode.has_unbacked():
        raise DataDependent("data-dependent size of masked_select", saw=repr(x))
    count = mode.unbacked_size(broadcast(x.sizes, mask.sizes))
    return mode.make((count,), (1,), x.scalar_type, x.dev)


@rule("_unique2")
def _unique2(mode: Any, x: Any, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False) -> Any:
    count = mode.data_size("unique", x)
    inverse = x.sizes if return_inverse or return_counts else (0,)
    counts = (count,) if return_counts else (0,)
    return (
        mode.make((count,), (1,), x.scalar_type, x.dev), mode.make(inverse, contiguous(inverse), torch.int64, x.dev),
        mode.make(counts, (1,), torch.int64, x.dev),
    )


@rule("_unique")
def _unique(mode: Any, x: Any, sorted: bool = True, return_inverse: bool = False) -> Any:
    return _unique2(mode, x, sorted, return_inverse)[:2]


@rule("unique_consecutive")
def _unique_consecutive(mode: Any, x: Any, return_inverse: bool = False, return_counts: bool = False, dim: Any = None) -> Any:
    if dim is not None:
        return _unique_along(mode, x, dim)
    values, inverse, counts = _unique2(mode, x, True, return_inverse, return_counts)
    return values, inverse if return_inverse else mode.make((0,), (1,), torch.int64, x.dev), counts


@rule("unique_dim")
def _unique_dim(mode: Any, x: Any, dim: int, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False) -> Any:
    return _unique_along(mode, x, dim)


@rule("unique_dim_consecutive")
def _unique_dim_consecutive(mode: Any, x: Any, dim: int, return_inverse: bool = False, return_counts: bool = False) -> Any:
    return _unique_along(mode, x, dim)


def _unique_along(mode: Any, x: Any, dim: int) -> Any:
    """Slices of `x`, laid out one after the other; where each came from and how often it comes are always made."""
    dim %= len(x.sizes)
    if not mode.has_unbacked():
        raise DataDependent("data-dependent size of unique", saw=repr(x))
    count = mode.unbacked_size((x.sizes[dim],))
    rest = (*x.sizes[:dim], *x.sizes[dim + 1 :])
    strides = list(contiguous((count, *rest)))
    first = strides.pop(0)
    strides.insert(dim, first)
    slices = mode.make((*x.sizes[:dim], count, *x.sizes[dim + 1 :]), tuple(strides), x.scalar_type, x.dev)
    return slices, mode.make((x.sizes[dim],), (1,), torch.int64, x.dev), mode.make((count,), (1,), torch.int64, x.dev)


@rule("bincount")
def _bincount(mode: Any, x: Any, weights: Any = None, minlength: int = 0) -> Any:
    if not mode.has_unbacked():
        raise DataDependent("data-dependent size of bincount", saw=repr(x))
    dtype = torch.int64 if weights is None else torch.float32 if weights.scalar_type is torch.float32 else torch.float64
    return mode.make((mode.unbacked_size(None),), (1,), dtype, x.dev)


@rule("repeat_interleave.Tensor")
def _repeat_interleave(mode: Any, repeats: Any, *, output_size: Any = None) -> Any:
    if output_size is not None:
        return mode.make((mode.dim(output_size),), (1,), repeats.scalar_type, repeats.dev)
    if not mode.has_unbacked():
        raise DataDependent("data-dependent size of repeat_interleave", saw=repr(repeats), hint="pass output_size")
    return mode.make((mode.unbacked_size(None),), (1,), repeats.scalar_type, repeats.dev)


@rule("equal")
def _truth(mode: Any, x: Any, *others: Any, **kwargs: Any) -> Any:
    if x.constant is not None and others[0].constant is not None:
        return torch.equal(x.constant, others[0].constant)
    raise DataDependent("data-dependent branch", saw=repr(x), hint="torch.where, or move the branch outside of the compiled region")


@rule("allclose", "is_nonzero", "nonzero_numpy")
def _other(mode: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    raise DataDependent("data-dependent size", saw=repr(x))


# -- assertions ---------------------------------------------------------------------------------------------------------------
@rule("_assert_async", "_assert_async.msg", "_assert_scalar", "_assert_tensor_metadata")
def _assert(mode: Any, x: Any, *args: Any, **kwargs: Any) -> None:
    if isinstance(x, torch.SymBool):
        mode.shape_env.expect_true(x.node.expr, str(args[0]) if args else "")
    elif x is False:
        raise RuntimeError(str(args[0]) if args else "assertion failed")


@rule("sym_constrain_range", "sym_constrain_range_for_size")
def _constrain_range(mode: Any, size: Any, *, min: Any = None, max: Any = None) -> None:
    from lamina_dynshape import boolean as B

    e = mode.dim(size)
    if type(e) is not int:
        if min is not None:
            mode.shape_env.expect_true(B.ge(e, min))
        if max is not None:
            mode.shape_env.expect_true(B.le(e, max))
