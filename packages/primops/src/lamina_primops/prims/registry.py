"""The table of prims and their registration as `torch.ops.lamina.*`.

Every prim has five things, given in one call of `register`: schema, kind, meta rule, reference in eager PyTorch, doc line. The reference is the
kernel of the overload, so a prims graph runs as it stands; the meta rule is what fakes and the builder use.
Registration refuses wrong entries at import: a second registration, an unknown kind, no doc, a schema that mutates or aliases, a meta rule or a reference
whose parameters are not the schema's.

Cost: about 60 us per prim at import (define, impl, overload look-up).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["KINDS", "NAMESPACE", "PRIMS", "Prim", "prim_of", "register"]

NAMESPACE = "lamina"
KINDS = ("pointwise", "convert", "factory", "view", "reduction", "scan", "indexing", "window", "contraction")

_LIBRARY = torch.library.Library(NAMESPACE, "DEF")


@dataclass(frozen=True, eq=False, slots=True)
class Prim:
    """One op of the closed set. `signature` is the schema as PyTorch spells it; `overload` the callable `torch.ops.lamina.<name>.default`."""

    name: str
    schema: str
    kind: str
    meta: Callable[..., Any]
    reference: Callable[..., Any]
    doc: str
    overload: Any
    params: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Prim({NAMESPACE}.{self.name})"


PRIMS: dict[str, Prim] = {}
_BY_OVERLOAD: dict[Any, Prim] = {}


def prim_of(overload: Any) -> Prim | None:
    """The prim behind `torch.ops.lamina.<name>.default`, None for anything else."""
    return _BY_OVERLOAD.get(overload)


def _params(schema: str) -> tuple[str, ...]:
    inside = schema[schema.index("(") + 1 : schema.rindex("->")].rstrip().removesuffix(")")
    return tuple(piece.strip().split()[-1] for piece in inside.split(",") if piece.strip())


def _refuse(name: str, kind: str, doc: str, schema: str) -> str | None:
    if name in PRIMS:
        return "is registered already"
    if kind not in KINDS:
        return f"has unknown kind {kind!r}; one of {', '.join(KINDS)}"
    if not doc.strip():
        return "has no doc line"
    if "!" in schema or "(a" in schema.replace("(a,", ""):
        return "has a schema that mutates or aliases; prims are functional"
    if "=" in schema or "*" in schema:
        return "has defaults or keyword-only parameters; prims take all arguments, by position"
    return None


def register(schema: str, kind: str, *, meta: Callable[..., Any], reference: Callable[..., Any], doc: str) -> Prim:
    """Add one prim to the closed set. `schema` without namespace: `sum(Tensor x, int[] dims, bool keepdim) -> Tensor`."""
    name = schema.partition("(")[0]
    if reason := _refuse(name, kind, doc, schema):
        raise ValueError(f"prim {name!r} {reason}")
    params = _params(schema)
    for what, fn in (("meta rule", meta), ("reference", reference)):
        if isinstance(fn, type(_refuse)) and not fn.__code__.co_flags & inspect.CO_VARARGS:
            count, code = len(params), fn.__code__
            least = code.co_argcount - len(fn.__defaults__ or ())
            if not least <= count <= code.co_argcount:
                raise ValueError(f"prim {name!r}: the {what} takes {code.co_argcount} parameters, the schema {count}")
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    overload = getattr(getattr(torch.ops, NAMESPACE), name).default
    prim = Prim(name, schema, kind, meta, reference, doc, overload, params)
    PRIMS[name] = prim
    _BY_OVERLOAD[overload] = prim
    return prim
