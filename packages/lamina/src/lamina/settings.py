"""The settings of the umbrella: `lamina.config`.

    with lamina.config.patch(recompile_limit=2):
        ...
"""

from __future__ import annotations

from dataclasses import dataclass

from lamina_dynshape.support.settings import Settings

__all__ = ["Config", "config"]


@dataclass
class Config(Settings):
    """What `compile` takes when the call does not say otherwise; read when a function is compiled by `lamina.compile`."""

    recompile_limit: int = 8
    """How often one function is compiled before it is left to run eagerly, with one warning."""
    fallback: bool = False
    """Run eagerly, with one warning, when there is no C++ compiler or it fails (`options={"fallback": True}` for one call)."""


config = Config()
