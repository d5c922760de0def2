"""Strides as ATen's operators choose them.

All sizes and strides are in elements, int or Expr. Source of the rules: ATen/native/TensorIterator.cpp (`reorder_dimensions`,
`compute_fast_setup_type`), ATen/ExpandUtils.cpp (`infer_dense_strides`), c10/core/Contiguity.h, ATen/TensorUtils.cpp (`computeStride`).
"""

from __future__ import annotations

from typing import Any

import torch

from lamina_dynshape.dims import Dim, active, eq, is_one, is_zero, known_eq, lt, numel, order, plain

__all__ = [
    "broadcast", "channels_last_strides", "contiguous", "dense_like", "format_strides", "is_channels_last", "is_contiguous",
    "is_dense", "iterator_strides", "suggest_format", "view_strides",
]

Dims = tuple[Any, ...]
_contiguous_memo: dict[Dims, Dims] = {}


def contiguous(sizes: Dims) -> Dims:
    """Row-major strides."""
    found = _contiguous_memo.get(sizes)
    if found is None:
        strides, step = [], 1
        for s in reversed(sizes):
            strides.append(step)
            step = plain(step * (max(s, 1) if type(s) is int else s))
        if len(_contiguous_memo) > 10_000:
            _contiguous_memo.clear()
        found = _contiguous_memo[sizes] = tuple(reversed(strides))
    return found


def _ordered_strides(sizes: Dims, order: tuple[int, ...]) -> Dims:
    """Dense strides; `order` lists dimensions from the innermost outwards."""
    strides: list[Dim] = [0] * len(sizes)
    step: Dim = 1
    for d in order:
        strides[d] = step
        step = plain(step * sizes[d])
    return tuple(strides)


_CHANNELS_LAST_ORDER = {4: (1, 3, 2, 0), 5: (1, 4, 3, 2, 0)}


def channels_last_strides(sizes: Dims) -> Dims:
    """Strides of channels_last (4-D) or channels_last_3d (5-D)."""
    return _ordered_strides(sizes, _CHANNELS_LAST_ORDER[len(sizes)])


def format_strides(sizes: Dims, memory_format: torch.memory_format) -> Dims:
    """Strides of a fresh tensor in this memory format."""
    if memory_format is torch.contiguous_format:
        return contiguous(sizes)
    if memory_format is torch.channels_last and len(sizes) == 4 or memory_format is torch.channels_last_3d and len(sizes) == 5:
        return channels_last_strides(sizes)
    raise RuntimeError(f"required rank {4 if memory_format is torch.channels_last else 5} tensor to use {memory_format}")


def is_contiguous(sizes: Dims, strides: Dims) -> bool:
    """Row-major, where dimensions of size 1 may have any stride. Never guards: unknown counts as not contiguous."""
    return strides == contiguous(sizes) or _is_ordered(sizes, strides, range(len(sizes) - 1, -1, -1)) or _is_empty(sizes)


def _is_empty(sizes: Dims) -> bool:
    return 0 in sizes


def _is_ordered(sizes: Dims, strides: Dims, order: Any) -> bool:
    expected: Dim = 1
    for d in order:
        if sizes[d] != 1:
            if not known_eq(strides[d], expected):
                return False
            expected = plain(expected * sizes[d])
    return True


def is_channels_last(sizes: Dims, strides: Dims) -> bool:
    """Memory order N...C exactly: contiguous in channels_last (4-D) or channels_last_3d (5-D)."""
    order = _CHANNELS_LAST_ORDER.get(len(sizes))
    return order is not None and _is_ordered(sizes, strides, order)


def _looks_channels_last(sizes: Dims, strides: Dims) -> bool:
    """c10's `is_channels_last_strides_2d/3d`: the order of strides is N...C, gaps allowed; ties go to row-major."""
    order = _CHANNELS_LAST_ORDER.get(len(sizes))
    if order is None or is_zero(strides[1]):
        return False
    low: Dim = 0
    for d in order:
        if is_zero(sizes[d]) or lt(strides[d], low):
            return False
        if d == 0 and known_eq(low, strides[1]):
            return False  # N111 and NC11: row-major by convention
        low = strides[d]
        if not is_one(sizes[d]):
            low = plain(low * sizes[d])
    return True


def suggest_format(sizes: Dims, strides: Dims) -> torch.memory_format:
    """`Tensor::suggest_memory_format`."""
    if len(sizes) in (4, 5) and strides != contiguous(sizes) and _looks_channels_last(sizes, strides):
        return torch.channels_last if len(sizes) == 4 else torch.channels_last_3d
    return torch.contiguous_format


def is_dense(sizes: Dims, strides: Dims) -> bool:
    """Non-overlapping and dense: a permutation of a row-major layout."""
    if strides == contiguous(sizes) or _is_empty(sizes):
        return True
    dims = [d for d in range(len(sizes)) if sizes[d] != 1]
    expected: Dim = 1
    while dims:  # no order of the strides is asked for: that would be a guard
        inner = next((d for d in dims if known_eq(strides[d], expected)), None)
        if inner is None:
            return False
        dims.remove(inner)
        expected = plain(expected * sizes[inner])
    return True


def _nested(sizes: Dims, strides: Any, a: int, b: int) -> int:
    """-1 or 1 where one of two dimensions certainly repeats just outside of the other, 0 if that is not known.

    Spares a guard that the inner size is not 1, which an inner dimension computed from sizes may be: it has one element then, and
    its stride, the only thing that could differ from eager's, moves nothing.
    """
    if type(sizes[a]) is not int and known_eq(strides[b], plain(strides[a] * sizes[a])):
        return -1
    return int(type(sizes[b]) is not int and known_eq(strides[a], plain(strides[b] * sizes[b])))


def _insertion_sort(n: int, should_swap: Any) -> list[int]:
    """ATen's stable order of dimensions, innermost first; ambiguous pairs (0) keep looking outwards."""
    perm = list(range(n - 1, -1, -1))
    for i in range(1, n):
        at = i
        for before in range(i - 1, -1, -1):
            c = should_swap(perm[before], perm[at])
            if c > 0:
                perm[before], perm[at] = perm[at], perm[before]
                at = before
            elif c < 0:
                break
    return perm


def dense_like(sizes: Dims, strides: Dims) -> Dims:
    """Strides that `empty_like` with preserve_format gives: the same if dense, else dense in the same order."""
    if strides == contiguous(sizes) or is_dense(sizes, strides):
        return strides

    def should_swap(a: int, b: int) -> int:
        if is_zero(strides[a]) or is_zero(strides[b]):
            return 0
        return _nested(sizes, strides, a, b) or order(strides[a], strides[b]) or int(lt(sizes[b], sizes[a]))

    outwards = _insertion_sort(len(sizes), should_swap)
    result: list[Dim] = [0] * len(sizes)
    step: Dim = 1
    for d in outwards:
        result[d] = step
        if type(sizes[d]) is not int or sizes[d] > 1:
            step = plain(step * sizes[d])
    return tuple(result)


def broadcast(a: Dims, b: Dims) -> Dims:
    """Common shape; RuntimeError with eager's message when there is none."""
    if a == b:
        return a
    n = max(len(a), len(b))
    result = []
    for d in range(n):
        x = a[d - n + len(a)] if d >= n - len(a) else 1
        y = b[d - n + len(b)] if d >= n - len(b) else 1
        if x is y or x == y or (type(y) is int and y == 1):
            result.append(x)
        elif type(x) is int and x == 1:
            result.append(y)
        else:
            result.append(_common_size(x, y, d))
    return tuple(result)


def _common_size(x: Dim, y: Dim, d: int) -> Dim:
    if type(x) is not int or type(y) is not int:
        env = active.env
        # An unknown size is taken to be no broadcast: the equality becomes a guard or a runtime assertion.
        if env.likely_one(y):
            return x
        if env.likely_one(x):
            return y
        if env.eq(x, y):
            return x if type(x) is int else y
    raise RuntimeError(
        f"The size of tensor a ({x}) must match the size of tensor b ({y}) at non-singleton dimension {d}"
    )


_iterator_memo: dict[Any, tuple[Dims, Dims]] = {}


def iterator_strides(operands: tuple[tuple[Dims, Dims], ...], has_number: bool) -> tuple[Dims, Dims]:
    """(sizes, strides) of a new output of an elementwise operator.

    operands: (sizes, strides) of the tensor inputs, in order; has_number: a Python number takes part (ATen sees a 0-d tensor).
    """
    if len(operands) == 1 and not has_number:
        sizes, strides = operands[0]
        if strides == contiguous(sizes):
            return sizes, strides
    key = (operands, has_number)
    memo = _iterator_memo if active.env is None else active.env.layout_memo
    found = memo.get(key)
    if found is None:
        if len(memo) > 20_000:
            memo.clear()
        found = memo[key] = _iterator_strides(operands, has_number)
    return found


def _iterator_strides(operands: tuple[tuple[Dims, Dims], ...], has_number: bool) -> tuple[Dims, Dims]:
    shape = operands[0][0]
    for sizes, _ in operands[1:]:
        shape = broadcast(shape, sizes)
    n = len(shape)
    # A dimension that a known constant broadcasts against keeps the constant.
    same_shape = all(s == shape for s, _ in operands) and not (has_number and n)
    if same_shape:
        if all(is_contiguous(s, t) for s, t in operands):
            return shape, contiguous(shape)
        if n == 4 and all(is_channels_last(s, t) for s, t in operands):
            return shape, channels_last_strides(shape)
        if all(is_dense(s, t) for s, t in operands) and all(t == operands[0][1] for _, t in operands):
            return shape, operands[0][1]
    return shape, _reordered(shape, operands)


def _reordered(shape: Dims, operands: tuple[tuple[Dims, Dims], ...]) -> Dims:
    n = len(shape)
    expanded = []
    for sizes, strides in operands:
        lead = n - len(sizes)
        expanded.append([
            0 if d < lead or (sizes[d - lead] == 1 and shape[d] != 1) else strides[d - lead] for d in range(n)
        ])

    def should_swap(a: int, b: int) -> int:
        for strides in expanded:
            x, y = strides[a], strides[b]
            if is_zero(x) or is_zero(y):
                continue
            if found := _nested(shape, strides, a, b) or order(x, y):
                return found
            if lt(shape[b], shape[a]):
                return 1
        return 0

    if active.env is not None and all(is_contiguous(s, t) for s, t in operands):
        return contiguous(shape)  # row-major operands give a row-major result however they broadcast
    outwards = _insertion_sort(n, should_swap)
    if outwards == list(range(n - 1, -1, -1)):
        return contiguous(shape)
    strides: list[Dim] = [0] * n
    step: Dim = 1
    for d in outwards:
        strides[d] = step
        step = plain(step * shape[d])
    return tuple(strides)


def view_strides(sizes: Dims, strides: Dims, new: Dims) -> Dims | None:
    """Strides of a view with shape `new` over the same memory, or None when a copy is needed. Numbers of elements must agree."""
    if new == sizes:
        return _of_same_shape(sizes, strides)
    if strides == contiguous(sizes) or (is_contiguous(sizes, strides) and not (sizes and is_one(sizes[-1]))):
        return contiguous(new)
    if is_zero(numel(sizes)):
        return contiguous(new)
    return _chunked_view_strides(sizes, strides, new)


def _of_same_shape(sizes: Dims, strides: Dims) -> Dims:
    """Strides of a view of the same shape: a dimension of size 1 gets what one more element of the run to its right would have."""
    if not any(map(is_one, sizes)) or is_zero(numel(sizes)):
        return strides
    result, step = list(strides), strides[-1]
    for d in reversed(range(len(sizes))):
        if is_one(sizes[d]):
            result[d] = step
        else:
            step = plain(strides[d] * sizes[d])
    return tuple(result)


def _completes(more: Dims, covered: Dim, elements: Dim) -> bool:
    """Whether a run that is not certainly complete is so with some of `more` dimensions: of sizes that only the running program knows, `lt` says nothing."""
    if type(covered) is int and type(elements) is int or known_eq(covered, elements):
        return False
    return any(known_eq(covered := plain(covered * n), elements) for n in more)


def _chunked_view_strides(sizes: Dims, strides: Dims, new: Dims) -> Dims | None:
    """ATen's computeStride: match runs of old dimensions that are one piece of memory with runs of new ones."""
    if not sizes:
        return (1,) * len(new)
    result: list[Dim] = [0] * len(new)
    at = len(new) - 1
    base = strides[-1]  # stride of the innermost element of the current run
    elements: Dim = 1
    covered: Dim = 1
    for d in range(len(sizes) - 1, -1, -1):
        elements = plain(elements * sizes[d])
        if d == 0 or (not is_one(sizes[d - 1]) and not eq(strides[d - 1], plain(elements * base))):
            while at >= 0 and (lt(covered, elements) or is_one(new[at]) or _completes(new[at::-1], covered, elements)):
                result[at] = plain(covered * base)
                covered = plain(covered * new[at])
                at -= 1
            if not eq(covered, elements):
                return None
            if d > 0:
                base, elements, covered = strides[d - 1], 1, 1
    return tuple(result) if at == -1 else None
