"""Values of fakes that are literals of the program: `torch.tensor([1, 2])` and what is computed from nothing else.

So `item()` and branches on such tensors need no data. A fake's `constant` is a small real tensor; it goes when the fake, or anything
that shares its memory, is written with something unknown.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch

from lamina_dynshape.fake_tensor import FakeTensor

__all__ = ["Constants"]

_MAX_ELEMENTS = 1024


class Constants:
    """The known values of one mode."""

    def __init__(self) -> None:
        self._by_storage: dict[int, list[weakref.ref[FakeTensor]]] = {}

    def set(self, fake: FakeTensor, value: torch.Tensor) -> None:
        """`fake` holds `value`, which nobody else may change."""
        if value.numel() <= _MAX_ELEMENTS:
            fake.constant = value
            self._by_storage.setdefault(fake.storage_key, []).append(weakref.ref(fake))

    def drop(self, storage_key: int) -> None:
        """The memory was written with something unknown."""
        for ref in self._by_storage.pop(storage_key, ()):
            fake = ref()
            if fake is not None:
                fake.constant = None

    def propagate(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Compute the value of an operator on constants and numbers, none of them symbolic; forget values that it overwrites with unknown ones."""
        given = list(_flat((args, kwargs)))
        tensors = [x for x in given if isinstance(x, torch.Tensor)]
        known = tensors and all(isinstance(t, FakeTensor) and t.constant is not None for t in tensors)
        known = known and not any(isinstance(x, (torch.SymInt, torch.SymFloat, torch.SymBool)) for x in given)
        random = torch.Tag.nondeterministic_seeded in func.tags
        if not known or random:
            if func._schema.is_mutable:
                self._forget_written(func, args, kwargs)
            return
        with torch._C._AutoDispatchBelowAutograd(), torch._C._DisableTorchDispatch():
            real = func(*_real(args), **_real(kwargs))
        for fake, value in zip(_flat(result), _flat(real)):
            if isinstance(fake, FakeTensor) and isinstance(value, torch.Tensor) and fake.constant is None:
                self.set(fake, value)

    def _forget_written(self, func: Any, args: Any, kwargs: Any) -> None:
        for at, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for x in _flat(kwargs.get(argument.name) if argument.kwarg_only or at >= len(args) else args[at]):
                    if isinstance(x, FakeTensor):
                        self.drop(x.storage_key)


def _flat(x: Any) -> Any:
    if isinstance(x, (list, tuple)):
        for y in x:
            yield from _flat(y)
    elif isinstance(x, dict):
        for y in x.values():
            yield from _flat(y)
    else:
        yield x


def _real(x: Any) -> Any:
    if isinstance(x, FakeTensor):
        return x.constant
    if isinstance(x, (list, tuple)):
        return type(x)(map(_real, x))
    if isinstance(x, dict):
        return {k: _real(v) for k, v in x.items()}
    return x
