"""Local simplifications: what a prim call is already, seen from its operands. One function per prim, `(*args) -> Value | None`.

Each is exact for every input, NaN, infinities and signed zeros included. The builder applies them when a call is made, so they also see through
chains. Constants stay constants: a `full` operand of a binary op becomes a scalar, an op on constants a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .prims import PRIMS
from .prims.pointwise import BINARY, COMPARISONS, PREDICATES, REVERSED, UNARY
from .symbolic import is_symbolic, known_equal

__all__ = ["SIMPLIFY", "constant_of", "same_shape"]

SIMPLIFY: dict[str, Callable[..., Any]] = {}


def _simplify(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(fn: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            if name not in PRIMS or name in SIMPLIFY:
                raise ValueError(f"simplification of {name}: no such prim, or registered already")
            SIMPLIFY[name] = fn
        return fn

    return add


def same_shape(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two shapes are known to be equal; asks no guard."""
    return len(a) == len(b) and all(x is y or known_equal(x, y) for x, y in zip(a, b, strict=True))


def _made_by(x: Any, name: str) -> tuple[Any, ...] | None:
    """Arguments of the call that made `x` if it is that prim."""
    call = x.call
    return call.args if call is not None and call.prim is not None and call.prim.name == name else None


def constant_of(x: Any) -> Any:
    """The number every element of `x` is, None when unknown. Symbolic fills do not count."""
    full = _made_by(x, "full")
    return full[1] if full is not None and not is_symbolic(full[1]) else None


def _emit(name: str, *args: Any) -> Any:
    from .builder import current

    builder = current()
    assert builder is not None
    return builder.emit(PRIMS[name], args)


def _full_like(x: Any, value: Any, dtype: torch.dtype | None = None) -> Any:
    return _emit("full", list(x.shape), value, dtype or x.dtype, x.device)


def _fold(name: str, x: Any, *constants: Any) -> Any:
    """The constant that a pointwise prim gives on constants of x's dtype, as a `full` like x. Evaluates the reference on one element."""
    numbers = [torch.full((), c, dtype=x.dtype) for c in constants]
    try:
        out = PRIMS[name].reference(*numbers)
    except RuntimeError:  # an integer division by zero raises when the program runs, not now
        return None
    return _full_like(x, out.item(), out.dtype)


# -- views --------------------------------------------------------------------------------------------------------------
@_simplify("convert")
def convert(x: Any, dtype: torch.dtype) -> Any:
    if x.dtype is dtype:
        return x
    inner = _made_by(x, "convert")
    if inner is not None and inner[0].dtype is dtype and _widens(dtype, x.dtype):
        return inner[0]  # there and back through a wider type
    value = constant_of(x)
    if value is not None and not (dtype.is_complex or x.dtype.is_complex):
        rounded = torch.full((), value, dtype=x.dtype).to(dtype)
        return _full_like(x, rounded.item(), dtype)
    return None


_LOW = (torch.float16, torch.bfloat16)


def _widens(narrow: torch.dtype, wide: torch.dtype) -> bool:
    if narrow in _LOW:
        return wide in (torch.float32, torch.float64)
    return (narrow is torch.float32 and wide is torch.float64) or (narrow is torch.bool and wide is not torch.bool and not wide.is_complex)


def _by_size(name: str) -> None:
    """Prims of (x, size): nothing to do, a constant of another shape, or twice the same, of which the later decides."""

    @_simplify(name)
    def to_size(x: Any, size: Sequence[Any]) -> Any:
        if same_shape(x.shape, size):
            return x
        if constant_of(x) is not None:
            return _emit("full", list(size), constant_of(x), x.dtype, x.device)
        inner = _made_by(x, name)
        return _emit(name, inner[0], list(size)) if inner is not None else None


_by_size("expand")
_by_size("reshape")


@_simplify("permute")
def permute(x: Any, dims: Sequence[int]) -> Any:
    if list(dims) == list(range(len(dims))):
        return x
    if constant_of(x) is not None:
        return _emit("full", [x.shape[d] for d in dims], constant_of(x), x.dtype, x.device)
    inner = _made_by(x, "permute")
    return _emit("permute", inner[0], [inner[1][d] for d in dims]) if inner is not None else None


@_simplify("slice")
def slice_(x: Any, dim: int, start: Any, end: Any, step: Any) -> Any:
    if type(start) is int and type(step) is int and start == 0 and step == 1 and known_equal(end, x.shape[dim]):
        return x
    if constant_of(x) is not None:
        spec = PRIMS["slice"].meta(x, dim, start, end, step)
        return _emit("full", list(spec.shape), constant_of(x), x.dtype, x.device)
    return None


@_simplify("flip")
def flip(x: Any, dims: Sequence[int]) -> Any:
    return x if all(type(x.shape[d]) is int and x.shape[d] == 1 for d in dims) else None


@_simplify("cat")
def cat(tensors: Sequence[Any], dim: int) -> Any:
    return tensors[0] if len(tensors) == 1 else None


@_simplify("pad")
def pad(x: Any, low: Sequence[Any], high: Sequence[Any], value: Any) -> Any:
    return x if all(type(p) is int and p == 0 for p in (*low, *high)) else None


@_simplify("slice_scatter")
def slice_scatter(x: Any, src: Any, dim: int, start: Any, end: Any, step: Any) -> Any:
    whole = type(start) is int and type(step) is int and start == 0 and step == 1 and known_equal(end, x.shape[dim])
    return src if whole else None


# -- pointwise ----------------------------------------------------------------------------------------------------------
def _unary(name: str) -> Callable[..., Any]:
    def rule(x: Any) -> Any:
        value = constant_of(x)
        if value is not None:
            return _fold(name, x, value)
        if name in ("neg", "bitwise_not", "logical_not"):
            inner = _made_by(x, name)
            return inner[0] if inner is not None else None
        return None

    return rule


_SWAPPED = {
    "add": "add_scalar", "mul": "mul_scalar", "maximum": "maximum_scalar", "minimum": "minimum_scalar", "eq": "eq_scalar", "ne": "ne_scalar", "lt": "gt_scalar",
    "gt": "lt_scalar", "le": "ge_scalar", "ge": "le_scalar", "bitwise_and": "bitwise_and_scalar", "bitwise_or": "bitwise_or_scalar",
    "bitwise_xor": "bitwise_xor_scalar", "logical_and": "logical_and_scalar", "logical_or": "logical_or_scalar", "fmax": "fmax_scalar", "fmin": "fmin_scalar",
    "sub": "rsub_scalar", "div": "rdiv_scalar", "pow": "rpow_scalar",
}  # fmt: skip


def _binary(name: str) -> Callable[..., Any]:
    swapped = _SWAPPED.get(name)

    def rule(a: Any, b: Any) -> Any:
        left, right = constant_of(a), constant_of(b)
        if right is not None:
            return _fold(name, a, left, right) if left is not None else _emit(f"{name}_scalar", a, right)
        if left is not None and swapped is not None and a.dtype is b.dtype and same_shape(a.shape, b.shape):
            return _emit(swapped, b, left)
        return None

    return rule


# op: the scalar that makes it the identity, exactly
_IDENTITY = {"mul_scalar": 1, "div_scalar": 1, "sub_scalar": 0, "shift_left_scalar": 0, "shift_right_scalar": 0, "bitwise_or_scalar": 0, "bitwise_xor_scalar": 0}


def _scalar(name: str) -> Callable[..., Any]:
    plain = name.removesuffix("_scalar")
    identity = _IDENTITY.get(name)

    def rule(x: Any, scalar: Any) -> Any:
        if is_symbolic(scalar):
            return None
        if identity is not None and scalar == identity and x.dtype is not torch.bool and str(scalar) != "-0.0":
            return x
        if name == "add_scalar" and scalar == 0 and not x.dtype.is_floating_point:
            return x
        if x.dtype is torch.bool and name in ("logical_and_scalar", "logical_or_scalar", "bitwise_and_scalar", "bitwise_or_scalar"):
            keeps = bool(scalar) == ("and" in name)
            return x if keeps else _full_like(x, bool(scalar))
        value = constant_of(x)
        if value is None:
            return None
        if name in REVERSED:
            return _full_like(x, PRIMS[name].reference(torch.full((), value, dtype=x.dtype), scalar).item())
        return _fold(plain, x, value, scalar)

    return rule


@_simplify("where")
def where(condition: Any, a: Any, b: Any) -> Any:
    if a is b:
        return a
    value = constant_of(condition)
    if value is not None:
        return a if value else b
    inner = _made_by(condition, "logical_not")
    return _emit("where", inner[0], b, a) if inner is not None else None


@_simplify("any", "all")
def truth(x: Any, dims: Sequence[int], keepdim: bool) -> Any:
    value = constant_of(x)
    if value is None or any(type(x.shape[d]) is not int or x.shape[d] == 0 for d in dims):
        return None
    return _emit("full", list(PRIMS["any"].meta(x, dims, keepdim).shape), value, x.dtype, x.device)


for _name in (*UNARY, *PREDICATES):
    _simplify(_name)(_unary(_name))
for _name in (*BINARY, *COMPARISONS):
    _simplify(_name)(_binary(_name))
    _simplify(f"{_name}_scalar")(_scalar(f"{_name}_scalar"))
for _name in REVERSED:
    _simplify(_name)(_scalar(_name))
