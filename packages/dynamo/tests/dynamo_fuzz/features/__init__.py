"""The feature programs: one module per part of the language; `load` makes them ready to run.

A module holds functions under test, `WATCHED` (the globals that they change), and `ARGS` (the arguments of those that take more than one tensor).
"""

from __future__ import annotations

import copy
import importlib
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

__all__ = ["MODULES", "Feature", "features"]

MODULES = ("basics", "containers", "control", "objects", "library")
SQUARE = torch.arange(9.0).reshape(3, 3) - 2.5
OTHER = torch.linspace(-3.0, 4.0, 12).reshape(4, 3)


class Feature(NamedTuple):
    """A program and how to call it."""

    name: str
    fn: types.FunctionType
    module: types.ModuleType

    def arguments(self, which: int = 0) -> Any:
        """New arguments; a second set of them for `which == 1`."""
        make = self.module.ARGS.get(self.fn.__name__, lambda x: (x,))
        return make((SQUARE, OTHER)[which].clone())

    @property
    def watched(self) -> tuple[str, ...]:
        return self.module.WATCHED

    def restore(self) -> None:
        """The module's globals as they were when it was loaded."""
        for k, v in self.module.__dict__["_initial"].items():
            self.module.__dict__[k] = copy.deepcopy(v)
        for fn in vars(self.module).values():
            if hasattr(fn, "cache_clear"):
                fn.cache_clear()


def features() -> Iterator[Feature]:
    for name in MODULES:
        module = importlib.import_module(f"{__name__}.{name}")
        if "_initial" not in module.__dict__:
            module.__dict__["_initial"] = copy.deepcopy({k: getattr(module, k) for k in module.WATCHED})
        for fn in list(vars(module).values()):
            if isinstance(fn, types.FunctionType) and fn.__module__ == module.__name__ and _is_program(fn):
                yield Feature(f"{name}.{fn.__name__}", fn, module)


def _is_program(fn: types.FunctionType) -> bool:
    code = fn.__code__
    return code.co_varnames[:1] == ("x",) and not code.co_flags & 0x20
