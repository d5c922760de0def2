"""What a program could see of a call, as text that two runs can be compared by.

Between: a callable and its arguments -> `Observation`.
Keeps:   tensors by bits, strides and flags; identity of mutable objects and aliasing of tensors by number of first meeting;
         exceptions with cause, context and the user's frames; printed text, module globals, grad mode, random state.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import io
import random
import re
import traceback
import types
from collections import OrderedDict, deque
from typing import Any, NamedTuple

import numpy as np
import torch
from lamina_dynamo import disable

__all__ = ["Observation", "breaking_print", "describe", "observe"]

_ATOMS = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, torch.Size, range, enum.Enum, np.generic)
_MODULE_NUMBER = re.compile(r"(?<=generated_)\d+")  # each run has its own module, which some messages of 3.13 name


@disable
def breaking_print(*args: Any, **kwargs: Any) -> None:
    """`print` that is a graph break: the feature programs have their breaks there."""
    print(*args, **kwargs)


class Observation(NamedTuple):
    """Everything a call did."""

    result: str
    arguments: str
    printed: str
    error: str
    frames: str
    globals: str
    state: str

    def without_frames(self) -> Observation:
        """For programs that are broken in the middle of handling: a rebuilt exception has not the frames below the break."""
        return self._replace(frames="")

    def difference(self, other: Observation) -> str:
        """The fields that differ, both ways."""
        return "\n".join(f"{name}:\n  want {a}\n  got  {b}" for name, a, b in zip(self._fields, self, other) if a != b)


def observe(fn: Any, args: Any, globals_: dict[str, Any] | None = None, watched: Any = ()) -> Observation:
    """Call `fn(*args)` and describe what came of it; `watched` names the globals to look at."""
    torch.manual_seed(0)
    random.seed(0)
    out, result, error, frames = io.StringIO(), None, "", ""
    with contextlib.redirect_stdout(out):
        try:
            result = fn(*args)
        except Exception as e:
            error, frames = _error(e), _frames(e)
    text = _Describer()
    seen = text(result), text(args), out.getvalue(), error, frames, text({k: globals_[k] for k in watched if k in globals_} if globals_ else {})
    state = f"grad={torch.is_grad_enabled()} rng={hash(bytes(torch.get_rng_state().numpy()))} python={hash(random.getstate())}"
    return Observation(*(_MODULE_NUMBER.sub("", part) for part in seen), state)


def describe(value: Any) -> str:
    return _Describer()(value)


def _error(e: BaseException, depth: int = 0) -> str:
    """Type, arguments, chain."""
    if depth > 4:
        return "..."
    links = "".join(f" {n}=({_error(x, depth + 1)})" for n in ("__cause__", "__context__") if (x := getattr(e, n)) is not None)
    inner = [_error(x, depth + 1) for x in e.exceptions] if isinstance(e, BaseExceptionGroup) else ""
    return f"{type(e).__name__}{describe(e.args)}{inner}{' suppressed' if e.__suppress_context__ else ''}{links}"


def _frames(e: BaseException) -> str:
    """The user's frames; a frame that was cut in two counts once, where it ended."""
    frames: list[list[Any]] = []
    for f in traceback.extract_tb(e.__traceback__):
        if "/dynamo_fuzz/observe" in f.filename or "/lamina_" in f.filename or f.filename.startswith("<lamina") or "/torch/" in f.filename:
            continue
        if frames and frames[-1][0] == f.name:
            frames[-1][1] = f.lineno
        else:
            frames.append([f.name, f.lineno])
    return str(frames)


class _Describer:
    """Text of a graph of objects."""

    def __init__(self) -> None:
        self.numbers: dict[int, int] = {}
        self.storages: dict[int, int] = {}
        self.hold: list[Any] = []

    def __call__(self, v: Any) -> str:
        if isinstance(v, _ATOMS):
            return f"{type(v).__name__}:{v!r}"
        t = type(v)
        if t is tuple or t is frozenset:
            return f"{t.__name__}({self._items(sorted(v, key=repr) if t is frozenset else v)})"
        if isinstance(v, (type, types.BuiltinFunctionType, types.ModuleType)):
            return f"{t.__name__} {getattr(v, '__qualname__', v)}"
        known = self.numbers.get(id(v))
        if known is not None:
            return f"#{known}"
        self.numbers[id(v)] = len(self.numbers)
        self.hold.append(v)
        return f"#{len(self.numbers) - 1}={self._object(v, t)}"

    def _items(self, items: Any) -> str:
        return ", ".join([self(x) for x in items])

    def _object(self, v: Any, t: type) -> str:
        if isinstance(v, torch.Tensor):
            return self._tensor(v)
        if isinstance(v, np.ndarray):
            return f"ndarray {v.dtype}{v.shape} {v.tobytes().hex()}"
        if isinstance(v, types.FunctionType):
            cells = [self._cell(c) for c in v.__closure__ or ()]
            return f"function {v.__qualname__} {self(v.__defaults__)} {self(v.__kwdefaults__)} {cells} {self(vars(v))}"
        if isinstance(v, types.MethodType):
            return f"method {self(v.__func__)} of {self(v.__self__)}"
        if isinstance(v, functools.partial):
            return f"partial {self(v.func)} {self(v.args)} {self(v.keywords)}"
        if isinstance(v, BaseException):
            return _error(v, 1)
        body = ""
        if isinstance(v, dict):
            body = "{" + ", ".join([f"{self(a)}: {self(b)}" for a, b in (v.items() if isinstance(v, OrderedDict) else dict.items(v))]) + "}"
            if hasattr(v, "default_factory"):
                body += f" default {self(v.default_factory)}"
        elif isinstance(v, (list, tuple, deque)):
            body = f"[{self._items(list(v))}]" + (f" maxlen {v.maxlen}" if isinstance(v, deque) else "")
        elif isinstance(v, set):
            body = f"{{{', '.join(sorted([self(x) for x in v]))}}}"
        elif hasattr(v, "__next__"):
            body = "iterator over " + self._rest(v)
        elif isinstance(v, (type({}.keys()), type({}.values()), type({}.items()))):
            body = self._items(v)
        attributes = getattr(v, "__dict__", None)
        slots = {s: getattr(v, s) for k in t.__mro__ for s in _slots(k) if hasattr(v, s)}
        return f"{t.__name__} {body}{self(dict(attributes)) if attributes else ''}{self(slots) if slots else ''}"

    def _rest(self, it: Any) -> str:
        """What is left of an iterator; nothing looks at it afterwards."""
        out = []
        try:
            for _ in range(20):
                out.append(self(next(it)))
        except StopIteration as e:
            out.append(f"return {self(e.value)}")
        except Exception as e:
            out.append(_error(e, 1))
        return "[" + ", ".join(out) + "]"

    def _cell(self, c: Any) -> str:
        try:
            return self(c.cell_contents)
        except ValueError:
            return "empty"

    def _tensor(self, v: torch.Tensor) -> str:
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
            storage = self.storages.setdefault(v.untyped_storage()._cdata, len(self.storages))
            bits = bytes(torch.cat([v.detach().reshape(-1)]).view(torch.uint8).numpy()) if v.numel() else b""  # a copy: one element may have any stride
            extra = {k: x for k, x in getattr(v, "__dict__", {}).items()}
            flags = f"{'g' if v.requires_grad else ''}{'l' if v.is_leaf else ''}{v.grad_fn.name() if v.grad_fn is not None else ''}"
            return f"{type(v).__name__} {v.dtype} {tuple(v.shape)} {v.stride()} +{v.storage_offset()} in {storage} {flags} {bits.hex()} {self(extra) if extra else ''}"


def _slots(k: type) -> Any:
    slots = k.__dict__.get("__slots__", ())
    return [s for s in ((slots,) if isinstance(slots, str) else slots) if s not in ("__dict__", "__weakref__")]
