"""What C++ asks of a symbolic tensor when it wants plain numbers: the sizes specialise, each a guard."""

from __future__ import annotations

from typing import Any

import torch

from lamina_dynshape.dims import active, numel
from lamina_dynshape.layout import is_channels_last, is_contiguous
from lamina_dynshape.shape_rules.registry import register


def _int(x: Any) -> int:
    return x if type(x) is int else active.env.specialize(x)


def _size(mode: Any, x: Any, dim: Any = None) -> Any:
    return [_int(s) for s in x.sizes] if dim is None else _int(x.sizes[dim])


def _stride(mode: Any, x: Any, dim: Any = None) -> Any:
    return [_int(s) for s in x.strides] if dim is None else _int(x.strides[dim])


def _sym_size(mode: Any, x: Any, dim: Any = None) -> Any:
    return [mode.to_int(s) for s in x.sizes] if dim is None else mode.to_int(x.sizes[dim])


def _sym_stride(mode: Any, x: Any, dim: Any = None) -> Any:
    return [mode.to_int(s) for s in x.strides] if dim is None else mode.to_int(x.strides[dim])


def _is_contiguous(mode: Any, x: Any, memory_format: Any = torch.contiguous_format) -> bool:
    check = is_contiguous if memory_format is torch.contiguous_format else is_channels_last
    return check(x.sizes, x.strides)


_RULES = {
    "size": _size, "stride": _stride, "sym_size": _sym_size, "sym_stride": _sym_stride,
    "numel": lambda mode, x: _int(numel(x.sizes)), "sym_numel": lambda mode, x: mode.to_int(numel(x.sizes)),
    "storage_offset": lambda mode, x: _int(x.offset), "sym_storage_offset": lambda mode, x: mode.to_int(x.offset),
    "dim": lambda mode, x: len(x.sizes), "is_contiguous": _is_contiguous,
}
for _name, _rule in _RULES.items():
    _packet = getattr(torch.ops.aten, _name, None)
    if _packet is not None:
        register(_packet, _rule)
        for _overload in _packet.overloads():
            register(getattr(_packet, _overload), _rule)
