"""Modes and options of `compile`: what they may be, and what they mean for the backend.

A mode is a named set of options. Unknown names raise `UserError` that lists the valid ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lamina_dynshape.support.errors import UserError

from .settings import config

__all__ = ["MODES", "CompileOptions", "option_names", "resolve"]

MODES: dict[str, dict[str, Any]] = {
    "default": {},
    "reduce-overhead": {"reduce_overhead": True},
    "max-autotune": {"max_autotune": True, "reduce_overhead": True},
    "max-autotune-no-cudagraphs": {"max_autotune": True},
}

_OWN_OPTIONS: dict[str, tuple[type, str]] = {
    "fallback": (bool, "run eagerly, with one warning, when there is no C++ compiler or it fails"),
    "max_autotune": (bool, "measure more candidates for matrix products and convolutions"),
    "reduce_overhead": (bool, "CUDA graphs where there is a GPU; nothing to do on the CPU"),
}


@dataclass(frozen=True)
class CompileOptions:
    """What one call of `compile` asks of its backend: `fallback`, `fullgraph`, and what is handed to inductor."""

    fallback: bool = False
    backend_options: Mapping[str, Any] = field(default_factory=dict)
    fullgraph: bool = False


def _inductor_config() -> Any:
    from lamina_inductor.config import config as inductor_config

    return inductor_config


def option_names() -> list[str]:
    """Names that `options=` may hold: those of the umbrella and the settings of inductor."""
    return sorted({*_OWN_OPTIONS, *_inductor_config().names()})


def resolve(mode: str | None, options: Mapping[str, Any] | None) -> CompileOptions:
    """Check `mode` and `options`, which exclude each other as in PyTorch, and join them with the settings."""
    if mode is not None and options is not None:
        raise UserError("give either mode= or options=, not both")
    if mode is not None and mode not in MODES:
        raise UserError(f"unknown mode {mode!r}; valid: {', '.join(MODES)}")
    if options is not None and not isinstance(options, Mapping):
        raise UserError(f"options= takes a dict, got {type(options).__name__}")
    chosen = dict(MODES[mode] if mode is not None else options or {})
    for name, value in chosen.items():
        _check(name, value)
    fallback = bool(chosen.pop("fallback", config.fallback))
    known = _inductor_config().names() if chosen else ()
    return CompileOptions(fallback, {name: value for name, value in chosen.items() if name in known})


def _check(name: object, value: object) -> None:
    own = _OWN_OPTIONS.get(name) if isinstance(name, str) else None
    if own is not None:
        if not isinstance(value, own[0]):
            raise UserError(f"option {name!r} takes {own[0].__name__}, got {value!r}: {own[1]}")
        return
    settings = _inductor_config()
    if not isinstance(name, str) or name not in settings.names():
        raise UserError(f"unknown option {name!r}; valid: {', '.join(option_names())}")
    settings.check(name, value)
