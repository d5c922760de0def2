"""Ops on lists of tensors, by one rule: `_foreach_<op>` is the op on each tensor. Lists go along, other arguments are the same for all.

Shape rules run the calls on fakes, decompositions lower them: `on_each(overload)` gives a function of (call, args, kwargs) for both.
Source:  eager's CPU kernels of these ops, which are that loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["foreach_overloads", "on_each"]

_ATEN = torch.ops.aten
_PREFIX = "_foreach_"
# Overloads of the op per tensor that may stand behind an overload on lists, first found.
_FORMS = {
    "default": ("default",), "List": ("Tensor", "Tensor_Tensor", "default"), "Scalar": ("Tensor_Scalar", "Scalar", "default"),
    "ScalarList": ("Tensor_Scalar", "Scalar", "default"), "Tensor": ("Tensor", "default"), "ScalarAndTensor": ("Scalar",),
}  # fmt: skip
# Ops whose name per tensor is another one, and bounds, which are a maximum or minimum with a number.
_NAMES = {"zero": "zeros_like", "norm": "linalg_vector_norm", "powsum": "linalg__powsum"}
_BOUNDS = {"maximum": "clamp_min", "minimum": "clamp_max"}
_SCALED = ("addcmul", "addcdiv")  # their numbers are the keyword `value`

Each = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], list[Any]]


def foreach_overloads() -> dict[Any, Each]:
    """The functional overloads on lists, each with its `on_each`."""
    found = {}
    for packet_name in sorted({n.removesuffix("_") for n in dir(torch) if n.startswith(_PREFIX)}):
        packet = getattr(_ATEN, packet_name)
        for form in packet.overloads():
            overload = getattr(packet, form)
            if not overload._schema.is_mutable and (rule := on_each(overload)) is not None:
                found[overload] = rule
    return found


def on_each(overload: Any) -> Each | None:
    """Function that makes the calls of a functional overload on lists, one per tensor, through `call(op, *args, **kwargs)`; None when there is no such op."""
    name, form = overload._schema.name.removeprefix("aten::" + _PREFIX), overload._overloadname or "default"
    op = _per_tensor(name, form)
    if op is None:
        return None
    first = 1 if form == "ScalarAndTensor" else 0

    def run(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        n = len(args[first])
        columns, named = [_items(a, n) for a in args], {k: _items(v, n) for k, v in kwargs.items()}
        return [_one(call, name, op, i, [c[i] for c in columns], {k: c[i] for k, c in named.items()}) for i in range(n)]

    return run


def _per_tensor(name: str, form: str) -> Any:
    if name in _BOUNDS and form in ("Scalar", "ScalarList"):
        name = _BOUNDS[name]
    packet = getattr(_ATEN, _NAMES.get(name, name), None)
    for candidate in _FORMS.get(form, ()) if packet is not None else ():
        if candidate in packet.overloads():
            return getattr(packet, candidate)
    return None


def _items(a: Any, n: int) -> list[Any]:
    """The argument of each tensor: the list's items, or one value for all."""
    return list(a) if isinstance(a, (list, tuple)) else [a] * n


def _one(call: Callable[..., Any], name: str, op: Any, i: int, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if name in ("norm", "powsum"):  # (x, ord, dtype): over all elements
        given = {"ord": 2, **dict(zip(("ord", "dtype"), args[1:], strict=False)), **kwargs}
        return call(op, args[0], given["ord"], None, False, dtype=given.get("dtype"))
    if name in _SCALED and len(args) == 4:
        scalar = args.pop()
        if hasattr(scalar, "shape"):  # the scalars of all tensors in one tensor: its element is one more factor
            args[1] = call(_ATEN.mul.Tensor, args[1], call(_ATEN.select.int, scalar, 0, i))
        else:
            kwargs = {**kwargs, "value": scalar}
    return call(op, *args, **kwargs)
