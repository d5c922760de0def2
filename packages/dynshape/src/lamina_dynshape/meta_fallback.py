"""PyTorch's Meta kernels as the last resort for operators without a rule of ours.

Symbolic sizes are specialised to their hints first (each a recorded guard): Meta kernels are written for concrete sizes.
Aliasing of the results is read off the Meta tensors' storages, changes of metadata off the arguments after the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lamina_dynshape.fake_tensor import DataDependent, FakeTensor
from lamina_dynshape.support.errors import Unsupported

if TYPE_CHECKING:
    from lamina_dynshape.fake_mode import FakeMode

__all__ = ["run"]

_META = torch.device("meta")


def run(mode: FakeMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Result of `func` by its Meta kernel. DataDependent or Unsupported when it has none for these arguments."""
    conversion = _Conversion(mode)
    meta_args = conversion.to_meta(tuple(args))
    meta_kwargs = {k: conversion.to_meta(v) for k, v in kwargs.items()}
    device = _result_device(conversion, args, kwargs)
    if "device" in meta_kwargs or _makes_tensors(func):
        meta_kwargs["device"] = _META
    if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
        raise DataDependent(f"data-dependent operator {func.name()}", saw=conversion.summary())
    try:
        with torch._C._AutoDispatchBelowAutograd(), torch._C._DisableTorchDispatch():
            result = func(*meta_args, **meta_kwargs)
    except NotImplementedError as error:
        raise Unsupported(f"no shape rule for {func.name()}", saw=conversion.summary(), code="no_shape_rule") from error
    conversion.update_arguments()
    return conversion.to_fake(result, device)


def _makes_tensors(func: Any) -> bool:
    arguments = func._schema.arguments
    return any(a.name == "device" for a in arguments) and not any("Tensor" in str(a.type) for a in arguments)


def _result_device(conversion: _Conversion, args: Any, kwargs: dict[str, Any]) -> torch.device:
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    devices = [f.dev for f, _ in conversion.pairs.values()]
    return next((d for d in devices if d.type != "cpu"), devices[0] if devices else torch.device("cpu"))


class _Conversion:
    """Fake <-> Meta for one call."""

    def __init__(self, mode: FakeMode) -> None:
        self.mode = mode
        self.pairs: dict[int, tuple[FakeTensor, torch.Tensor]] = {}  # by id of the fake
        self.storages: dict[int, torch.UntypedStorage] = {}

    def concrete(self, x: Any) -> int:
        return x if type(x) is int else self.mode.shape_env.specialize(x)

    def to_meta(self, x: Any) -> Any:
        if isinstance(x, FakeTensor):
            return self._tensor(x)
        if isinstance(x, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return int(x) if isinstance(x, torch.SymInt) else float(x) if isinstance(x, torch.SymFloat) else bool(x)
        if type(x) in (list, tuple):
            return type(x)(map(self.to_meta, x))
        return x

    def _tensor(self, fake: FakeTensor) -> torch.Tensor:
        if id(fake) in self.pairs:
            return self.pairs[id(fake)][1]
        sizes, strides = tuple(map(self.concrete, fake.sizes)), tuple(map(self.concrete, fake.strides))
        offset = self.concrete(fake.offset)
        with torch._C._AutoDispatchBelowAutograd(), torch._C._DisableTorchDispatch():
            storage = self.storages.get(fake.storage_key)
            if storage is None:
                storage = self.storages[fake.storage_key] = torch.UntypedStorage(1 << 50, device="meta")
            meta = torch.empty(0, dtype=fake.scalar_type, device=_META).set_(storage, offset, sizes, strides)
        self.pairs[id(fake)] = fake, meta
        return meta

    def update_arguments(self) -> None:
        for fake, meta in self.pairs.values():
            before = tuple(map(self.concrete, fake.sizes)), tuple(map(self.concrete, fake.strides)), self.concrete(fake.offset)
            after = tuple(meta.shape), meta.stride(), meta.storage_offset()
            if before != after:
                fake.set_metadata(*after)

    def to_fake(self, x: Any, device: torch.device) -> Any:
        if isinstance(x, torch.Tensor):
            return self._wrap(x, device)
        if isinstance(x, (list, tuple)):
            return type(x)([self.to_fake(y, device) for y in x])
        return x

    def _wrap(self, x: torch.Tensor, device: torch.device) -> FakeTensor:
        storage_key = None
        cdata = x.untyped_storage()._cdata
        for fake, meta in self.pairs.values():
            if meta is x:
                return fake
            if meta.untyped_storage()._cdata == cdata:
                storage_key, device = fake.storage_key, fake.dev
        return self.mode.make(tuple(x.shape), x.stride(), x.dtype, device, x.storage_offset(), storage_key)

    def summary(self) -> str:
        return ", ".join(repr(f) for f, _ in self.pairs.values())
