"""`GuardProgram`: a native guard program that knows the records it was made of, and can say which one failed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ..guards import Described, Guard, GuardFailure, GuardKind, TensorSpec, describe, global_state, shorten, type_name
from ..source import ConstantSource, PrintedSource, Source
from .build import extension
from .lower import lower

__all__ = ["GuardProgram", "arg_names_of", "compile_guards"]

_CO_VARARGS, _CO_VARKEYWORDS = 0x04, 0x08


def arg_names_of(code: Any) -> tuple[str, ...]:
    """Names of the argument slots, in the order of `co_varnames`."""
    n = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & _CO_VARARGS) + bool(code.co_flags & _CO_VARKEYWORDS)
    return code.co_varnames[:n]


class GuardProgram(extension().Program):  # type: ignore[misc]
    """Guards compiled for frames with given argument and free-variable names.

    `check(slots, globals=None, closure=None)`, `supply(...)` and `failure(...)` are native; slots is a tuple.
    """

    guards: tuple[Guard, ...]
    supplied: tuple[Source, ...]
    leaf_sources: list[Source]

    def explain_failure(self, slots: tuple[Any, ...], globals: Any = None, closure: Any = None) -> GuardFailure | None:
        """The first guard that does not hold, reading everything anew; None if all hold."""
        found = self.failure(slots, globals, closure)
        if found is None:
            return None
        index, was_read, value = found
        if not 0 <= index < len(self.guards):
            return GuardFailure(self.guards[0], "a readable value", "a value that cannot be read")
        guard = self.guards[index]
        return GuardFailure(guard, _expected_text(guard), self._saw_text(guard, was_read, value))

    def _saw_text(self, guard: Guard, was_read: bool, value: Any) -> str:
        if guard.kind is GuardKind.GLOBAL_STATE:
            return _state_difference(guard.expected, global_state())
        if not was_read:
            return "nothing there"
        if guard.kind is GuardKind.SHAPE and type(value) is dict and all(type(i) is int and i < len(self.leaf_sources) for i in value):  # else what was read is no number
            return ", ".join(f"{self.leaf_sources[i].name()} = {n}" for i, n in value.items())
        return _VALUE_TEXT.get(guard.kind, _short)(value)


def _state_difference(expected: Any, now: Any) -> str:
    from dataclasses import fields

    return ", ".join(f"{f.name} = {getattr(now, f.name)}" for f in fields(expected) if getattr(now, f.name) != getattr(expected, f.name)) or "the same"


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return _tensor_text(value)
    text = repr(value) if isinstance(value, (int, float, str, bytes, bool, type(None), tuple, type)) else f"{type(value).__name__} object"
    return shorten(text)


def _tensor_text(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return _short(value)
    try:
        return str(TensorSpec.of(value))
    except (RuntimeError, TypeError):
        return type(value).__name__


def _length_text(value: Any) -> str:
    try:
        return str(len(value))
    except TypeError:
        return f"{type(value).__name__} object"


def _keys_text(value: Any) -> str:
    return shorten(repr(tuple(value))) if isinstance(value, dict) else _short(value)


_VALUE_TEXT = {
    GuardKind.TYPE: lambda v: type_name(type(v)),
    GuardKind.WEAK_TYPE: lambda v: type_name(type(v)),
    GuardKind.TENSOR: _tensor_text,
    GuardKind.LEN: _length_text,
    GuardKind.DICT_KEYS: _keys_text,
    GuardKind.HAS_KEY: _keys_text,
    GuardKind.NO_KEY: lambda v: "it",
    GuardKind.NO_ATTR: lambda v: "it",
    GuardKind.HAS_ATTR: lambda v: "no such attribute",
    GuardKind.MRO: lambda v: shorten(f"({', '.join(map(type_name, v.__mro__))})") if isinstance(v, type) else type(v).__name__,
    GuardKind.ALIAS: lambda v: "different objects",
    GuardKind.NO_ALIAS: lambda v: "the same object twice",
    GuardKind.NO_OVERLAP: lambda v: "the same memory twice",
}


def _expected_text(guard: Guard) -> str:
    match guard.kind:
        case GuardKind.SHAPE | GuardKind.ALIAS | GuardKind.NO_ALIAS | GuardKind.NO_OVERLAP | GuardKind.NONE | GuardKind.NOT_NONE | GuardKind.NO_ATTR | GuardKind.HAS_ATTR:
            return "it to hold"
        case GuardKind.NO_KEY:
            return f"no {guard.expected!r}"
        case GuardKind.TYPE | GuardKind.WEAK_TYPE:
            return type_name(guard.expected)
        case GuardKind.ID:
            return f"that {describe(guard.expected)}"
        case GuardKind.GLOBAL_STATE:
            return "the state of the first call"
        case GuardKind.TENSOR:
            return guard.expected.text
    return guard.expected.text if isinstance(guard.expected, Described) else shorten(repr(guard.expected))


def compile_guards(guards: Iterable[Guard], arg_names: Sequence[str], *, free_names: Sequence[str] = (), supplied: Sequence[Source] = ()) -> GuardProgram:
    """The program that checks `guards` on frames with these argument slots and free variables, and supplies the values of `supplied`."""
    records = tuple(guards)
    program: GuardProgram = lower(extension(), records, arg_names, free_names, supplied, GuardProgram)
    program.guards = tuple(_without_strong_references(g) for g in records)
    program.supplied = tuple(supplied)
    return program


def _without_strong_references(guard: Guard) -> Guard:
    """The program holds classes and the objects of ID guards weakly; the records, made for printing, must not keep them either."""
    source, kept = guard.source, guard.expected
    root = source
    while root.parent is not None:
        root = root.parent
    if type(root) is ConstantSource and isinstance(root.value, type):
        source = PrintedSource(source.name())
    if guard.kind is GuardKind.ID:
        kept = Described(describe(kept))
    elif guard.kind is GuardKind.MRO:
        kept = Described(f"({', '.join(map(type_name, kept))})")
    elif guard.kind in (GuardKind.TYPE, GuardKind.WEAK_TYPE):
        kept = Described(type_name(kept))
    elif guard.kind is GuardKind.TENSOR:
        kept = Described(str(kept))
    return guard if source is guard.source and kept is guard.expected else Guard(source, guard.kind, kept, guard.stack)
