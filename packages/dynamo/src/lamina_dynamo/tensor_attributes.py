"""Attributes of tensors during capture: what is read is known, a view or what `.grad` holds now; what is written is a side effect.

Between: `Tensor.x.__get__` and `__set__`, as the recorder's mode sees them -> values, nodes, or the capture's overlay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .control import unsupported
from .source import AttrSource

if TYPE_CHECKING:
    from .recorder import Recorder

__all__ = ["read_attribute", "write_attribute"]

_PLAIN_ATTRIBUTES = frozenset({
    "shape", "dtype", "device", "ndim", "requires_grad", "layout", "names", "is_cuda", "is_cpu", "is_sparse", "is_quantized", "is_meta", "is_mkldnn",
    "is_nested", "is_xla", "is_mps", "is_xpu", "is_sparse_csr", "is_vulkan", "is_ipu", "is_ort", "is_mtia", "is_maia", "itemsize", "nbytes", "name", "grad_dtype",
})  # fmt: skip
_VIEW_ATTRIBUTES = frozenset({"T", "mT", "H", "mH", "real", "imag", "data"})


def read_attribute(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """The getter `func` of a tensor attribute without a rule of its own."""
    name = func.__self__.__name__
    if name in _PLAIN_ATTRIBUTES:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)
    if name in _VIEW_ATTRIBUTES:
        return rec.run(func, args, kwargs)
    if name == "grad":
        return _read_grad(rec, args[0])
    unsupported("tensor-attribute", f"reading Tensor.{name}", hint="move it outside of the compiled function")


def _read_grad(rec: Recorder, t: Any) -> Any:
    cap = rec.cap
    written = cap.overlay.get(id(t))
    if written is not None and "grad" in written:
        return written["grad"]
    inp = cap.inputs.get(id(t))
    if inp is None:
        return None  # made in the frame, and what `backward()` gave it would be in the overlay
    with torch._C.DisableTorchFunction():
        grad = inp.real.grad
    return cap.lift(grad, AttrSource(inp.source, "grad"))


def write_attribute(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """The setter `func` of a tensor attribute."""
    name = func.__self__.__name__
    if name == "data" and args[1] is args[0]:
        return None
    if name == "data" and len(args) == 2 and isinstance(args[1], torch.Tensor):
        from .rules.leaves import assign_data

        return assign_data(rec, *args)
    if name == "grad" and len(args) == 2:
        rec.cap.keep[id(args[0])] = args[0]
        rec.cap.overlay.setdefault(id(args[0]), {})["grad"] = args[1]
        return None
    if name == "requires_grad" and len(args) == 2 and isinstance(args[1], bool):
        from .recorder import FUNCTION_RULES

        return FUNCTION_RULES[torch.Tensor.requires_grad_](rec, torch.Tensor.requires_grad_, args, {})
    unsupported("tensor-attribute-write", f"assigning Tensor.{name}", hint="use in-place methods such as copy_")
