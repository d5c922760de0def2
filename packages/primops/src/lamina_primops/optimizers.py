"""Fused optimizer steps as plain operations, in place: `FUSED_STEPS` maps an overload that writes its lists to the program that does the same.

Between: aotgrad's functionalization -> the same tensors, written by operators that every stage knows.
Numerics: arithmetic in float32 for half types and in the parameter's dtype else, every state rounded once when stored; corrections that depend on the step
count in float64, as in eager's CPU kernels. With `found_inf` nothing changes where it is 1; with `grad_scale` the gradients are divided by it, in place.
Source:  Kingma and Ba, Adam; Loshchilov and Hutter, AdamW; Duchi et al., Adagrad; the schemas of `aten::_fused_*_`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["FUSED_STEPS"]

_LOW = (torch.float16, torch.bfloat16)
Step = Callable[..., list[Tensor]]


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in _LOW else x


def _descent(parameter: Tensor, grad: Tensor, weight_decay: float, maximize: bool) -> Tensor:
    """The gradient of the loss with weight decay in it."""
    grad = grad.neg() if maximize else grad
    return grad + parameter * weight_decay if weight_decay else grad


def _adam(decoupled: bool) -> Step:
    def step(
        state: Sequence[Tensor], grad: Tensor, count: Tensor, *, lr: Any, beta1: float, beta2: float, weight_decay: float, eps: float, amsgrad: bool, maximize: bool
    ) -> list[Tensor]:
        parameter, mean, square = state[:3]
        if decoupled:
            grad = grad.neg() if maximize else grad
            parameter = parameter - parameter * (lr * weight_decay)
        else:
            grad = _descent(parameter, grad, weight_decay, maximize)
        mean = torch.lerp(mean, grad, 1.0 - beta1)
        square = square * beta2 + grad * grad * (1.0 - beta2)
        largest = [torch.maximum(state[3], square)] if amsgrad else []
        count = count.double()
        deviation = (largest[0] if amsgrad else square).sqrt() / (1.0 - beta2**count).sqrt() + eps
        return [parameter - (lr / (1.0 - beta1**count)) * mean / deviation, mean, square, *largest]

    return step


def _sgd(
    state: Sequence[Tensor], grad: Tensor, count: Any, *, weight_decay: float, momentum: float, lr: Any, dampening: float, nesterov: bool, maximize: bool,
    is_first_step: bool,
) -> list[Tensor]:  # fmt: skip
    parameter = state[0]
    grad = _descent(parameter, grad, weight_decay, maximize)
    if not momentum:
        return [parameter - grad * lr]
    velocity = grad if is_first_step else state[1] * momentum + grad * (1.0 - dampening)
    return [parameter - (grad + velocity * momentum if nesterov else velocity) * lr, velocity]


def _adagrad(state: Sequence[Tensor], grad: Tensor, count: Tensor, *, lr: Any, lr_decay: float, weight_decay: float, eps: float, maximize: bool) -> list[Tensor]:
    parameter = state[0]
    grad = _descent(parameter, grad, weight_decay, maximize)
    total = state[1] + grad * grad
    rate = lr / (1.0 + (count.double() - 1.0) * lr_decay)
    return [parameter - rate * grad / (total.sqrt() + eps), total]


def _program(step: Step, states: int, counted: bool) -> Callable[..., None]:
    """The overload's program: `states` lists after parameters and gradients, then the step counts."""

    def run(parameters: Sequence[Tensor], grads: Sequence[Tensor], *lists: Sequence[Tensor], grad_scale: Any = None, found_inf: Any = None, **numbers: Any) -> None:
        counts = lists[states] if counted else [None] * len(parameters)
        for i, (parameter, grad) in enumerate(zip(parameters, grads, strict=True)):
            held = [parameter, *(column[i] for column in lists[:states] if len(column))]
            wide = _wide(grad) if grad_scale is None else _wide(grad) / grad_scale
            new = step([_wide(x) for x in held], wide, counts[i], **numbers)
            targets = held[: len(new)]
            if grad_scale is not None:
                targets, new = [*targets, grad], [*new, wide]
            for target, value in zip(targets, new, strict=True):
                target.copy_(value if found_inf is None else torch.where(found_inf == 1, _wide(target), value))

    return run


def _table() -> dict[Any, Callable[..., None]]:
    aten = torch.ops.aten
    rows = (("_fused_adam_", _adam(False), 3, True), ("_fused_adamw_", _adam(True), 3, True), ("_fused_sgd_", _sgd, 1, False), ("_fused_adagrad_", _adagrad, 1, True))
    found = {}
    for name, step, states, counted in rows:
        packet = getattr(aten, name, None)
        for form in packet.overloads() if packet is not None else ():
            found[getattr(packet, form)] = _program(step, states, counted)
    return found


FUSED_STEPS = _table()
