"""Guards: what a compiled frame relied upon, as records.

Between: symbolic execution, which collects them, and `native.compile_guards`, which turns them into a flat native program.
Keeps:   a guard is a pure statement about one source. Order among guards does not matter: the program reads parents first
         and checks what makes a read legal (a type, a length, a key) before the read.

`str(guard)` is Python text for people; tests compare with it, the failing guard of a recompile prints it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from lamina_dynshape.support.errors import UserLocation

from .source import LocalSource, Source

__all__ = ["Described", "GlobalState", "Guard", "GuardFailure", "GuardKind", "GuardSet", "ShapeCondition", "TensorSpec", "describe", "devices_of_modes", "global_state", "shape_guard", "shorten", "state_guard", "type_name"]


class GuardKind(Enum):
    """What a guard states of its source's value `x`; the comment is the type and meaning of `expected`."""

    TYPE = auto()  # type: type(x) is expected
    ID = auto()  # object: x is expected. Held weakly where the object allows: a dead one never matches again
    EQUALS = auto()  # constant: same type and same value (NaN equals NaN, 0.0 is not -0.0), recursively in tuples
    NONE = auto()  # None: x is None
    NOT_NONE = auto()  # None: x is not None
    BOOL = auto()  # bool: x is expected
    LEN = auto()  # int: len(x) == expected, for built-in containers and their subclasses' own storage
    DICT_KEYS = auto()  # tuple: tuple(x) == expected, in order, key types included
    HAS_KEY = auto()  # constant: expected in x (a dictionary)
    NO_KEY = auto()  # constant: expected not in x (a dictionary)
    HAS_ATTR = auto()  # str: hasattr(x, expected)
    NO_ATTR = auto()  # str: neither in the instance's dictionary nor in the MRO
    TENSOR = auto()  # TensorSpec
    ALIAS = auto()  # Source: x is the same object as the other source's
    NO_ALIAS = auto()  # tuple of Sources: x and those are pairwise different objects
    NO_OVERLAP = auto()  # tuple of Sources: x and those are tensors of pairwise different storages
    GLOBAL_STATE = auto()  # GlobalState; the source is ignored
    SHAPE = auto()  # ShapeCondition; the source is ignored
    MRO = auto()  # tuple of types: x is a type, and its method resolution order is expected
    WEAK_TYPE = auto()  # a type: isinstance(x, expected), no metaclass hook


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What must hold of a tensor. `None` in sizes and strides matches anything; is_leaf, names and grad are not looked at."""

    cls: type  # exact Python type
    dtype: torch.dtype
    device: torch.device
    keys: int  # raw dispatch key set: layout, conjugate and negative bits, inference tensor, subclass
    sizes: tuple[int | None, ...]
    strides: tuple[int | None, ...] | None  # None: nothing is required of the strides
    requires_grad: bool

    @staticmethod
    def of(t: torch.Tensor, *, dynamic: frozenset[int] | set[int] = frozenset(), dynamic_strides: Iterable[int] = ()) -> TensorSpec:
        """The spec of a real tensor. `dynamic` dims match any size; strides that a dynamic size feeds and `dynamic_strides` match any stride."""
        with torch._C.DisableTorchFunctionSubclass():  # questions of ours, not of the program
            plain = t.layout is torch.strided
            sizes = tuple(None if d in dynamic else n for d, n in enumerate(t.shape))
            strides: tuple[int | None, ...] | None = None
            if plain:
                free = _strides_fed_by(t, dynamic).union(dynamic_strides)
                strides = tuple(None if d in free else n for d, n in enumerate(t.stride()))
            return TensorSpec(type(t), t.dtype, t.device, torch._C._dispatch_keys(t).raw_repr(), sizes, strides, t.requires_grad)

    def __str__(self) -> str:
        def shape(values: tuple[int | None, ...]) -> str:
            return "[" + ", ".join("*" if v is None else str(v) for v in values) + "]"

        text = f"{self.cls.__name__} {str(self.dtype).removeprefix('torch.')}{shape(self.sizes)} on {self.device}"
        if self.strides is not None:
            text += f" strides {shape(self.strides)}"
        return text + (" requires_grad" if self.requires_grad else "")


def _strides_fed_by(t: torch.Tensor, dynamic: frozenset[int] | set[int]) -> set[int]:
    """Dims whose stride may change when a dynamic size does: those with a larger stride than some dynamic dim."""
    strides = t.stride()
    return {d for d, s in enumerate(strides) if any(s >= strides[k] * max(1, t.shape[k]) for k in dynamic if k != d)}


@dataclass(frozen=True, slots=True)
class ShapeCondition:
    """A boolean expression over numbers of the frame.

    `text` is Python over the names in `bindings` (`s0*2 == s1 and s0 >= 2`): `+ - * // % min max`, comparisons, `and or not`.
    `bindings`: name -> SizeSource, StrideSource, OffsetSource, or the source of a Python int.
    """

    text: str
    bindings: tuple[tuple[str, Source], ...]

    def __str__(self) -> str:
        import re

        names = {n: s.name() for n, s in self.bindings}
        return re.sub(r"[A-Za-z_]\w*", lambda m: names.get(m.group(), m.group()), self.text)


@dataclass(frozen=True, slots=True)
class GlobalState:
    """Thread and process state that changes what PyTorch calls mean. Number of threads is left out on purpose."""

    grad_enabled: bool
    inference_mode: bool
    included_keys: int  # thread-local dispatch keys (autocast, dispatch modes, functorch levels, ...)
    excluded_keys: int
    autocast_cpu_dtype: int  # -1 where autocast is off
    autocast_cuda_dtype: int
    autocast_cache: bool
    default_dtype: int  # c10::ScalarType
    deterministic: int  # bit 0: deterministic algorithms, bit 1: warn only
    function_modes: int  # length of the TorchFunctionMode stack
    dispatch_modes: int  # length of the TorchDispatchMode stack
    torch_function: int  # 0 enabled, 1 subclasses disabled, 2 all disabled


def global_state() -> GlobalState:
    """The state now, as the native check sees it."""
    from .native import extension

    return GlobalState(*extension().global_state())


def devices_of_modes(_: Any = None) -> tuple[torch.device, ...] | None:
    """Devices of the `torch.device` contexts on the stack of function modes, innermost last; None where the stack holds other modes, too."""
    modes = _get_current_function_mode_stack()
    return tuple(m.device for m in modes) if all(type(m) is DeviceContext for m in modes) else None


@dataclass(frozen=True, slots=True)
class Guard:
    """`kind` holds of the value at `source`. `stack`: the user's frames that relied on it, innermost last."""

    source: Source
    kind: GuardKind
    expected: Any = None
    stack: tuple[Any, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return _TEXT[self.kind](self.source.name(), self.expected)


def type_name(t: Any) -> str:
    if isinstance(t, Described):
        return t.text
    return t.__qualname__ if t.__module__ == "builtins" else f"{t.__module__}.{t.__qualname__}"


@dataclass(frozen=True, slots=True)
class Described:
    """Stands in a record for an object that the record must not keep alive."""

    text: str


def describe(value: Any) -> str:
    """A short phrase for any object, without an address."""
    if isinstance(value, Described):
        return value.text
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return shorten(repr(value))
    name = getattr(value, "__qualname__", None)
    return f"{type(value).__name__} {name}" if isinstance(name, str) else f"{type(value).__name__} object"


def shorten(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _classes(mro: Any) -> str:
    return mro.text if isinstance(mro, Described) else f"({', '.join(map(type_name, mro))})"


_TEXT = {
    GuardKind.TYPE: lambda s, e: f"type({s}) is {type_name(e)}",
    GuardKind.ID: lambda s, e: f"{s} is <{describe(e)}>",
    GuardKind.EQUALS: lambda s, e: f"{s} == {shorten(repr(e))}",
    GuardKind.NONE: lambda s, e: f"{s} is None",
    GuardKind.NOT_NONE: lambda s, e: f"{s} is not None",
    GuardKind.BOOL: lambda s, e: f"{s} is {e}",
    GuardKind.LEN: lambda s, e: f"len({s}) == {e}",
    GuardKind.DICT_KEYS: lambda s, e: f"tuple({s}) == {shorten(repr(e))}",
    GuardKind.HAS_KEY: lambda s, e: f"{e!r} in {s}",
    GuardKind.NO_KEY: lambda s, e: f"{e!r} not in {s}",
    GuardKind.HAS_ATTR: lambda s, e: f"hasattr({s}, {e!r})",
    GuardKind.NO_ATTR: lambda s, e: f"not hasattr({s}, {e!r})",
    GuardKind.TENSOR: lambda s, e: f"{s} is {e.text if isinstance(e, Described) else e}",
    GuardKind.ALIAS: lambda s, e: f"{s} is {e.name()}",
    GuardKind.NO_ALIAS: lambda s, e: f"distinct({', '.join([s, *(o.name() for o in e)])})",
    GuardKind.NO_OVERLAP: lambda s, e: f"distinct_storages({', '.join([s, *(o.name() for o in e)])})",
    GuardKind.GLOBAL_STATE: lambda s, e: "global_state() is as it was",
    GuardKind.SHAPE: lambda s, e: str(e),
    GuardKind.MRO: lambda s, e: f"{s}.__mro__ is {_classes(e)}",
    GuardKind.WEAK_TYPE: lambda s, e: f"isinstance({s}, {type_name(e)})",
}


@dataclass(frozen=True, slots=True)
class GuardFailure:
    """Why a check failed: the first guard that did not hold, and what was there instead."""

    guard: Guard
    expected: str
    saw: str

    def __str__(self) -> str:
        frame = self.guard.stack[-1] if self.guard.stack else None
        line = f" (relied on at {UserLocation.of(frame)})" if frame is not None else ""
        return f"{self.guard}: expected {self.expected}, saw {self.saw}{line}"


class GuardSet:
    """Guards in order of first mention, without duplicates. A later guard that says the same costs one hash."""

    def __init__(self) -> None:
        self._guards: dict[tuple[Any, ...], Guard] = {}

    def add(self, source: Source, kind: GuardKind, expected: Any = None, stack: tuple[Any, ...] = ()) -> None:
        key = (source, kind, _expected_key(kind, expected))
        if key not in self._guards:
            self._guards[key] = Guard(source, kind, expected, stack)

    def update(self, others: list[Guard]) -> None:
        for g in others:
            self.add(g.source, g.kind, g.expected, g.stack)

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(list(self._guards.values()))

    def __len__(self) -> int:
        return len(self._guards)


_BY_VALUE = {GuardKind.LEN, GuardKind.HAS_ATTR, GuardKind.NO_ATTR, GuardKind.BOOL, GuardKind.SHAPE, GuardKind.NO_ALIAS, GuardKind.NO_OVERLAP}
_ANY = LocalSource("")  # source of guards that have none


def _expected_key(kind: GuardKind, expected: Any) -> Any:
    """What makes two guards of one source and kind the same statement."""
    if kind in _BY_VALUE:
        return expected
    if kind is GuardKind.MRO:
        return None
    if kind in (GuardKind.EQUALS, GuardKind.DICT_KEYS, GuardKind.HAS_KEY, GuardKind.NO_KEY):
        return repr(expected)
    return id(expected) if kind not in (GuardKind.TENSOR, GuardKind.GLOBAL_STATE) else kind


def shape_guard(text: str, bindings: dict[str, Source], stack: tuple[Any, ...] = ()) -> Guard:
    """A SHAPE guard record."""
    return Guard(_ANY, GuardKind.SHAPE, ShapeCondition(text, tuple(bindings.items())), stack)


def state_guard(expected: GlobalState | None = None) -> Guard:
    """A GLOBAL_STATE guard record, of the state now by default."""
    return Guard(_ANY, GuardKind.GLOBAL_STATE, expected or global_state())
