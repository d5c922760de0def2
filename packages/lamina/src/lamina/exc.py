"""The errors of lamina, under the name that users import: `lamina.exc.Unsupported` and so on."""

from lamina_dynshape.support.errors import (
    CompilerError,
    InternalError,
    LaminaError,
    Unsupported,
    UserError,
    UserLocation,
    VerifyError,
)

__all__ = ["CompilerError", "InternalError", "LaminaError", "Unsupported", "UserError", "UserLocation", "VerifyError"]
