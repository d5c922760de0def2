"""Rules for the two operators of gradient scaling, which write several arguments: as plain operators, whose writes every backend knows.

Source: PyTorch aten/src/ATen/native/AmpKernels.cpp.
"""

from __future__ import annotations

from typing import Any

import torch

from ..recorder import Recorder, function_rule

_T = torch.Tensor


@function_rule(torch._amp_foreach_non_finite_check_and_unscale_)
def unscale(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """`found_inf` becomes 1 where a gradient is not finite; the gradients are multiplied by `inv_scale`."""
    grads, found_inf, inv_scale = args
    for g in grads:
        finite = rec.run(torch.all, (rec.run(torch.isfinite, (g,), {}),), {})
        bad = rec.run(_T.to, (rec.run(torch.logical_not, (finite,), {}), found_inf.dtype), {})
        rec.run(_T.copy_, (found_inf, rec.run(torch.maximum, (found_inf, bad), {})), {})
        rec.run(_T.mul_, (g, inv_scale), {})


@function_rule(torch._amp_update_scale_)
def update_scale(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """The scale shrinks after gradients that were not finite, and grows after `interval` steps without; it stays finite."""
    scale, tracker, found_inf, growth, backoff, interval = args
    bad = rec.run(torch.ne, (found_inf, 0), {})
    steps = rec.run(torch.add, (tracker, 1), {})
    full = rec.run(torch.eq, (steps, interval), {})
    grown = rec.run(torch.mul, (scale, growth), {})
    grown = rec.run(torch.where, (rec.run(torch.isfinite, (grown,), {}), grown, scale), {})
    kept = rec.run(torch.where, (full, grown, scale), {})
    rec.run(_T.copy_, (scale, rec.run(torch.where, (bad, rec.run(torch.mul, (scale, backoff), {}), kept), {})), {})
    none = rec.run(torch.zeros_like, (steps,), {})
    reset = rec.run(torch.logical_or, (bad, full), {})
    rec.run(_T.copy_, (tracker, rec.run(torch.where, (reset, none, steps), {})), {})
    return scale
