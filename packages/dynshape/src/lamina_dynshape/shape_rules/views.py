"""Operators whose result is a view, and those that change metadata in place (`t_`, `squeeze_`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from lamina_dynshape.dims import active, eq, is_one, is_zero, known_eq, lt, maximum, minimum, numel, plain
from lamina_dynshape.fake_tensor import FakeTensor
from lamina_dynshape.layout import contiguous, view_strides
from lamina_dynshape.shape_rules.registry import overload, register, rule

__all__ = ["infer_shape", "slice_bounds", "view_of", "wrap_dim"]

Dims = tuple[Any, ...]


def wrap_dim(dim: int, rank: int) -> int:
    """Dimension counted from the front; IndexError as eager."""
    span = max(rank, 1)
    if not -span <= dim < span:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-span}, {span - 1}], but got {dim})")
    return dim + span if dim < 0 else dim


def view_of(mode: Any, x: FakeTensor, sizes: Dims, strides: Dims, offset: Any = None) -> FakeTensor:
    """A fake that shares x's memory."""
    return mode.make(sizes, strides, x.scalar_type, x.dev, x.offset if offset is None else offset, x.storage_key)


def infer_shape(mode: Any, sizes: Sequence[Any], count: Any) -> Dims:
    """The sizes with -1 resolved against the number of elements; RuntimeError as eager when they disagree."""
    if type(count) is int:
        try:
            rest = math.prod(sizes)
        except TypeError:
            rest = None
        if type(rest) is int:
            if rest == count:
                if min(sizes, default=0) >= 0:
                    return tuple(sizes)
            elif rest < 0 and count % rest == 0 and list(sizes).count(-1) == 1:
                return tuple(count // -rest if s == -1 else s for s in sizes)
    new = tuple(mode.dim(s) for s in sizes)
    if -1 not in new:
        if not eq(numel(new), count):
            raise RuntimeError(f"shape '{list(new)}' is invalid for input of size {count}")
        return new
    at = new.index(-1)
    rest = numel(s for d, s in enumerate(new) if d != at)
    if -1 in new[at + 1 :]:
        raise RuntimeError("only one dimension can be inferred")
    if is_zero(rest):
        if new.count(0):
            raise RuntimeError(f"cannot reshape tensor of 0 elements into shape {list(new)} because the unspecified dimension size -1 can be any value and is ambiguous")
        raise RuntimeError(f"shape '{list(new)}' is invalid for input of size {count}")
    if not (type(rest) is int and rest == 1) and not _divides(count, rest):
        raise RuntimeError(f"shape '{list(new)}' is invalid for input of size {count}")
    return (*new[:at], plain(count // rest), *new[at + 1 :])


def _divides(count: Any, rest: Any) -> bool:
    return eq(plain(count % rest), 0)


@rule("view", "_unsafe_view")
def _view(mode: Any, x: Any, sizes: Any) -> Any:
    new = infer_shape(mode, sizes, numel(x.sizes))
    strides = view_strides(x.sizes, x.strides, new)  # never guards for contiguous x
    if strides is None:
        raise RuntimeError(
            "view size is not compatible with input tensor's size and stride (at least one dimension spans across two contiguous "
            "subspaces). Use .reshape(...) instead."
        )
    return view_of(mode, x, new, strides)


@rule("reshape")
def _reshape(mode: Any, x: Any, sizes: Any) -> Any:
    new = infer_shape(mode, sizes, numel(x.sizes))
    strides = view_strides(x.sizes, x.strides, new)
    if strides is None:
        return mode.make(new, contiguous(new), x.scalar_type, x.dev)
    return view_of(mode, x, new, strides)


@rule("_reshape_alias")
def _reshape_alias(mode: Any, x: Any, sizes: Any, strides: Any) -> Any:
    return view_of(mode, x, tuple(map(mode.dim, sizes)), tuple(map(mode.dim, strides)))


@rule("view.dtype")
def _view_dtype(mode: Any, x: Any, dtype: torch.dtype) -> Any:
    old, new = x.scalar_type.itemsize, dtype.itemsize
    sizes, strides, offset = list(x.sizes), list(x.strides), x.offset
    if old != new:
        if not sizes or strides[-1] != 1:
            raise RuntimeError("self.stride(-1) must be 1 to view with a different element size" if sizes else "self.dim() cannot be 0 to view with a different element size")
        sizes[-1] = plain(sizes[-1] * old // new)
        strides = [plain(s * old // new) for s in strides[:-1]] + [1]
        offset = plain(offset * old // new)
    return mode.make(tuple(sizes), tuple(strides), dtype, x.dev, offset, x.storage_key)


@rule("alias", "detach")
def _alias(mode: Any, x: Any) -> Any:
    return mode.make(x.sizes, x.strides, x.scalar_type, x.dev, x.offset, x.storage_key)


@rule("_conj")
def _conj(mode: Any, x: Any) -> Any:
    result = _alias(mode, x)
    torch._C._set_conj(result, not x.is_conj())
    return result


@rule("_neg_view")
def _neg_view(mode: Any, x: Any) -> Any:
    result = _alias(mode, x)
    torch._C._set_neg(result, not x.is_neg())
    return result


@rule("detach_")
def _itself(mode: Any, x: Any) -> Any:
    return x


@rule("lift", "lift_fresh", "lift_fresh_copy")
def _lift(mode: Any, x: Any) -> Any:
    """What `torch.tensor(...)` ends with: the real tensor of its literal becomes a fake."""
    return x if isinstance(x, FakeTensor) else mode.literal(x)


@rule("resolve_conj", "resolve_neg")
def _resolve(mode: Any, x: Any) -> Any:
    return x if not (x.is_conj() or x.is_neg()) else NotImplemented


# -- permutations ---------------------------------------------------------------------------------------------------------
def _permuted(x: Any, dims: Sequence[int]) -> tuple[Dims, Dims]:
    return tuple(x.sizes[d] for d in dims), tuple(x.strides[d] for d in dims)


def _permutation(x: Any, dims: Sequence[int]) -> list[int]:
    rank = len(x.sizes)
    if len(dims) != rank:
        raise RuntimeError(f"permute(sparse_coo): number of dimensions in the tensor input does not match the length of the desired ordering of dimensions i.e. input.dim() = {rank} is not equal to len(dims) = {len(dims)}")
    order = [wrap_dim(d, rank) for d in dims]
    if len(set(order)) != rank:
        raise RuntimeError("permute(): duplicate dims are not allowed.")
    return order


@rule("permute")
def _permute(mode: Any, x: Any, dims: Any) -> Any:
    return view_of(mode, x, *_permuted(x, _permutation(x, dims)))


def _swap(x: Any, a: int, b: int) -> list[int]:
    order = list(range(len(x.sizes)))
    if order:
        a, b = wrap_dim(a, len(order)), wrap_dim(b, len(order))
        order[a], order[b] = order[b], order[a]
    return order


@rule("transpose.int")
def _transpose(mode: Any, x: Any, a: int, b: int) -> Any:
    return view_of(mode, x, *_permuted(x, _swap(x, a, b)))


@rule("t")
def _t(mode: Any, x: Any) -> Any:
    if len(x.sizes) > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {len(x.sizes)}D")
    return view_of(mode, x, x.sizes[::-1], x.strides[::-1])


@rule("t_")
def _t_inplace(mode: Any, x: Any) -> Any:
    return x.set_metadata(x.sizes[::-1], x.strides[::-1], x.offset)


@rule("transpose_", "swapdims_", "swapaxes_")
def _transpose_inplace(mode: Any, x: Any, a: int, b: int) -> Any:
    return x.set_metadata(*_permuted(x, _swap(x, a, b)), x.offset)


# -- sizes of one -----------------------------------------------------------------------------------------------------
def _unsqueezed(x: Any, dim: int) -> tuple[Dims, Dims]:
    at = wrap_dim(dim, len(x.sizes) + 1)
    stride = plain(x.sizes[at] * x.strides[at]) if at < len(x.sizes) else 1
    return (*x.sizes[:at], 1, *x.sizes[at:]), (*x.strides[:at], stride, *x.strides[at:])


@rule("unsqueeze")
def _unsqueeze(mode: Any, x: Any, dim: int) -> Any:
    return view_of(mode, x, *_unsqueezed(x, dim))


@rule("unsqueeze_")
def _unsqueeze_inplace(mode: Any, x: Any, dim: int) -> Any:
    return x.set_metadata(*_unsqueezed(x, dim), x.offset)


def _squeezed(x: Any, dims: Any = None) -> tuple[Dims, Dims]:
    rank = len(x.sizes)
    chosen = range(rank) if dims is None else {wrap_dim(d, rank) for d in ([dims] if isinstance(dims, int) else dims)}
    kept = [d for d in range(rank) if not (d in chosen and is_one(x.sizes[d]))]
    return _permuted(x, kept)


@rule("squeeze", "squeeze.dim", "squeeze.dims")
def _squeeze(mode: Any, x: Any, dims: Any = None) -> Any:
    return view_of(mode, x, *_squeezed(x, dims))


@rule("squeeze_", "squeeze_.dim", "squeeze_.dims")
def _squeeze_inplace(mode: Any, x: Any, dims: Any = None) -> Any:
    return x.set_metadata(*_squeezed(x, dims), x.offset)


@rule("expand")
def _expand(mode: Any, x: Any, sizes: Any, *, implicit: bool = False) -> Any:
    wanted = tuple(map(mode.dim, sizes))
    lead = len(wanted) - len(x.sizes)
    if lead < 0:
        raise RuntimeError(
            f"expand({x}, size={list(wanted)}): the number of sizes provided ({len(wanted)}) must be greater or equal to the number "
            f"of dimensions in the tensor ({len(x.sizes)})"
        )
    new_sizes, new_strides = [], []
    for d, want in enumerate(wanted):
        if d < lead:
            new_sizes.append(want)
            new_strides.append(0 if not _is_minus_one(want) else _bad_expand(x, wanted))
            continue
        have, stride = x.sizes[d - lead], x.strides[d - lead]
        if _is_minus_one(want) or have is want or have == want:
            new_sizes.append(have)
            new_strides.append(stride)
        elif is_one(have):
            new_sizes.append(want)
            new_strides.append(0)
        elif eq(have, want):
            new_sizes.append(want if type(want) is int else have)
            new_strides.append(stride)
        else:
            raise RuntimeError(
                f"The expanded size of the tensor ({want}) must match the existing size ({have}) at non-singleton dimension {d}.  "
                f"Target sizes: {list(wanted)}.  Tensor sizes: {list(x.sizes)}"
            )
    # ATen gives a leading new dimension the stride a contiguous tensor would have only when its size is 1.
    for d in range(len(wanted) - 1, -1, -1):
        if d < lead and type(wanted[d]) is int and wanted[d] == 1 and d + 1 <= len(wanted):
            new_strides[d] = plain(new_sizes[d + 1] * new_strides[d + 1]) if d + 1 < len(wanted) else 1
    return view_of(mode, x, tuple(new_sizes), tuple(new_strides))


def _is_minus_one(x: Any) -> bool:
    return type(x) is int and x == -1


def _bad_expand(x: Any, wanted: Any) -> Any:
    raise RuntimeError(f"expand({x}, size={list(wanted)}): the expanded size of the tensor (-1) isn't allowed in a leading, non-existing dimension 0")


# -- slicing ------------------------------------------------------------------------------------------------------------
def slice_bounds(mode: Any, size: Any, start: Any, end: Any, step: Any) -> tuple[Any, Any, Any]:
    """(start, length, step) of Python slicing on a dimension of that size, clamped as ATen does."""
    start = 0 if start is None else mode.dim(start)
    end = size if end is None else mode.dim(end)
    step = 1 if step is None else mode.dim(step)
    if lt(step, 1):
        raise RuntimeError("slice step must be positive")
    start = _clamped(start, size)
    end = size if type(end) is int and end >= 2**62 else _clamped(end, size)
    if not known_le(start, end) and lt(end, start):
        end = start
    length = plain(end - start)
    if not (type(step) is int and step == 1):
        length = plain((length + step - 1) // step)
    return start, length, step


def known_le(a: Any, b: Any) -> bool:
    """a <= b for certain; never guards."""
    if type(a) is int and type(b) is int:
        return a <= b
    return a is b or active.env.known_le(a, b)


def _clamped(index: Any, size: Any) -> Any:
    """Index of a slice end, negative ones from the back, within 0..size."""
    if type(index) is int and type(size) is int:
        return min(max(index + size if index < 0 else index, 0), size)
    if lt(index, 0):
        index = plain(index + size)
        if lt(index, 0):
            return 0
    if known_le(index, size):
        return index
    if active.env.is_unbacked(index, size):
        return minimum(index, size)
    return size if lt(size, index) else index


@rule("slice.Tensor")
def _slice(mode: Any, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    if not x.sizes:
        raise RuntimeError("slice() cannot be applied to a 0-dim tensor.")
    d = wrap_dim(dim, len(x.sizes))
    start, length, step = slice_bounds(mode, x.sizes[d], start, end, step)
    sizes = (*x.sizes[:d], length, *x.sizes[d + 1 :])
    strides = (*x.strides[:d], plain(x.strides[d] * step), *x.strides[d + 1 :])
    return view_of(mode, x, sizes, strides, plain(x.offset + start * x.strides[d]))


@rule("select.int")
def _select(mode: Any, x: Any, dim: int, index: Any) -> Any:
    if not x.sizes:
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    d = wrap_dim(dim, len(x.sizes))
    size, at = x.sizes[d], mode.dim(index)
    if type(at) is int and type(size) is int:
        if not -size <= at < size:
            raise IndexError(f"select(): index {at} out of range for tensor of size {list(x.sizes)} at dimension {dim}")
        at += size if at < 0 else 0
    else:
        if lt(at, 0):
            at = plain(at + size)
        if not active.env.expect(at, 0, size):
            raise IndexError(f"select(): index {index} out of range for tensor of size {list(x.sizes)} at dimension {dim}")
    return view_of(mode, x, (*x.sizes[:d], *x.sizes[d + 1 :]), (*x.strides[:d], *x.strides[d + 1 :]), plain(x.offset + at * x.strides[d]))


@rule("narrow")
def _narrow(mode: Any, x: Any, dim: int, start: Any, length: Any) -> Any:
    return _slice(mode, x, dim, start, mode.dim(start) + mode.dim(length), 1)


def _pieces(mode: Any, x: Any, dim: int, lengths: Sequence[Any]) -> list[FakeTensor]:
    d = wrap_dim(dim, len(x.sizes))
    result, start = [], 0
    for length in lengths:
        sizes = (*x.sizes[:d], length, *x.sizes[d + 1 :])
        result.append(view_of(mode, x, sizes, x.strides, plain(x.offset + start * x.strides[d])))
        start = plain(start + length)
    return result


@rule("split_with_sizes")
def _split_with_sizes(mode: Any, x: Any, lengths: Any, dim: int = 0) -> Any:
    lengths = [mode.dim(n) for n in lengths]
    size = x.sizes[wrap_dim(dim, len(x.sizes))]
    total: Any = 0
    for n in lengths:
        total = plain(total + n)
    if not eq(total, size):
        raise RuntimeError(
            f"split_with_sizes expects split_sizes to sum exactly to {size} (input tensor's size at dimension {dim}), but got split_sizes={lengths}"
        )
    return _pieces(mode, x, dim, lengths)


@rule("split.Tensor")
def _split(mode: Any, x: Any, chunk: Any, dim: int = 0) -> Any:
    size, chunk = x.sizes[wrap_dim(dim, len(x.sizes))], mode.dim(chunk)
    if is_zero(chunk):
        return _pieces(mode, x, dim, [size])
    count = _whole(max(1, -(-size // chunk)) if type(size) is int and type(chunk) is int else plain((size + chunk - 1) // chunk))
    return _pieces(mode, x, dim, [chunk] * (count - 1) + [plain(size - chunk * (count - 1))])


def _whole(x: Any) -> int:
    """A number of results must be known: specialise."""
    return x if type(x) is int else active.env.specialize(x)


@rule("chunk")
def _chunk(mode: Any, x: Any, chunks: int, dim: int = 0) -> Any:
    size = x.sizes[wrap_dim(dim, len(x.sizes))]
    piece = plain((size + chunks - 1) // chunks)
    if type(piece) is int and piece == 0:
        return _pieces(mode, x, dim, [0] * chunks)
    return _split(mode, x, mode.to_int(piece), dim)


@rule("unbind.int")
def _unbind(mode: Any, x: Any, dim: int = 0) -> Any:
    d = wrap_dim(dim, len(x.sizes))
    sizes, strides = (*x.sizes[:d], *x.sizes[d + 1 :]), (*x.strides[:d], *x.strides[d + 1 :])
    return [view_of(mode, x, sizes, strides, plain(x.offset + i * x.strides[d])) for i in range(_whole(x.sizes[d]))]


@rule("diagonal")
def _diagonal(mode: Any, x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    a, b = wrap_dim(dim1, len(x.sizes)), wrap_dim(dim2, len(x.sizes))
    if a == b:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    rows, columns = (x.sizes[a], plain(x.sizes[b] - offset)) if offset >= 0 else (plain(x.sizes[a] + offset), x.sizes[b])
    length = maximum(minimum(rows, columns), 0)
    start = x.offset
    if not known_eq(length, 0):
        start = plain(start + (offset * x.strides[b] if offset >= 0 else -offset * x.strides[a]))
    kept = [d for d in range(len(x.sizes)) if d not in (a, b)]
    sizes, strides = _permuted(x, kept)
    return view_of(mode, x, (*sizes, length), (*strides, plain(x.strides[a] + x.strides[b])), start)


@rule("unfold")
def _unfold(mode: Any, x: Any, dim: int, size: int, step: int) -> Any:
    if not x.sizes:
        return view_of(mode, x, (size,), (1,))
    d = wrap_dim(dim, len(x.sizes))
    size, step = mode.dim(size), mode.dim(step)
    if lt(x.sizes[d], size):
        raise RuntimeError(f"maximum size for tensor at dimension {d} is {x.sizes[d]} but size is {size}")
    windows = plain((x.sizes[d] - size) // step + 1)
    return view_of(
        mode, x, (*x.sizes[:d], windows, *x.sizes[d + 1 :], size), (*x.strides[:d], plain(x.strides[d] * step), *x.strides[d + 1 :], x.strides[d])
    )


@rule("as_strided")
def _as_strided(mode: Any, x: Any, sizes: Any, strides: Any, offset: Any = None) -> Any:
    start = x.offset if offset is None else mode.dim(offset)
    return view_of(mode, x, tuple(map(mode.dim, sizes)), tuple(map(mode.dim, strides)), start)


@rule("as_strided_")
def _as_strided_inplace(mode: Any, x: Any, sizes: Any, strides: Any, offset: Any = None) -> Any:
    start = x.offset if offset is None else mode.dim(offset)
    return x.set_metadata(tuple(map(mode.dim, sizes)), tuple(map(mode.dim, strides)), start)


@rule("resize_")
def _resize(mode: Any, x: Any, sizes: Any, *, memory_format: Any = None) -> Any:
    from lamina_dynshape.layout import format_strides

    new = tuple(map(mode.dim, sizes))
    if new == x.sizes and memory_format is None:
        return x
    format_ = torch.contiguous_format if memory_format in (None, torch.preserve_format) else memory_format
    return x.set_metadata(new, format_strides(new, format_), x.offset)


@rule("view_as_real")
def _view_as_real(mode: Any, x: Any) -> Any:
    real = {torch.complex64: torch.float32, torch.complex128: torch.float64, torch.complex32: torch.float16}[x.scalar_type]
    return mode.make((*x.sizes, 2), (*(plain(s * 2) for s in x.strides), 1), real, x.dev, plain(x.offset * 2), x.storage_key)


@rule("view_as_complex")
def _view_as_complex(mode: Any, x: Any) -> Any:
    cplx = {torch.float32: torch.complex64, torch.float64: torch.complex128, torch.float16: torch.complex32}[x.scalar_type]
    return mode.make(x.sizes[:-1], tuple(plain(s // 2) for s in x.strides[:-1]), cplx, x.dev, plain(x.offset // 2), x.storage_key)


# -- the same as copies (functionalization without views) ----------------------------------------------------------------
def _as_copy(view_rule: Any) -> Any:
    def rule_(mode: Any, *args: Any, **kwargs: Any) -> Any:
        result = view_rule(mode, *args, **kwargs)
        if isinstance(result, list):
            return [_fresh(mode, r) for r in result]
        return _fresh(mode, result)

    return rule_


def _fresh(mode: Any, x: Any) -> Any:
    return mode.make(x.sizes, contiguous(x.sizes), x.scalar_type, x.dev)


for _name, _base in {
    "view_copy": _reshape, "permute_copy": _permute, "transpose_copy.int": _transpose, "t_copy": _t, "unsqueeze_copy": _unsqueeze,
    "expand_copy": _expand, "slice_copy.Tensor": _slice, "select_copy.int": _select, "split_copy.Tensor": _split, "alias_copy": _alias,
    "split_with_sizes_copy": _split_with_sizes, "unbind_copy.int": _unbind, "squeeze_copy": _squeeze, "squeeze_copy.dim": _squeeze,
    "squeeze_copy.dims": _squeeze, "diagonal_copy": _diagonal, "as_strided_copy": _as_strided, "unfold_copy": _unfold, "detach_copy": _alias,
}.items():
    register(overload(_name), _as_copy(_base))
