"""Contexts of PyTorch that hang on objects in C: inference mode, and the default device.

Between: `_InferenceMode` and `torch.device` entered and left by the program -> state of the capture, lines of the replacement code.
Keeps:   inference mode is entered for real while capturing, so that the fakes are inference tensors where eager's tensors are. The graph holds a
         region without gradients in its place, and what leaves it as an inference tensor is made one after the graph (`state.inference_outputs`).
         A default device is an explicit argument of each factory call in the graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._device import _device_constructors

from ..calls import rule
from ..control import native, unsupported
from ..state import DEFAULT_DEVICE, apply, global_device

__all__ = ["device_method", "inference_mode_method", "with_default_device"]


# ---- inference mode -------------------------------------------------------------------------------------------------------
@rule(torch._C._InferenceMode)
def make_inference_mode(cap: Any, args: Any, kwargs: Any) -> Any:
    """The mode is on from here, where the object is made."""
    if cap.recorder.scope is not None:
        unsupported("inference-mode", "inference mode under a transform")
    grad = torch.is_grad_enabled()
    made = native(torch._C._InferenceMode, *args, **kwargs)
    cap.inference.append((made, grad))
    cap.inference_modes[id(made)] = (made, torch.is_inference_mode_enabled())
    if cap.entry_state.expected.inference_mode and not torch.is_inference_mode_enabled():
        unsupported("inference-mode", "leaving the inference mode in which the compiled function was called")
    cap.recorder.emit(torch._C._set_grad_enabled, (torch.is_grad_enabled(),), {}, None)
    return made


def inference_mode_method(cap: Any, fn: Any, args: Any, kwargs: Any) -> Any:
    """`__enter__` and `__exit__` of a `torch._C._InferenceMode`."""
    if not cap.inference or cap.inference[-1][0] is not args[0]:
        unsupported("inference-mode", "inference mode that was entered before the compiled part", saw=fn.__name__)
    out = native(fn, *args, **(kwargs or {}))
    if fn.__name__ == "__exit__":
        cap.inference.pop()
        cap.recorder.emit(torch._C._set_grad_enabled, (torch.is_grad_enabled(),), {}, None)
    return out


# ---- the default device ----------------------------------------------------------------------------------------------------
def device_method(cap: Any, name: str, device: torch.device) -> Any:
    """`with device:`; a context is the innermost until it is left."""
    if name == "__enter__":
        cap.devices.append(device)
        return device
    if not cap.devices:
        unsupported("global-state", "leaving a device context that was not entered")
    cap.devices.pop()
    return None


def with_default_device(cap: Any, func: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keywords of a torch call, with the device that a context adds."""
    if kwargs.get("device") is None and func in _device_constructors():
        return {**kwargs, "device": cap.devices[-1]}
    return kwargs


@rule(torch.set_default_device)
def set_default_device(cap: Any, args: Any, kwargs: Any) -> None:
    """The outermost context."""
    device = args[0] if args else kwargs["device"]
    had = global_device() is not None
    if len(cap.devices) > had:
        unsupported("global-state", "set_default_device inside of a device context")
    apply(cap, DEFAULT_DEVICE, (device,), {}, in_graph=False)
    cap.devices[:] = [] if device is None else [torch.device(device)]


@rule(torch.get_default_device)
def get_default_device(cap: Any, args: Any, kwargs: Any) -> torch.device:
    with torch._C.DisableTorchFunction():
        return torch.empty(0, device=cap.devices[-1] if cap.devices else "cpu").device
