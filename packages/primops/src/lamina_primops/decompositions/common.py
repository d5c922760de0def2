"""What decompositions are written with: prim calls, type promotion, broadcasting.

`p.<prim>(...)` makes a prim call in the current builder, or runs the prim on real tensors when there is none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from .. import builder as _builder
from ..prims import PRIMS, Prim
from ..prims.pointwise import BINARY
from ..simplify import same_shape
from ..symbolic import is_symbolic, plain

__all__ = [
    "BINARY", "LOW", "add_scaled", "aten", "aten_call", "broadcast", "broadcast_shapes", "canonical", "canonical_dims", "compute_dtype", "contiguous_strides",
    "expand_to", "float32_inside", "full", "full_like", "is_tensor", "number", "numel", "p", "pointwise", "promoted", "reshape", "result_dtype", "same_shape", "size_of",
    "to",
]  # fmt: skip

aten = torch.ops.aten
LOW = (torch.float16, torch.bfloat16)


def _caller(prim: Prim) -> Callable[..., Any]:
    overload = prim.overload

    def call(*args: Any) -> Any:
        builder = _builder.current()
        return overload(*args) if builder is None else builder.emit(prim, args)

    call.__name__, call.__doc__ = prim.name, prim.doc
    return call


p: Any = SimpleNamespace(**{name: _caller(prim) for name, prim in PRIMS.items()})


def aten_call(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Another ATen op inside a decomposition: decomposed in turn, or an ATen call of the graph."""
    builder = _builder.current()
    if builder is None:
        return func(*args, **kwargs)
    from ..lowering import decompose

    return decompose(builder, func, args, kwargs)


def is_tensor(x: Any) -> bool:
    """A tensor or a value of the builder."""
    return isinstance(x, (torch.Tensor, _builder.Value))


# -- sizes ------------------------------------------------------------------------------------------------------------
def canonical(dim: int, ndim: int) -> int:
    """`dim` in 0..ndim-1; rank 0 counts as rank 1."""
    return dim + max(ndim, 1) if dim < 0 else dim


def canonical_dims(dims: Any, ndim: int) -> list[int]:
    """Sorted canonical dims; None and empty mean all."""
    if ndim == 0 or dims is None or (not isinstance(dims, int) and len(dims) == 0):
        return list(range(ndim))
    return sorted({canonical(d, ndim) for d in ([dims] if isinstance(dims, int) else dims)})


def numel(shape: Sequence[Any]) -> Any:
    """Product of the sizes."""
    n: Any = 1
    for s in shape:
        n = n * s
    return plain(n)


def size_of(x: Any, dims: Sequence[int]) -> Any:
    """Elements along `dims`."""
    return numel([x.shape[d] for d in dims])


def contiguous_strides(shape: Sequence[Any]) -> list[Any]:
    """Row-major strides."""
    from ..prims.spec import contiguous

    return list(contiguous(shape))


def broadcast_shapes(*shapes: Sequence[Any]) -> list[Any]:
    """The common shape; plain sizes are preferred over symbolic ones of the same value."""
    out: list[Any] = [1] * max((len(s) for s in shapes), default=0)
    for shape in shapes:
        offset = len(out) - len(shape)
        for i, s in enumerate(shape):
            have = out[offset + i]
            if type(have) is int and have == 1:
                out[offset + i] = s
            elif type(s) is int and s != 1:
                if type(have) is int and have != s:
                    raise ValueError(f"shapes {shapes} do not broadcast")
                out[offset + i] = s
    return out


def reshape(x: Any, size: Sequence[Any]) -> Any:
    """x under another shape; at most one -1."""
    size = list(size)
    for i, s in enumerate(size):
        if type(s) is int and s == -1:
            rest = numel([*size[:i], *size[i + 1 :]])
            size[i] = numel(x.shape) // rest if not (type(rest) is int and rest == 0) else 0
    return p.reshape(x, size)


def expand_to(x: Any, shape: Sequence[Any]) -> Any:
    """x broadcast to `shape`."""
    if same_shape(x.shape, shape):
        return x
    if x.ndim != len(shape):
        x = p.reshape(x, [1] * (len(shape) - x.ndim) + list(x.shape))
    return p.expand(x, list(shape))


def broadcast(*xs: Any) -> tuple[Any, ...]:
    """Tensors brought to their common shape."""
    shape = broadcast_shapes(*[x.shape for x in xs])
    return tuple(expand_to(x, shape) for x in xs)


# -- dtypes -----------------------------------------------------------------------------------------------------------
def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Where arithmetic on `dtype` happens: float32 for half and bfloat16."""
    return torch.float32 if dtype in LOW else dtype


def to(x: Any, dtype: torch.dtype) -> Any:
    """x converted, if it is not of that dtype."""
    return x if x.dtype is dtype else p.convert(x, dtype)


def _scalar_dtype(x: Any) -> torch.dtype:
    if isinstance(x, (bool, torch.SymBool)):
        return torch.bool
    if isinstance(x, (int, torch.SymInt)):
        return torch.int64
    return torch.complex64 if isinstance(x, complex) else torch.get_default_dtype()


def _kind(dtype: torch.dtype) -> int:
    return 3 if dtype.is_complex else 2 if dtype.is_floating_point else 0 if dtype is torch.bool else 1


def result_dtype(*operands: Any) -> torch.dtype:
    """PyTorch's type promotion: dimensioned tensors, then 0-d tensors, then numbers; a later class counts only with a higher kind (bool, int, float)."""
    classes: list[torch.dtype | None] = [None, None, None]
    for x in operands:
        if x is None:
            continue
        place, dtype = (2, _scalar_dtype(x)) if not is_tensor(x) else (0 if x.ndim else 1, x.dtype)
        have = classes[place]
        classes[place] = dtype if have is None else torch.promote_types(have, dtype)
    result: torch.dtype | None = None
    for dtype in classes:
        if dtype is None or result is None:
            result = result or dtype
        elif _kind(dtype) > _kind(result):
            result = torch.promote_types(result, dtype)
    assert result is not None
    return result


def promoted(*xs: Any) -> tuple[Any, ...]:
    """Tensors in their common dtype."""
    dtype = result_dtype(*xs)
    return tuple(to(x, dtype) for x in xs)


def number(value: Any, dtype: torch.dtype) -> Any:
    """A Python number of the kind of `dtype`."""
    if is_symbolic(value):
        return value
    if dtype.is_floating_point:
        return float(value)
    return bool(value) if dtype is torch.bool else int(value)


def full(shape: Sequence[Any], value: Any, dtype: torch.dtype, device: Any) -> Any:
    """A constant tensor."""
    return p.full(list(shape), number(value, dtype), dtype, device)


def full_like(x: Any, value: Any, dtype: torch.dtype | None = None) -> Any:
    """A constant tensor of x's shape."""
    return full(x.shape, value, dtype or x.dtype, x.device)


# -- templates --------------------------------------------------------------------------------------------------------
# Binary ops where eager keeps a Python scalar in float32 next to half operands; elsewhere it is rounded to the operand's dtype first.
_WIDE_SCALAR = frozenset({"mul", "div"})
_COMMUTED = {"sub": "rsub_scalar", "div": "rdiv_scalar", "pow": "rpow_scalar"}


def pointwise(name: str, a: Any, b: Any, *, dtype: torch.dtype | None = None, out: torch.dtype | None = None) -> Any:
    """Binary prim `name` on tensors or numbers, as eager has it: promoted to `dtype` (default: the result dtype of both), computed in float32 for
    half types, broadcast, result in `out` (default: `dtype`)."""
    dtype = dtype or result_dtype(a, b)
    inside = compute_dtype(dtype)
    if not is_tensor(b):
        b = _rounded(name, b, dtype)
        x = getattr(p, f"{name}_scalar")(to(to(a, dtype), inside), number(b, inside))
    elif not is_tensor(a):
        a, y = number(_rounded(name, a, dtype), inside), to(to(b, dtype), inside)
        x = getattr(p, _COMMUTED[name])(y, a) if name in _COMMUTED else getattr(p, name)(full_like(y, a), y)
    else:
        a, b = broadcast(to(to(a, dtype), inside), to(to(b, dtype), inside))
        x = getattr(p, name)(a, b)
    if out is not None or x.dtype is torch.bool:
        return to(x, out or x.dtype)
    return to(x, dtype)


def _rounded(name: str, scalar: Any, dtype: torch.dtype) -> Any:
    if dtype in LOW and name not in _WIDE_SCALAR and not is_symbolic(scalar):
        return torch.tensor(float(scalar), dtype=dtype).item()
    return scalar


def scaled(x: Any, factor: Any) -> Any:
    """x * factor in x's dtype; x itself for the number 1. A number that only the run knows stays one: no question is asked of it."""
    return x if not is_symbolic(factor) and factor == 1 else p.mul_scalar(x, number(factor, x.dtype))


def add_scaled(a: Any, b: Any, alpha: Any) -> Any:
    """a + alpha * b in one compute dtype (both tensors of that dtype, same shape)."""
    return p.add(a, scaled(b, alpha))


def float32_inside(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: half operands become float32, results are rounded once to the dtype of the first float tensor. Calls without float tensors are
    not covered."""

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        first = next((a.dtype for a in args if is_tensor(a) and a.dtype.is_floating_point), None)
        if first is None:
            return NotImplemented  # integers: eager's own rules
        if first not in LOW:
            return fn(*args, **kwargs)
        args = tuple(to(a, torch.float32) if is_tensor(a) and a.dtype in LOW else a for a in args)
        kwargs = {k: to(a, torch.float32) if is_tensor(a) and a.dtype in LOW else a for k, a in kwargs.items()}
        out = fn(*args, **kwargs)
        if out is NotImplemented:
            return out
        if isinstance(out, tuple):
            return tuple(to(o, first) if is_tensor(o) and o.dtype is torch.float32 else o for o in out)
        return to(out, first) if out.dtype is torch.float32 else out

    return wrapped

