"""Typed settings that can be patched in a `with`: the base of each package's `config`.

    @dataclass
    class Config(Settings):
        recompile_limit: int = 8
    config = Config()
    with config.patch(recompile_limit=2): ...

An unknown name or a value of another type raises `UserError` naming what is valid.
"""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
from collections.abc import Iterator
from functools import cache
from typing import Any

from .errors import UserError

__all__ = ["Settings"]


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _fits(value: object, hint: Any) -> bool:
    """Whether `value` fits a plain annotation; what is not plain is not checked."""
    if hint is Any:
        return True
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is not None:
        return isinstance(value, origin) if isinstance(origin, type) else True
    return isinstance(value, hint) if isinstance(hint, type) else True


@dataclasses.dataclass
class Settings:
    """Base of a dataclass of settings; assignment is checked, `patch` restores."""

    def __setattr__(self, name: str, value: object) -> None:
        self.check(name, value)
        object.__setattr__(self, name, value)

    @classmethod
    def names(cls) -> list[str]:
        """Names of the settings, in order of definition."""
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def check(cls, name: str, value: object) -> None:
        """Raise `UserError` if there is no such setting, or the value does not fit its type."""
        hint = _hints(cls).get(name)  # type: ignore[arg-type]
        if hint is None:
            raise UserError(f"unknown setting {name!r} of {cls.__module__}.{cls.__name__}; valid: {', '.join(cls.names())}")
        if not _fits(value, hint):
            wanted = getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint)
            raise UserError(f"setting {name!r} takes {wanted}, got {value!r}")

    @contextlib.contextmanager
    def patch(self, **values: Any) -> Iterator[None]:
        """Set `values`, and restore the former ones at the end of the `with`."""
        for name, value in values.items():
            self.check(name, value)
        former = {name: getattr(self, name) for name in values}
        try:
            for name, value in values.items():
                setattr(self, name, value)
            yield
        finally:
            for name, value in former.items():
                object.__setattr__(self, name, value)
