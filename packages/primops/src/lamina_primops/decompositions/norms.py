"""Normalisation layers, forward and backward.

Statistics and arithmetic are float32 (float64 for doubles). Variances are numerically stable (`var_mean`). Mean and reciprocal deviation have the
dtype that eager saves them in: the parameters' when those are wider than the input, else the input's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .common import aten, compute_dtype, expand_to, full, numel, p, to
from .registry import register


def _wide(x: Any) -> Any:
    return None if x is None else to(x, compute_dtype(x.dtype))


def _stat_dtype(x: Any, *parameters: Any) -> Any:
    """Dtype of saved statistics: the parameters' own when they are float32 next to a half input."""
    for w in parameters:
        if w is not None:
            return w.dtype
    return x.dtype


def _affine(x: Any, weight: Any, bias: Any) -> Any:
    if weight is not None:
        x = p.mul(x, expand_to(_wide(weight), x.shape))
    return x if bias is None else p.add(x, expand_to(_wide(bias), x.shape))


def _rstd(var: Any, eps: float) -> Any:
    return p.rsqrt(p.add_scalar(var, float(eps)))


# -- layer norm -------------------------------------------------------------------------------------------------------
def _trailing(x: Any, shape: Sequence[Any]) -> list[int]:
    return list(range(x.ndim - len(shape), x.ndim))


@register(aten.native_layer_norm.default)
def native_layer_norm(x: Any, normalized_shape: Sequence[Any], weight: Any, bias: Any, eps: float) -> Any:
    """(x - mean) * rstd * weight + bias over the trailing dims; also mean and rstd."""
    dims, stats = _trailing(x, normalized_shape), _stat_dtype(x, weight, bias)
    wide = _wide(x)
    var, mean = p.var_mean(wide, dims, 0, True)
    rstd = _rstd(var, eps)
    out = p.mul(p.sub(wide, expand_to(mean, x.shape)), expand_to(rstd, x.shape))
    return to(_affine(out, weight, bias), x.dtype), to(mean, stats), to(rstd, stats)


@register(aten.native_layer_norm_backward.default)
def native_layer_norm_backward(
    grad: Any, x: Any, normalized_shape: Sequence[Any], mean: Any, rstd: Any, weight: Any, bias: Any, output_mask: Sequence[bool]
) -> Any:
    """Gradients of input, weight and bias. dx = rstd * (g*w - mean(g*w) - xhat * mean(g*w * xhat)), means over the trailing dims."""
    dims, dtype = _trailing(x, normalized_shape), x.dtype
    outer = list(range(x.ndim - len(dims)))
    g, wide, mean, rstd = (_wide(v) for v in (grad, x, mean, rstd))
    mean, rstd = (to(v, wide.dtype) for v in (mean, rstd))
    g = to(g, wide.dtype)
    spread = expand_to(rstd, x.shape)
    xhat = p.mul(p.sub(wide, expand_to(mean, x.shape)), spread)
    dx = dw = db = None
    if output_mask[0]:
        gw = g if weight is None else p.mul(g, expand_to(_wide(weight), x.shape))
        n = numel([x.shape[d] for d in dims])
        a = p.div_scalar(p.sum(gw, dims, True), n)
        b = p.div_scalar(p.sum(p.mul(gw, xhat), dims, True), n)
        inner = p.sub(p.sub(gw, expand_to(a, x.shape)), p.mul(xhat, expand_to(b, x.shape)))
        dx = to(p.mul(inner, spread), dtype)
    if output_mask[1] and weight is not None:
        dw = to(_over(p.mul(g, xhat), outer), weight.dtype)
    if output_mask[2] and bias is not None:
        db = to(_over(g, outer), bias.dtype)
    return dx, dw, db


def _over(x: Any, dims: Sequence[int]) -> Any:
    return p.sum(x, list(dims), False) if dims else x


# -- group norm -------------------------------------------------------------------------------------------------------
@register(aten.native_group_norm.default)
def native_group_norm(x: Any, weight: Any, bias: Any, N: Any, C: Any, HxW: Any, group: int, eps: float) -> Any:
    """Layer norm over the channels of a group and all positions; also mean and rstd of shape (N, group)."""
    stats = _stat_dtype(x, weight, bias)
    wide = p.reshape(_wide(x), [N, group, C // group, HxW])
    var, mean = p.var_mean(wide, [2, 3], 0, True)
    rstd = _rstd(var, eps)
    out = p.mul(p.sub(wide, expand_to(mean, wide.shape)), expand_to(rstd, wide.shape))
    out = p.reshape(out, list(x.shape))
    channels = [1, C] + [1] * (x.ndim - 2)
    weight, bias = (None if v is None else p.reshape(v, channels) for v in (weight, bias))
    return to(_affine(out, weight, bias), x.dtype), *(to(p.reshape(v, [N, group]), stats) for v in (mean, rstd))


@register(aten.native_group_norm_backward.default)
def native_group_norm_backward(
    grad: Any, x: Any, mean: Any, rstd: Any, weight: Any, N: Any, C: Any, HxW: Any, group: int, output_mask: Sequence[bool]
) -> Any:
    """Gradients of input, weight and bias, as for layer norm within a group."""
    D, dtype = C // group, x.dtype
    shape = [N, group, D, HxW]
    g, wide = (p.reshape(_wide(v), shape) for v in (grad, x))
    g = to(g, wide.dtype)
    mean, rstd = (expand_to(p.reshape(to(_wide(v), wide.dtype), [N, group, 1, 1]), shape) for v in (mean, rstd))
    xhat = p.mul(p.sub(wide, mean), rstd)
    dx = dw = db = None
    if output_mask[0]:
        gw = g if weight is None else p.mul(g, expand_to(p.reshape(to(_wide(weight), g.dtype), [1, group, D, 1]), shape))
        n = D * HxW
        a = expand_to(p.div_scalar(p.sum(gw, [2, 3], True), n), shape)
        b = expand_to(p.div_scalar(p.sum(p.mul(gw, xhat), [2, 3], True), n), shape)
        inner = p.sub(p.sub(gw, a), p.mul(xhat, b))
        dx = to(p.reshape(p.mul(inner, rstd), list(x.shape)), dtype)
    like = x.dtype if weight is None else weight.dtype
    if output_mask[1]:
        dw = to(p.reshape(p.sum(p.mul(g, xhat), [0, 3], False), [C]), like)
    if output_mask[2]:
        db = to(p.reshape(p.sum(g, [0, 3], False), [C]), like)
    return dx, dw, db


# -- batch norm -------------------------------------------------------------------------------------------------------
def _channels(v: Any, x: Any) -> Any:
    """A per-channel vector spread over x."""
    v = to(_wide(v), compute_dtype(x.dtype))
    return expand_to(p.reshape(v, [1, x.shape[1]] + [1] * (x.ndim - 2)), x.shape)


def _batch_dims(x: Any) -> list[int]:
    return [0, *range(2, x.ndim)]


def _normalised(x: Any, mean: Any, rstd: Any, weight: Any, bias: Any) -> Any:
    out = p.mul(p.sub(_wide(x), _channels(mean, x)), _channels(rstd, x))
    if weight is not None:
        out = p.mul(out, _channels(weight, x))
    return to(out if bias is None else p.add(out, _channels(bias, x)), x.dtype)


def _train(x: Any, weight: Any, bias: Any, eps: float) -> tuple[Any, Any, Any, Any]:
    """(out, mean, rstd, biased variance), the statistics in the compute dtype."""
    var, mean = p.var_mean(_wide(x), _batch_dims(x), 0, False)
    rstd = _rstd(var, eps)
    return _normalised(x, mean, rstd, weight, bias), mean, rstd, var


def _updated(running: Any, new: Any, momentum: float) -> Any:
    """(1 - momentum) * running + momentum * new."""
    wide = _wide(running)
    return to(p.add(p.mul_scalar(wide, 1.0 - momentum), p.mul_scalar(to(new, wide.dtype), float(momentum))), running.dtype)


def _unbiased(var: Any, x: Any) -> Any:
    n = numel([x.shape[d] for d in _batch_dims(x)])
    if type(n) is int:
        return p.mul_scalar(var, n / max(n - 1, 1))
    return p.div_scalar(p.mul_scalar(var, n), n - 1)


@register(aten._native_batch_norm_legit_functional.default)
def batch_norm_functional(x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, momentum: float, eps: float) -> Any:
    """Batch norm that returns the new running statistics (variance unbiased)."""
    if not training:
        return *batch_norm_inference(x, weight, bias, running_mean, running_var, momentum, eps), running_mean, running_var
    out, mean, rstd, var = _train(x, weight, bias, eps)
    stats = _stat_dtype(x, weight, bias)
    return out, to(mean, stats), to(rstd, stats), _updated(running_mean, mean, momentum), _updated(running_var, _unbiased(var, x), momentum)


@register(aten._native_batch_norm_legit.no_stats)
def batch_norm_no_stats(x: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float) -> Any:
    """Batch norm by the statistics of the batch."""
    out, mean, rstd, _ = _train(x, weight, bias, eps)
    stats = _stat_dtype(x, weight, bias)
    return out, to(mean, stats), to(rstd, stats)


@register(aten._native_batch_norm_legit_no_training.default)
def batch_norm_inference(x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, momentum: float, eps: float) -> Any:
    """Batch norm by the running statistics; the saved ones are empty."""
    out = _normalised(x, running_mean, _rstd(_wide(running_var), eps), weight, bias)
    empty = full([0], 0, _stat_dtype(x, weight, bias), x.device)
    return out, empty, empty


@register(aten.native_batch_norm.default)
def native_batch_norm(x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, momentum: float, eps: float) -> Any:
    """Batch norm without an update of the running statistics: a graph that trains with them has the functional overload."""
    if training:
        if running_mean is not None:
            return NotImplemented
        return batch_norm_no_stats(x, weight, bias, True, momentum, eps)
    return batch_norm_inference(x, weight, bias, running_mean, running_var, momentum, eps)


@register(aten.native_batch_norm_backward.default)
def native_batch_norm_backward(
    grad: Any, x: Any, weight: Any, running_mean: Any, running_var: Any, save_mean: Any, save_invstd: Any, train: bool, eps: float, output_mask: Sequence[bool]
) -> Any:
    """Gradients of input, weight and bias. Training: dx = (g - mean(g) - xhat * mean(g * xhat)) * rstd * w; else g * rstd * w."""
    mean, rstd = (save_mean, save_invstd) if train else (running_mean, _rstd(_wide(running_var), eps))
    inside = compute_dtype(x.dtype)
    g, wide = to(_wide(grad), inside), _wide(x)
    spread = _channels(rstd, x)
    dims, n = _batch_dims(x), numel([x.shape[d] for d in _batch_dims(x)])
    xhat = p.mul(p.sub(wide, _channels(mean, x)), spread)
    total, dot = p.sum(g, dims, False), p.sum(p.mul(g, xhat), dims, False)
    dx = dw = db = None
    if output_mask[0]:
        dx = g
        if train:
            dx = p.sub(p.sub(g, _channels(p.div_scalar(total, n), x)), p.mul(xhat, _channels(p.div_scalar(dot, n), x)))
        scale = spread if weight is None else p.mul(spread, _channels(weight, x))
        dx = to(p.mul(dx, scale), x.dtype)
    like = inside if weight is None else weight.dtype
    if output_mask[1]:
        dw = to(dot, like)
    if output_mask[2]:
        db = to(total, like)
    return dx, dw, db


# -- RMS norm ---------------------------------------------------------------------------------------------------------
@register(aten._fused_rms_norm.default)
def fused_rms_norm(x: Any, normalized_shape: Sequence[Any], weight: Any, eps: float | None) -> Any:
    """x * rsqrt(mean(x*x) + eps) * weight; also the reciprocal root."""
    wide, dims = _wide(x), _trailing(x, normalized_shape)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    n = numel([x.shape[d] for d in dims])
    rstd = _rstd(p.div_scalar(p.sum(p.mul(wide, wide), dims, True), n), eps)
    return to(_affine(p.mul(wide, expand_to(rstd, x.shape)), weight, None), x.dtype), rstd


@register(aten._fused_rms_norm_backward.default)
def fused_rms_norm_backward(grad: Any, x: Any, normalized_shape: Sequence[Any], rstd: Any, weight: Any, output_mask: Sequence[bool]) -> Any:
    """Gradients of input and weight. dx = rstd * (g*w - xhat * mean(g*w * xhat))."""
    dims = _trailing(x, normalized_shape)
    g, wide = _wide(grad), _wide(x)
    spread = expand_to(to(_wide(rstd), wide.dtype), x.shape)
    xhat = p.mul(wide, spread)
    dx = dw = None
    if output_mask[0]:
        gw = g if weight is None else p.mul(g, expand_to(_wide(weight), x.shape))
        b = p.div_scalar(p.sum(p.mul(gw, xhat), dims, True), numel([x.shape[d] for d in dims]))
        dx = to(p.mul(p.sub(gw, p.mul(xhat, expand_to(b, x.shape))), spread), x.dtype)
    if output_mask[1] and weight is not None:
        dw = to(_over(p.mul(g, xhat), range(x.ndim - len(dims))), weight.dtype)
    return dx, dw


@register(aten._weight_norm_interface.default)
def weight_norm(v: Any, g: Any, dim: int = 0) -> Any:
    """v * g / norm(v) over all dims but one; also the norms."""
    wide = _wide(v)
    others = [d for d in range(v.ndim) if d != dim]
    if not others:
        return NotImplemented
    norm = p.sqrt(p.sum(p.mul(wide, wide), others, True))
    scale = p.div(to(_wide(g), wide.dtype), norm)
    return to(p.mul(wide, expand_to(scale, v.shape)), v.dtype), to(norm, compute_dtype(g.dtype))


@register(aten._weight_norm_interface_backward.default)
def weight_norm_backward(grad: Any, v: Any, g: Any, norms: Any, dim: int) -> Any:
    """dg = sum(grad * v) / norm; dv = g / norm * (grad - v * sum(grad * v) / norm**2)."""
    others = [d for d in range(v.ndim) if d != dim]
    if not others:
        return NotImplemented
    wide, back = _wide(v), _wide(grad)
    norm, scale = to(_wide(norms), wide.dtype), to(_wide(g), wide.dtype)
    dot = p.div(p.sum(p.mul(back, wide), others, True), norm)
    inner = p.sub(back, p.mul(wide, expand_to(p.div(dot, norm), v.shape)))
    return to(p.mul(inner, expand_to(p.div(scale, norm), v.shape)), v.dtype), to(dot, g.dtype)


# -- batch norm by one pair of ops, forward and backward -------------------------------------------------------------------
def _with_reserve(out: tuple[Any, ...], x: Any) -> tuple[Any, ...]:
    """What a library would keep for itself: nothing here."""
    return (*out[:3], full([0], 0, torch.uint8, x.device), *out[3:])


@register(aten._batch_norm_with_update_functional.default)
def batch_norm_with_update(x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, momentum: float, eps: float) -> Any:
    """Training batch norm and the new running statistics."""
    return _with_reserve(batch_norm_functional(x, weight, bias, running_mean, running_var, True, momentum, eps), x)


@register(aten._batch_norm_no_update.default)
def batch_norm_no_update(x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, momentum: float, eps: float) -> Any:
    """Batch norm by the running statistics."""
    if running_mean is None or running_var is None:
        return NotImplemented
    return _with_reserve(batch_norm_inference(x, weight, bias, running_mean, running_var, momentum, eps), x)


@register(aten.batch_norm_backward.default)
def batch_norm_backward(
    grad: Any, x: Any, weight: Any, running_mean: Any, running_var: Any, save_mean: Any, save_invstd: Any, update: bool, eps: float, output_mask: Sequence[bool],
    reserve: Any,
) -> Any:  # fmt: skip
    """As `native_batch_norm_backward`."""
    return native_batch_norm_backward(grad, x, weight, running_mean, running_var, save_mean, save_invstd, update, eps, output_mask)
