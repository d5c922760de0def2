"""Shapes, strides and dtypes of prim results: what meta rules are written with.

A meta rule takes tensor-likes (real tensors, fakes, the builder's values) and returns a `Spec` or a tuple of them. It reads only `shape`,
`stride()`, `dtype`, `device`, `ndim`; sizes may be `torch.SymInt`. Rules raise `TypeError` or `ValueError` for operands that the prim
does not take; the verifier turns that into a `VerifyError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

__all__ = ["DtypeNotTaken", "Int", "Spec", "TensorLike", "ceildiv", "check_dim", "constant", "contiguous", "dense_like", "is_contiguous", "same_sizes"]

Int = int  # or torch.SymInt, which is not an int to isinstance but is one to arithmetic


class DtypeNotTaken(TypeError):
    """An operand's dtype is outside of the prim's domain."""


class TensorLike(Protocol):
    shape: Sequence[Int]
    dtype: torch.dtype
    device: torch.device
    ndim: int

    def stride(self) -> Sequence[Int]: ...


class Spec(NamedTuple):
    """What is known of a result before it is computed. Strides in elements."""

    shape: tuple[Int, ...]
    strides: tuple[Int, ...]
    dtype: torch.dtype
    device: torch.device


def contiguous(shape: Sequence[Int]) -> tuple[Int, ...]:
    """Row-major strides of `shape`; sizes 0 count as 1, as PyTorch has it."""
    strides: list[Int] = []
    step: Int = 1
    for size in reversed(shape):
        strides.append(step)
        step = step * (size if type(size) is not int or size > 0 else 1)
    strides.reverse()
    return tuple(strides)


def is_contiguous(shape: Sequence[Int], strides: Sequence[Int]) -> bool:
    """Whether the strides are row major, dimensions of size 1 ignored. Exact on ints; on symbolic sizes it may ask a guard."""
    step: Int = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if type(size) is int:
            if size == 0:
                return True
            if size == 1:
                continue
        if stride is not step and stride != step:
            return False
        step = step * size
    return True


def same_sizes(a: Sequence[Int], b: Sequence[Int]) -> bool:
    """Whether two shapes are equal. Symbolic sizes that are not the same object are compared, which may record a guard."""
    if a is b:
        return True
    return len(a) == len(b) and all(x is y or x == y for x, y in zip(a, b, strict=True))


def dense_like(shape: Sequence[Int], operands: Sequence[TensorLike]) -> tuple[Int, ...]:
    """Dense strides in the order of the first operand that has one (a permuted dense layout is kept, broadcast ones do not count).

    A simplification of TensorIterator's rule; strides of intermediates are free in the prims dialect.
    """
    for x in operands:
        strides = x.stride()
        if len(strides) < 2 or not all(type(s) is int for s in strides) or 0 in strides:
            continue
        order = sorted(range(len(strides)), key=lambda d: (strides[d], -d))
        if order == list(range(len(strides) - 1, -1, -1)):
            break
        out: list[Int] = [1] * len(strides)
        step: Int = 1
        for d in order:
            out[d] = step
            step = step * (shape[d] if type(shape[d]) is not int or shape[d] > 0 else 1)
        return tuple(out)
    return contiguous(shape)


def constant(size: Int) -> Int:
    """An int where a symbolic size turned out constant, such as s0 + 1 - s0."""
    if type(size) is int:
        return size
    from ..symbolic import plain

    return plain(size)


def ceildiv(n: Int, step: Int) -> Int:
    """n / step rounded up, step > 0."""
    if type(n) is int or type(step) is int:
        return constant((n + step - 1) // step)
    # Two spellings; an exact division of polynomials shows in one of them only.
    return min((constant((n + step - 1) // step), constant(-(-n // step))), key=lambda e: len(str(e)))


def check_dim(dim: int, ndim: int, what: str = "dim") -> None:
    """Refuse a dimension that is not in 0..ndim-1: prims take canonical dimensions only."""
    if not (type(dim) is int and 0 <= dim < ndim):
        raise ValueError(f"{what}={dim} is not a canonical dimension of a rank {ndim} tensor")
