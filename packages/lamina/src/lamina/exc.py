"""The errors of lamina, under the name that users import: `lamina.exc.Unsupported` and so on."""

from __future__ import annotations

from lamina_dynshape.support.errors import (
    CompilerError,
    InternalError,
    LaminaError,
    Unsupported,
    UserError,
    UserLocation,
    VerifyError,
)


class BackendFailed(UserError):
    """A backend that the user gave raised an error; the original is its `__cause__`."""


__all__ = ["BackendFailed", "CompilerError", "InternalError", "LaminaError", "Unsupported", "UserError", "UserLocation", "VerifyError"]
