"""Our stack behind PyTorch's own capture: `torch.compile(model, backend="lamina")`.

The peer hands over an FX graph of public torch calls with its own fake tensors and symbolic sizes. The graph's `forward` is ordinary
Python, so it is compiled like any other function: parameters may be inputs or attributes, leaf modules may be left in it, sizes
arrive as integers. What our stack relies on is guarded by our guards, and nothing of the peer's shape environment is trusted.
The price is a second guard check per call, about a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .api import compile

__all__ = ["lamina"]


def lamina(gm: torch.fx.GraphModule, example_inputs: Sequence[Any], **kwargs: Any) -> Callable[..., Any]:
    """A backend for `torch.compile`; `mode=` and `options=` are those of `lamina.compile`."""
    dynamic = True if any(isinstance(value, torch.SymInt) for value in example_inputs) else None
    return compile(gm.forward, dynamic=dynamic, mode=kwargs.get("mode"), options=kwargs.get("options"))
