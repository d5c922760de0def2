"""PyTorch's C++ functionalization, called directly: in-place programs run on functional tensors and emit pure ATen calls.

Between: autograd (above) and the tracing mode (below): what reaches the mode has no in-place op, and views are re-applied.
Keeps:   a functional tensor's storage identity is the program's: aliases share it, `set_` and `.data =` change it.
Source:  aten/src/ATen/FunctionalTensorWrapper.h of PyTorch.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lamina_dynshape import estimate_of
from lamina_dynshape.support.errors import Unsupported
from lamina_primops.optimizers import FUSED_STEPS
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .views import is_dense

# Of each in-place op C++ would also run the functional one on Meta tensors, a check of shapes that the shape rules have made already; with
# symbolic sizes that needs Meta kernels in Python, PyTorch's own, which are not always there. Read by C++ at the first in-place op.
os.environ.setdefault("TORCH_DISABLE_FUNCTIONALIZATION_META_REFERENCE", "1")

__all__ = ["functionalization", "is_functional", "storage_id", "suspended", "unwrap", "wrap"]


@contextlib.contextmanager
def functionalization() -> Iterator[None]:
    """Turn functionalization on in this thread, views kept as views."""
    _fills_in_order_of_memory()  # asked while that can still be tried
    library = _hidden_writes()
    torch._enable_functionalization(reapply_views=True)
    try:
        yield
    finally:
        torch._disable_functionalization()
        library._destroy()


def _hidden_writes() -> torch.library.Library:
    """Kernels, for as long as a trace runs, of ops whose writes functionalization does not see: a schema that hides them is rerouted to an overload that
    says so, draws whose order it changes, fused optimizer steps (their lists of states may be empty, which it takes for plain tensors) run as the operators they are made of."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("native_batch_norm", _native_batch_norm, "Functionalize")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")  # their own kernels are what is replaced
        library.impl("bernoulli_.float", _bernoulli, "Functionalize")
        library.impl("normal_", _normal, "Functionalize")
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


def _bernoulli(x: Tensor, p: float = 0.5, *, generator: Any = None) -> Tensor:
    """Drawn in the order in which the operator fills the tensor: C++'s functional operator draws in the order of its sizes."""
    stride = x.stride()
    order = sorted(range(x.dim()), key=lambda d: estimate_of(stride[d]), reverse=True) if _fills_in_order_of_memory() else list(range(x.dim()))
    drawn = torch.bernoulli(x.permute(order), p, generator=generator)
    return x.copy_(drawn.permute([order.index(d) for d in range(x.dim())]))


def _normal(x: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Of dense memory C++ draws by another method than of memory with gaps, which the functional operator closes."""
    if not is_dense(x):
        raise Unsupported("normal_() of a tensor with gaps in its memory", code="draw_with_gaps")
    return x.copy_(torch.ops.aten.normal_functional(x, mean, std, generator=generator))


@functools.cache
def _fills_in_order_of_memory() -> bool:
    """Whether `bernoulli_` does; on processors of Intel, PyTorch has MKL fill a tensor that is not contiguous in the order of its sizes."""
    with _disable_current_modes():
        rows, columns = (torch.empty(8, 8, device="cpu").permute(order).bernoulli_(generator=torch.Generator().manual_seed(0)) for order in ((0, 1), (1, 0)))
        return torch.equal(rows, columns.t())


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
