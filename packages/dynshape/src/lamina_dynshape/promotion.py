"""Type promotion of ATen (ATen/native/TypeProperties.cpp): tensors with dimensions, then 0-d tensors, then Python numbers."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["FLOATS", "number_dtype", "promote", "result_type", "to_float"]

FLOATS = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
_COMPLEX_OF = {torch.float16: torch.complex32, torch.float32: torch.complex64, torch.float64: torch.complex128, torch.bfloat16: torch.complex64}
_memo: dict[Any, torch.dtype] = {}


def number_dtype(x: Any) -> torch.dtype:
    """dtype of a Python or symbolic number, as a wrapped number takes part in promotion."""
    if isinstance(x, (bool, torch.SymBool)):
        return torch.bool
    if isinstance(x, (int, torch.SymInt)):
        return torch.int64
    if isinstance(x, complex):
        return _COMPLEX_OF[torch.get_default_dtype()]
    return torch.get_default_dtype()


def promote(a: torch.dtype | None, b: torch.dtype | None) -> torch.dtype | None:
    """`torch.promote_types`, None being no operand."""
    if a is b or b is None:
        return a
    if a is None:
        return b
    key = (a, b)
    found = _memo.get(key)
    if found is None:
        found = _memo[key] = torch.promote_types(a, b)
    return found


def _combine(higher: torch.dtype | None, lower: torch.dtype | None) -> torch.dtype | None:
    if higher is None or lower is None:
        return lower if higher is None else higher
    if higher.is_complex:
        return higher
    if higher.is_floating_point:
        return _COMPLEX_OF[higher] if lower.is_complex else higher
    if higher is torch.bool or lower.is_floating_point or lower.is_complex:
        return promote(higher, lower)
    return higher


def result_type(operands: Any) -> torch.dtype:
    """Common dtype of fakes and numbers."""
    dims = zeros = numbers = None
    for x in operands:
        dtype = getattr(x, "scalar_type", None)
        if dtype is None:
            numbers = promote(numbers, number_dtype(x))
        elif x.sizes:
            dims = promote(dims, dtype)
        else:
            zeros = promote(zeros, dtype)
    result = _combine(dims, _combine(zeros, numbers))
    assert result is not None
    return result


def to_float(dtype: torch.dtype) -> torch.dtype:
    """The dtype itself, or the default dtype for integers and bool (operators such as exp and div)."""
    return dtype if dtype.is_floating_point or dtype.is_complex else torch.get_default_dtype()
