"""The three kinds of error: the user is wrong, we do not support it, we are wrong.

    LaminaError
      UserError        the program, an argument or a setting cannot work
      Unsupported      we do not support it yet: a graph break or a fallback
      InternalError    we are wrong
        VerifyError    a graph breaks a rule of its dialect
      CompilerError    the C++ compiler is missing or fails
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["CompilerError", "InternalError", "LaminaError", "Unsupported", "UserError", "UserLocation", "VerifyError"]


class UserLocation(NamedTuple):
    """One line of the user's program."""

    file: str
    line: int
    function: str
    text: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}:   {self.text.strip()}".rstrip(": ")


class LaminaError(Exception):
    """Base of every error that lamina raises itself."""


class UserError(LaminaError):
    """The program, an argument or a setting cannot work."""


class Unsupported(LaminaError):
    """Not supported yet: becomes a graph break or a fallback, or reaches the user under `fullgraph=True`.

    what: fixed phrase that can be counted and searched; where: the user's line; saw: what was met; hint: what to do instead;
    code: short stable key of the reason for `counters` (default: made from `what`).
    """

    def __init__(
        self, what: str, *, where: UserLocation | None = None, saw: str = "", hint: str = "", code: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.saw = saw
        self.hint = hint
        self.code = code if code is not None else re.sub(r"[^a-z0-9]+", "_", what.lower()).strip("_")[:60]

    def __str__(self) -> str:
        lines = [f"not supported: {self.what}"]
        if self.where is not None:
            lines.append(f"  at {self.where}")
        if self.saw:
            lines.append(f"  saw:   {self.saw}")
        if self.hint:
            lines.append(f"  try:   {self.hint}")
        lines.append(f"  code:  {self.code}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple:
        return _rebuild_unsupported, (type(self), self.what, self.where, self.saw, self.hint, self.code)


def _rebuild_unsupported(
    cls: type[Unsupported], what: str, where: UserLocation | None, saw: str, hint: str, code: str
) -> Unsupported:
    error = cls.__new__(cls)
    Unsupported.__init__(error, what, where=where, saw=saw, hint=hint, code=code)
    return error


class InternalError(LaminaError):
    """We are wrong: a bug of the compiler."""


class VerifyError(InternalError):
    """A graph breaks a rule of its dialect or IR."""


class CompilerError(LaminaError):
    """The C++ compiler is missing or fails. `command`: what was run; `log`: what it printed."""

    def __init__(self, message: str, *, command: str = "", log: str = "") -> None:
        super().__init__(message)
        self.command = command
        self.log = log

    def __str__(self) -> str:
        lines = [str(self.args[0])]
        if self.command:
            lines.append(f"  command: {self.command}")
        if self.log:
            lines.append("  log:")
            lines += ["    " + line for line in self.log.strip().splitlines()[:60]]
        return "\n".join(lines)

    def __reduce__(self) -> tuple:
        return _rebuild_compiler_error, (self.args[0], self.command, self.log)


def _rebuild_compiler_error(message: str, command: str, log: str) -> CompilerError:
    return CompilerError(message, command=command, log=log)
