"""Fake tensors: sizes, strides, dtype, device, aliasing and autograd of a tensor, without its data.

A FakeTensor is a wrapper subclass whose C++ half carries the metadata, so autograd, autocast, functionalization and composite
operators run on it in C++. What reaches Python is answered by its FakeMode, whether or not the mode is active.

Keeps: `sizes`, `strides`, `offset`, `scalar_type`, `dev` mirror the C++ half (sizes as int, or Expr where symbolic), so that
shape rules need not cross into C++ to read them. Only `set_metadata` and the `data` setter may change them.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch

from lamina_dynshape.support.errors import Unsupported

if TYPE_CHECKING:
    from lamina_dynshape.fake_mode import FakeMode

__all__ = ["DataDependent", "FakeTensor", "fake_mode_of", "is_wrapper_class"]

_NO_DISPATCH = torch._C._disabled_torch_dispatch_impl
_storage_keys = itertools.count()
_BIG_STORAGE_BYTES = 1 << 50
_big_storages: dict[torch.device, torch.UntypedStorage] = {}


def is_wrapper_class(cls: Any) -> bool:
    """Whether operators on tensors of the class are the class's own `__torch_dispatch__`: those of a wrapper subclass that is no fake."""
    return cls.__torch_dispatch__ is not _NO_DISPATCH and not issubclass(cls, FakeTensor)


class DataDependent(Unsupported):
    """The answer depends on the values of a tensor, which a fake tensor does not have."""


def _refuse(what: str, fake: FakeTensor) -> DataDependent:
    return DataDependent(f"data-dependent {what}", saw=repr(fake), hint="keep the value in a tensor, or do this outside of the compiled region")


class FakeTensor(torch.Tensor):
    """Tensor without data. Made by FakeMode."""

    __slots__ = ("constant", "dev", "fake_mode", "offset", "scalar_type", "sizes", "storage_key", "strides")
    fake_mode: FakeMode
    storage_key: int  # equal for tensors that share memory
    sizes: tuple[Any, ...]
    strides: tuple[Any, ...]
    offset: Any
    scalar_type: torch.dtype
    dev: torch.device
    constant: torch.Tensor | None  # the value, for literals of the program (see `constants`)

    # The class only fixes dispatch; functions called on fakes must not be rerouted per call.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for t in types:
            if t is not FakeTensor and is_wrapper_class(t):
                return NotImplemented  # a wrapper around fakes answers for itself
        mode = fake_mode_of(args, kwargs)
        assert mode is not None
        return mode.dispatch(func, args, kwargs or {})

    @property
    def fake_device(self) -> torch.device:
        return self.dev

    # -- what needs data ----------------------------------------------------------------------------------------------
    def tolist(self) -> Any:
        if self.constant is not None:
            return self.constant.tolist()
        if self.numel() == 0 or self.fake_mode.allow_unbacked:
            return [x.tolist() for x in self] if self.dim() else self.item()
        raise _refuse("tolist()", self)

    def numpy(self, *, force: bool = False) -> Any:
        raise _refuse("numpy()", self)

    def __array__(self, dtype: Any = None) -> Any:
        raise _refuse("numpy()", self)

    def data_ptr(self) -> int:
        raise _refuse("data_ptr()", self)

    # -- Python protocols ---------------------------------------------------------------------------------------------
    def __repr__(self, *, tensor_contents: Any = None) -> str:
        sizes = ", ".join(map(str, self.sizes))
        parts = [f"{str(self.scalar_type).removeprefix('torch.')}[{sizes}]"]
        if self.dev.type != "cpu":
            parts.append(str(self.dev))
        parts.append(f"stride=({', '.join(map(str, self.strides))})")
        return f"FakeTensor({', '.join(parts)})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> FakeTensor:
        found = memo.get(id(self))
        if found is None:
            memo[id(self)] = found = self.fake_mode.copy_of(self)
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        if any(not isinstance(x, int) for x in (*self.sizes, *self.strides, self.offset)):
            raise Unsupported("pickling a fake tensor with symbolic sizes", saw=repr(self))
        is_param = getattr(self, "_is_param", False)
        return _rebuild, (self.sizes, self.strides, self.offset, self.scalar_type, self.dev, self.requires_grad, is_param)

    @property
    def data(self) -> torch.Tensor:
        return torch.Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, other: torch.Tensor) -> None:
        if not isinstance(other, FakeTensor):
            other = self.fake_mode.from_real(other)
        torch.Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        _mirror(self, other.sizes, other.strides, other.offset)
        self.scalar_type, self.dev, self.storage_key = other.scalar_type, other.dev, other.storage_key

    # -- metadata -----------------------------------------------------------------------------------------------------
    def set_metadata(self, sizes: tuple[Any, ...], strides: tuple[Any, ...], offset: Any) -> FakeTensor:
        """Change sizes, strides and offset in place (elements), as `t_` and `resize_` do."""
        if (sizes, strides, offset) == (self.sizes, self.strides, self.offset):
            return self
        device = self.dev
        to_int = self.fake_mode.to_int
        if self.fake_mode.shape_env is not None:
            # `set_` takes no symbolic sizes; symbolic fakes have a storage large enough for any.
            with torch._C._AutoDispatchBelowAutograd(), torch._C._DisableTorchDispatch(), self.fake_mode.shape_env.quiet():
                torch.ops.aten.as_strided_.default(self, [to_int(s) for s in sizes], [to_int(s) for s in strides], to_int(offset))
            return _mirror(self, sizes, strides, offset)
        storage = _big_storages.get(device)
        if storage is None:
            donor = torch.Tensor._make_wrapper_subclass(_Donor, (1,), dtype=torch.uint8, device=device, storage_size=_BIG_STORAGE_BYTES)
            storage = _big_storages[device] = donor.untyped_storage()
        with torch._C._AutoDispatchBelowAutograd(), torch._C._DisableTorchDispatch():
            torch.ops.aten.set_.source_Storage_storage_offset(self, storage, offset, sizes, strides)
        return _mirror(self, sizes, strides, offset)


class _Donor(torch.Tensor):
    """Carries a storage of no memory, large enough for any metadata."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("the donor takes no operation")


def _mirror(fake: FakeTensor, sizes: Any, strides: Any, offset: Any) -> FakeTensor:
    fake.sizes, fake.strides, fake.offset = tuple(sizes), tuple(strides), offset
    return fake


def new_storage_key() -> int:
    return next(_storage_keys)


def _rebuild(sizes: Any, strides: Any, offset: Any, dtype: Any, device: Any, requires_grad: bool, is_param: bool) -> FakeTensor:
    from lamina_dynshape.fake_mode import FakeMode

    fake = FakeMode().make(sizes, strides, dtype, device, offset)
    fake.requires_grad_(requires_grad)
    if is_param:
        fake._is_param = True
    return fake


def fake_mode_of(*values: Any) -> FakeMode | None:
    """Mode of the first fake tensor found in the values (nested lists, tuples and dicts), or None."""
    for v in values:
        if isinstance(v, FakeTensor):
            return v.fake_mode
        if isinstance(v, (list, tuple)):
            found = fake_mode_of(*v)
        elif isinstance(v, dict):
            found = fake_mode_of(*v.values())
        else:
            continue
        if found is not None:
            return found
    return None
