"""A compiled module: an object that is the original module in everything but its call.

It is an instance of a class made for it, `class ResNet(CompiledModule, ResNet)`, and shares the original's `__dict__`: parameters,
buffers, submodules, hooks, flags and plain attributes are the same ones, read or written through either object, and `state_dict`
has the original's keys. Only the call differs: it goes straight to the compiled callable.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from lamina_dynshape.support.errors import UserError

__all__ = ["CompiledModule", "compile_module"]


class CompiledModule:
    """Marks compiled modules (`isinstance(m, lamina.CompiledModule)`) and holds what differs from the original."""

    __slots__ = ()
    _orig_mod: torch.nn.Module
    _compile_again: Callable[[torch.nn.Module], Any]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A deep copy of the original, compiled with the same settings."""
        return type(self)._compile_again(copy.deepcopy(type(self)._orig_mod, memo))

    def __copy__(self) -> Any:
        return type(self)._compile_again(copy.copy(type(self)._orig_mod))

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise UserError(
            "a compiled module cannot be pickled: pickle the original (`compiled._orig_mod`) or its state_dict, and compile again"
        )


def compile_module(model: torch.nn.Module, call: Callable[..., Any], compile_again: Callable[[torch.nn.Module], Any]) -> Any:
    """An object that behaves as `model` and whose call is `call`."""
    original = type(model)
    if not isinstance(getattr(model, "__dict__", None), dict):
        raise UserError(f"cannot compile a module without __dict__: {original.__name__}")
    namespace = {
        "__slots__": (),
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "__call__": staticmethod(call),
        "_orig_mod": model,
        "_compile_again": staticmethod(compile_again),
    }
    try:
        metaclass: Any = type(original)
        made = metaclass(original.__name__, (CompiledModule, original), namespace)
        compiled = made.__new__(made)  # not __init__: the state is the original's
    except TypeError as error:
        raise UserError(f"cannot compile a module of class {original.__name__}: {error}") from error
    object.__setattr__(compiled, "__dict__", model.__dict__)
    return compiled
