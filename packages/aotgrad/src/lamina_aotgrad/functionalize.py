"""PyTorch's C++ functionalization, called directly: in-place programs run on functional tensors and emit pure ATen calls.

Between: autograd (above) and the tracing mode (below): what reaches the mode has no in-place op, and views are re-applied.
Keeps:   a functional tensor's storage identity is the program's: aliases share it, `set_` and `.data =` change it.
Source:  aten/src/ATen/FunctionalTensorWrapper.h of PyTorch.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lamina_primops.optimizers import FUSED_STEPS
from torch import Tensor

__all__ = ["functionalization", "is_functional", "storage_id", "suspended", "unwrap", "wrap"]


@contextlib.contextmanager
def functionalization() -> Iterator[None]:
    """Turn functionalization on in this thread, views kept as views."""
    library = _hidden_writes()
    torch._enable_functionalization(reapply_views=True)
    try:
        yield
    finally:
        torch._disable_functionalization()
        library._destroy()


def _hidden_writes() -> torch.library.Library:
    """Kernels, for as long as a trace runs, of ops whose writes functionalization does not see: a schema that hides them is rerouted to an overload that
    says so, fused optimizer steps (their lists of states may be empty, which it takes for plain tensors) run as the operators they are made of."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("native_batch_norm", _native_batch_norm, "Functionalize")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")  # their own kernels are what is replaced
        for overload, program in FUSED_STEPS.items():
            library.impl(overload, program, "Functionalize")
    return library


def _native_batch_norm(
    x: Tensor, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm; in training the running statistics are written."""
    legit = torch.ops.aten._native_batch_norm_legit
    if running_mean is None:
        return legit.no_stats(x, weight, bias, training, momentum, eps)
    return legit(x, weight, bias, running_mean, running_var, training, momentum, eps)


@contextlib.contextmanager
def suspended() -> Iterator[None]:
    """Turn functionalization off inside `functionalization()`, to make plain fakes."""
    torch._disable_functionalization()
    try:
        yield
    finally:
        torch._enable_functionalization(reapply_views=True)


def wrap(fake: Tensor) -> Tensor:
    """A functional tensor over `fake`, a leaf without gradient."""
    return torch._to_functional_tensor(fake)


def unwrap(tensor: Tensor) -> Tensor:
    """The fake tensor that holds the present value; pending writes through views are applied first."""
    torch._sync(tensor)
    return torch._from_functional_tensor(tensor)


def is_functional(value: Any) -> bool:
    return isinstance(value, Tensor) and torch._is_functional_tensor(value)


def storage_id(tensor: Tensor) -> int:
    """Identity of the storage: equal for tensors of the program that share memory."""
    return tensor.untyped_storage()._cdata
