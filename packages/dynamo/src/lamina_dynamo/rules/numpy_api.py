"""Rules for NumPy: arrays made from tensors are computed with in the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lamina_dynshape import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from ..arrays import TensorArray
from ..calls import rule
from ..control import native, unsupported, values
from ..recorder import Recorder

_T = torch.Tensor


@rule(_T.numpy, FakeTensor.numpy)
def numpy_(cap: Any, args: Any, kwargs: Any) -> Any:
    """`tensor.numpy()`, with eager's errors."""
    rec, t, force = cap.recorder, args[0], kwargs.get("force", False)
    if rec.scope is not None or t.device.type != "cpu" or t.is_conj() or t.is_neg():
        unsupported("tensor-memory", "numpy() of a tensor that is not plain memory", saw=cap.describe(t))
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        native(torch.empty(0, dtype=t.dtype, requires_grad=t.requires_grad).numpy, force=force)
    return TensorArray(cap, native(_T.detach, t))


@rule(torch.from_numpy)
def from_numpy(cap: Any, args: Any, kwargs: Any) -> Any:
    """No mode sees this call."""
    with torch._C.DisableTorchFunction():
        return from_array(cap.recorder, torch.from_numpy, *args, **kwargs)


def from_array(rec: Recorder, func: Any, array: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Any:
    """`torch.from_numpy`, `torch.as_tensor`, `torch.tensor` of an array. One made in the frame gives a constant, and nothing more is done with it
    where the two share memory."""
    if not hasattr(array, "tensor"):
        rec.cap.refuse_opaque(array)
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            real = native(func, array, **{k: v for k, v in (("dtype", dtype), ("device", device)) if v is not None}).clone()
        if func is not torch.tensor and hasattr(array, "__array_interface__"):
            rec.cap.opaque.add(id(array))
            rec.cap.keep[id(array)] = array
        out = rec.run(_T.clone, (rec.cap.lift_constant(real),), {})
        return rec.run(_T.requires_grad_, (out,), {}) if requires_grad else out
    out = rec.run(_T.detach if func is not torch.tensor else _T.clone, (array.tensor,), {})
    options = {k: v for k, v in (("dtype", dtype), ("device", device)) if v is not None}
    if options:
        out = rec.run(_T.to, (out,), options)
    elif func is not torch.tensor:
        rec.cap.over_arrays.add(id(out))
    return rec.run(_T.requires_grad_, (out,), {}) if requires_grad else out


def _as_array(make: Any) -> Any:
    """`np.array` or `np.asarray`; of a tensor, its array."""

    def run(cap: Any, args: Any, kwargs: Any) -> Any:
        data = args[0] if args else kwargs.get("a", kwargs.get("object"))
        if isinstance(data, torch.Tensor):
            data = numpy_(cap, (data,), {})
        if not isinstance(data, TensorArray):
            args, kwargs = values(tuple(args)), values(kwargs)
            if cap.any_unknown(args, kwargs) or _has_array(data):
                unsupported("numpy", "an array made of tensors", hint="use torch.stack")
            cap.refuse_opaque(*args, *kwargs.values())
            return native(make, *args, **kwargs)
        dtype = args[1] if len(args) > 1 else kwargs.get("dtype")
        if kwargs.keys() - {"dtype", "a", "object", "copy"}:
            unsupported("numpy", "a form of making an array", saw=", ".join(kwargs))
        if dtype is not None and np.dtype(dtype) != data.dtype:
            return data.astype(dtype)
        return data.copy() if make is np.array and kwargs.get("copy", True) is not False else data

    return run


rule(np.array)(_as_array(np.array))
rule(np.asarray)(_as_array(np.asarray))


def _has_array(data: Any) -> bool:
    return isinstance(data, TensorArray) or isinstance(data, (list, tuple)) and any(map(_has_array, data))

