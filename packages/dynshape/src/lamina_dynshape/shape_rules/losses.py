"""Loss operators that are not composite, and their gradients. `reduction`: 0 none, 1 mean, 2 sum."""

from __future__ import annotations

from typing import Any

from lamina_dynshape.fake_tensor import DataDependent
from lamina_dynshape.layout import contiguous, dense_like
from lamina_dynshape.promotion import result_type
from lamina_dynshape.shape_rules.pointwise import elementwise
from lamina_dynshape.shape_rules.registry import rule


def _scalar(mode: Any, like: Any, dtype: Any = None) -> Any:
    return mode.make((), (), dtype or like.scalar_type, like.dev)


def _dense(mode: Any, sizes: Any, like: Any) -> Any:
    return mode.make(sizes, contiguous(sizes), like.scalar_type, like.dev)


@rule("mse_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss")
def _pairwise_loss(mode: Any, x: Any, target: Any, reduction: int = 1, *args: Any) -> Any:
    result = elementwise(mode, (x, target), result_type((x, target)))
    return result if reduction == 0 else _scalar(mode, x, result.scalar_type)


@rule("mse_loss_backward", "smooth_l1_loss_backward", "huber_loss_backward")
def _pairwise_loss_backward(mode: Any, grad: Any, x: Any, target: Any, reduction: int, *args: Any) -> Any:
    return _dense(mode, x.sizes, x)


@rule("soft_margin_loss_backward")
def _soft_margin_backward(mode: Any, grad: Any, x: Any, target: Any, reduction: int) -> Any:
    operands = (x, target, grad)
    return elementwise(mode, operands, result_type(operands))


@rule("binary_cross_entropy")
def _binary_cross_entropy(mode: Any, x: Any, target: Any, weight: Any = None, reduction: int = 1) -> Any:
    return _scalar(mode, x) if reduction else mode.make(x.sizes, dense_like(x.sizes, x.strides), x.scalar_type, x.dev)


@rule("binary_cross_entropy_backward")
def _binary_cross_entropy_backward(mode: Any, grad: Any, x: Any, target: Any, weight: Any = None, reduction: int = 1) -> Any:
    return mode.make(x.sizes, dense_like(x.sizes, x.strides), x.scalar_type, x.dev)


@rule("binary_cross_entropy_with_logits")
def _bce_with_logits(mode: Any, x: Any, target: Any, weight: Any = None, pos_weight: Any = None, reduction: int = 1) -> Any:
    operands = tuple(t for t in (x, target, weight, pos_weight) if t is not None)
    result = elementwise(mode, operands, result_type(operands))
    return result if reduction == 0 else _scalar(mode, x, result.scalar_type)


@rule("nll_loss_forward", "nll_loss2d_forward")
def _nll_loss(mode: Any, x: Any, target: Any, weight: Any, reduction: int, ignore_index: Any) -> Any:
    _check_nll(x, target)
    total = _scalar(mode, x)
    if reduction == 0 and len(x.sizes) > 1:
        return _dense(mode, target.sizes, x), total
    return _scalar(mode, x), total


def _check_nll(x: Any, target: Any) -> None:
    from lamina_dynshape.dims import eq

    if len(x.sizes) == 2 and len(target.sizes) == 1 and not eq(x.sizes[0], target.sizes[0]):
        raise ValueError(f"Expected input batch_size ({x.sizes[0]}) to match target batch_size ({target.sizes[0]}).")


@rule("nll_loss_backward", "nll_loss2d_backward")
def _nll_loss_backward(mode: Any, grad: Any, x: Any, *args: Any) -> Any:
    return _dense(mode, x.sizes, x)


@rule("_ctc_loss.Tensor")
def _ctc_loss(mode: Any, log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, *args: Any) -> Any:
    """(loss, log alpha); the last extent of alpha follows the longest target, a value of `target_lengths`: a symbol itself, which the result then shows."""
    if not mode.has_unbacked():
        raise DataDependent("data-dependent size of ctc_loss", saw=repr(targets))
    time, batch = log_probs.sizes[:2]
    alpha = (batch, time, mode.unbacked_size(None))
    return _dense(mode, (batch,), log_probs), _dense(mode, alpha, log_probs)


@rule("_ctc_loss")
def _ctc_loss_of_lengths(mode: Any, log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, *args: Any) -> Any:
    time, batch = log_probs.sizes[:2]
    return _dense(mode, (batch,), log_probs), _dense(mode, (batch, time, max(target_lengths, default=0) * 2 + 1), log_probs)


@rule("_ctc_loss_backward", "_ctc_loss_backward.Tensor")
def _ctc_loss_backward(mode: Any, grad: Any, log_probs: Any, *args: Any) -> Any:
    return _dense(mode, log_probs.sizes, log_probs)
