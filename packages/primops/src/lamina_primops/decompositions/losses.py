"""Losses and their backward formulas. Half types are computed in float32 and rounded once. Reduction: 0 none, 1 mean, 2 sum."""

from __future__ import annotations

from typing import Any

import torch

from .common import aten, broadcast, expand_to, float32_inside, full, full_like, numel, p
from .registry import register

MEAN, SUM = 1, 2


def _reduced(x: Any, reduction: int) -> Any:
    if reduction not in (MEAN, SUM):
        return x
    total = p.sum(x, list(range(x.ndim)), False) if x.ndim else x
    return total if reduction == SUM else p.div_scalar(total, numel(x.shape))


def _share(grad: Any, shape: Any, reduction: int) -> Any:
    """The gradient of each element of the unreduced loss."""
    grad = expand_to(grad, shape)
    return p.div_scalar(grad, numel(shape)) if reduction == MEAN else grad


@register(aten.mse_loss.default)
@float32_inside
def mse_loss(x: Any, target: Any, reduction: int = MEAN) -> Any:
    """(x - target)**2."""
    d = p.sub(*broadcast(x, target))
    return _reduced(p.mul(d, d), reduction)


@register(aten.mse_loss_backward.default)
@float32_inside
def mse_loss_backward(grad: Any, x: Any, target: Any, reduction: int) -> Any:
    """2 * (x - target) * grad."""
    x, target = broadcast(x, target)
    return p.mul(p.mul_scalar(p.sub(x, target), 2.0), _share(grad, x.shape, reduction))


@register(aten.smooth_l1_loss.default)
@float32_inside
def smooth_l1_loss(x: Any, target: Any, reduction: int = MEAN, beta: float = 1.0) -> Any:
    """d*d / (2 beta) below beta, d - beta/2 above, d = |x - target|."""
    d = p.abs(p.sub(*broadcast(x, target)))
    if beta == 0:
        return _reduced(d, reduction)
    near = p.div_scalar(p.mul(p.mul_scalar(d, 0.5), d), float(beta))
    return _reduced(p.where(p.lt_scalar(d, float(beta)), near, p.sub_scalar(d, 0.5 * beta)), reduction)


@register(aten.smooth_l1_loss_backward.default)
@float32_inside
def smooth_l1_loss_backward(grad: Any, x: Any, target: Any, reduction: int, beta: float) -> Any:
    """grad * d / beta inside, grad * sign(d) outside."""
    d = p.sub(*broadcast(x, target))
    g = _share(grad, d.shape, reduction)
    if beta == 0:
        return p.mul(g, p.sign(d))
    inside = p.lt_scalar(p.abs(d), float(beta))
    return p.where(inside, p.div_scalar(p.mul(g, d), float(beta)), p.mul(g, p.sign(d)))


@register(aten.huber_loss.default)
@float32_inside
def huber_loss(x: Any, target: Any, reduction: int = MEAN, delta: float = 1.0) -> Any:
    """d*d / 2 up to delta, delta * (d - delta/2) above."""
    d = p.abs(p.sub(*broadcast(x, target)))
    far = p.mul_scalar(p.sub_scalar(d, 0.5 * delta), float(delta))
    return _reduced(p.where(p.le_scalar(d, float(delta)), p.mul(p.mul_scalar(d, 0.5), d), far), reduction)


@register(aten.huber_loss_backward.default)
@float32_inside
def huber_loss_backward(grad: Any, x: Any, target: Any, reduction: int, delta: float) -> Any:
    """grad * d inside, grad * delta * sign(d) outside."""
    d = p.sub(*broadcast(x, target))
    g = _share(grad, d.shape, reduction)
    return p.mul(g, p.maximum_scalar(p.minimum_scalar(d, float(delta)), -float(delta)))


@register(aten.soft_margin_loss.default)
@float32_inside
def soft_margin_loss(x: Any, target: Any, reduction: int = MEAN) -> Any:
    """log1p(exp(-target * x))."""
    x, target = broadcast(x, target)
    return _reduced(p.log1p(p.exp(p.mul(p.neg(x), target))), reduction)


@register(aten.soft_margin_loss_backward.default)
@float32_inside
def soft_margin_loss_backward(grad: Any, x: Any, target: Any, reduction: int) -> Any:
    """-target * z / (z + 1) * grad, z = exp(-target * x)."""
    x, target = broadcast(x, target)
    z = p.exp(p.mul(p.neg(x), target))
    slope = p.div(p.mul(p.neg(target), z), p.add_scalar(z, 1.0))
    return p.mul(slope, _share(grad, x.shape, reduction))


@register(aten.binary_cross_entropy.default)
@float32_inside
def binary_cross_entropy(x: Any, target: Any, weight: Any = None, reduction: int = MEAN) -> Any:
    """-(t log x + (1 - t) log(1 - x)), logarithms not below -100."""
    x, target = broadcast(x, target)
    yes, no = (p.maximum_scalar(v, -100.0) for v in (p.log(x), p.log1p(p.neg(x))))
    loss = p.sub(p.mul(p.sub_scalar(target, 1.0), no), p.mul(target, yes))
    return _reduced(loss if weight is None else p.mul(loss, expand_to(weight, x.shape)), reduction)


@register(aten.binary_cross_entropy_backward.default)
@float32_inside
def binary_cross_entropy_backward(grad: Any, x: Any, target: Any, weight: Any = None, reduction: int = MEAN) -> Any:
    """grad * (x - t) / max((1 - x) x, 1e-12)."""
    x, target = broadcast(x, target)
    out = p.div(p.mul(_share(grad, x.shape, 0), p.sub(x, target)), p.maximum_scalar(p.mul(p.rsub_scalar(x, 1.0), x), 1e-12))
    out = out if weight is None else p.mul(out, expand_to(weight, x.shape))
    return p.div_scalar(out, numel(x.shape)) if reduction == MEAN else out


@register(aten.binary_cross_entropy_with_logits.default)
@float32_inside
def binary_cross_entropy_with_logits(x: Any, target: Any, weight: Any = None, pos_weight: Any = None, reduction: int = MEAN) -> Any:
    """(1 - t) x + w (log1p(exp(-|x|)) + max(-x, 0)), w = 1 + (pos_weight - 1) t."""
    x, target = broadcast(x, target)
    soft = p.add(p.log1p(p.exp(p.neg(p.abs(x)))), p.maximum_scalar(p.neg(x), 0.0))
    if pos_weight is not None:
        soft = p.mul(soft, p.add_scalar(p.mul(p.sub_scalar(expand_to(pos_weight, x.shape), 1.0), target), 1.0))
    loss = p.add(p.mul(p.rsub_scalar(target, 1.0), x), soft)
    return _reduced(loss if weight is None else p.mul(loss, expand_to(weight, x.shape)), reduction)


# -- negative log likelihood --------------------------------------------------------------------------------------------
def _picked(target: Any, ignore_index: Any) -> tuple[Any, Any]:
    """(which targets count, a class that exists in the places of those that do not)."""
    counts = p.ne_scalar(target, ignore_index)
    return counts, p.where(counts, target, full_like(target, 0))


def _weights(x: Any, weight: Any, classes: Any, counts: Any) -> Any:
    """Weight of each target, 0 where ignored."""
    one = full_like(classes, 1.0, x.dtype)
    if weight is not None:
        one = p.reshape(p.index_select(weight, 0, p.reshape(classes, [numel(classes.shape)])), list(classes.shape))
    return p.where(counts, one, full_like(one, 0.0))


def _at(v: Any) -> Any:
    """A per-target tensor with the class dimension put in."""
    return p.reshape(v, [v.shape[0], 1, *v.shape[1:]])


@register(aten.nll_loss_forward.default, aten.nll_loss2d_forward.default)
@float32_inside
def nll_loss(x: Any, target: Any, weight: Any, reduction: int, ignore_index: Any) -> Any:
    """(-weight * x[target], summed or averaged by weight; sum of the weights). Classes are dimension 1."""
    single = x.ndim == 1
    if single:
        x, target = p.reshape(x, [1, *x.shape]), p.reshape(target, [1])
    counts, classes = _picked(target, ignore_index)
    w = _weights(x, weight, classes, counts)
    picked = p.reshape(p.gather(x, 1, _at(classes)), list(target.shape))
    loss = p.where(counts, p.neg(p.mul(picked, w)), full_like(w, 0.0))
    if reduction not in (MEAN, SUM):
        return (p.reshape(loss, []) if single else loss), full([], 0, x.dtype, x.device)
    dims = list(range(loss.ndim))
    total, weights = p.sum(loss, dims, False), p.sum(w, dims, False)
    return (p.div(total, weights) if reduction == MEAN else total), weights


@register(aten.nll_loss_backward.default, aten.nll_loss2d_backward.default)
@float32_inside
def nll_loss_backward(grad: Any, x: Any, target: Any, weight: Any, reduction: int, ignore_index: Any, total_weight: Any) -> Any:
    """-weight * grad at each target, 0 elsewhere. Written as a comparison with the class number: no scatter."""
    shape, single = list(x.shape), x.ndim == 1
    if single:
        x, target = p.reshape(x, [1, *x.shape]), p.reshape(target, [1])
        grad = grad if grad.ndim == 0 else p.reshape(grad, [1])
    counts, classes = _picked(target, ignore_index)
    w = p.neg(_weights(x, weight, classes, counts))
    g = expand_to(p.div(grad, total_weight) if reduction == MEAN else grad, list(target.shape))
    value = expand_to(_at(p.where(counts, p.mul(w, g), full_like(w, 0.0))), x.shape)
    numbers = p.reshape(p.iota(x.shape[1], 0, 1, target.dtype, x.device), [1, x.shape[1]] + [1] * (x.ndim - 2))
    hit = p.eq(expand_to(_at(classes), x.shape), expand_to(numbers, x.shape))
    return p.reshape(p.where(hit, value, full_like(value, 0.0)), shape)


# -- margins ------------------------------------------------------------------------------------------------------------
def _as_rows(x: Any) -> Any:
    """(rows, classes); a vector is one row."""
    return x if x.ndim == 2 else p.reshape(x, [1, numel(x.shape)])


def _class_numbers(x: Any, dtype: Any) -> Any:
    return expand_to(p.iota(x.shape[1], 0, 1, dtype, x.device), x.shape)


def _margins(x: Any, target: Any, margin: Any, weight: Any) -> tuple[Any, Any, Any]:
    """(is the target, margin - x[target] + x, weight of the row's target) at every class."""
    column = p.reshape(target, [x.shape[0], 1])
    own = p.eq(expand_to(column, x.shape), _class_numbers(x, target.dtype))
    z = p.add_scalar(p.sub(x, expand_to(p.gather(x, 1, column), x.shape)), float(margin))
    if weight is not None:
        weight = expand_to(p.reshape(p.index_select(weight, 0, p.reshape(target, [x.shape[0]])), [x.shape[0], 1]), x.shape)
    return own, z, weight


@register(aten.multi_margin_loss.default)
@float32_inside
def multi_margin_loss(x: Any, target: Any, p_: Any = 1, margin: Any = 1, weight: Any = None, reduction: int = MEAN) -> Any:
    """Mean over the other classes of weight * max(0, margin - x[target] + x)**p."""
    if x.ndim == 0 or any(type(s) is int and s == 0 for s in x.shape):
        return NotImplemented
    single, x = x.ndim == 1, _as_rows(x)
    own, z, w = _margins(x, target, margin, weight)
    z = p.maximum_scalar(z, 0.0)
    z = p.mul(z, z) if p_ == 2 else z
    z = z if w is None else p.mul(z, w)
    loss = p.div_scalar(p.sum(p.where(own, full_like(z, 0.0), z), [1], False), x.shape[1])
    return _reduced(p.reshape(loss, []) if single else loss, reduction)


@register(aten.multi_margin_loss_backward.default)
@float32_inside
def multi_margin_loss_backward(grad: Any, x: Any, target: Any, p_: Any, margin: Any, weight: Any = None, reduction: int = MEAN) -> Any:
    """Each class above its margin gets grad * weight (2 z for p = 2) over the classes, the target minus their sum."""
    if x.ndim == 0 or any(type(s) is int and s == 0 for s in x.shape):
        return NotImplemented
    shape, x = list(x.shape), _as_rows(x)
    own, z, w = _margins(x, target, margin, weight)
    h = p.mul_scalar(z, 2.0) if p_ == 2 else full_like(z, 1.0)
    h = p.div_scalar(h if w is None else p.mul(h, w), x.shape[1])
    h = p.where(p.logical_or(own, p.le_scalar(z, 0.0)), full_like(h, 0.0), h)
    total = expand_to(p.sum(h, [1], True), x.shape)
    each = _share(grad if grad.ndim == 0 else p.reshape(grad, [x.shape[0]]), [x.shape[0]], reduction)
    out = p.mul(p.where(own, p.neg(total), h), expand_to(p.reshape(each, [x.shape[0], 1]), x.shape))
    return p.reshape(out, shape)


def _labels(x: Any, target: Any) -> tuple[Any, Any, Any]:
    """(target, is class j a label, is position t a label): labels are what is before the first negative number of a row."""
    counts = p.eq_scalar(p.cumsum(p.convert(p.lt_scalar(target, 0), torch.int64), 1), 0)
    safe = p.where(counts, target, full_like(target, 0))
    hits = p.scatter(full(x.shape, 0, x.dtype, x.device), 1, safe, p.convert(counts, x.dtype), "amax")
    return safe, p.ne_scalar(hits, 0.0), counts


def _pairs(x: Any, target: Any) -> tuple[Any, Any, Any]:
    """(safe target, is_label of classes, z[row, position, class] = 1 - x[target] + x[class] masked to labels against others)."""
    safe, is_label, counts = _labels(x, target)
    n, c = x.shape
    shape = [n, c, c]
    picked = expand_to(p.reshape(p.gather(x, 1, safe), [n, c, 1]), shape)
    z = p.add_scalar(p.sub(expand_to(p.reshape(x, [n, 1, c]), shape), picked), 1.0)
    valid = p.logical_and(expand_to(p.reshape(counts, [n, c, 1]), shape), p.logical_not(expand_to(p.reshape(is_label, [n, 1, c]), shape)))
    return safe, is_label, p.where(p.logical_and(valid, p.gt_scalar(z, 0.0)), z, full_like(z, 0.0))


@register(aten.multilabel_margin_loss_forward.default)
@float32_inside
def multilabel_margin_loss(x: Any, target: Any, reduction: int) -> Any:
    """(sum of max(0, 1 - x[label] + x[other]) over labels and others, over the classes; which classes are labels)."""
    if x.ndim == 0 or any(type(s) is int and s == 0 for s in x.shape):
        return NotImplemented
    shape, x, target = list(x.shape), _as_rows(x), _as_rows(target)
    _, is_label, z = _pairs(x, target)
    loss = p.div_scalar(p.sum(z, [1, 2], False), x.shape[1])
    return _reduced(p.reshape(loss, []) if len(shape) == 1 else loss, reduction), p.reshape(p.convert(is_label, x.dtype), shape)


@register(aten.multilabel_margin_loss_backward.default)
@float32_inside
def multilabel_margin_loss_backward(grad: Any, x: Any, target: Any, reduction: int, is_target: Any) -> Any:
    """Each pair above its margin adds grad over the classes to its other class and takes it from its label."""
    if x.ndim == 0 or any(type(s) is int and s == 0 for s in x.shape):
        return NotImplemented
    shape, x, target = list(x.shape), _as_rows(x), _as_rows(target)
    safe, _, z = _pairs(x, target)
    hit = p.where(p.gt_scalar(z, 0.0), full_like(z, 1.0), full_like(z, 0.0))
    others, labels = p.sum(hit, [1], False), p.neg(p.sum(hit, [2], False))
    slope = p.div_scalar(p.scatter(others, 1, safe, labels, "add"), x.shape[1])
    each = _share(grad if grad.ndim == 0 else p.reshape(grad, [x.shape[0]]), [x.shape[0]], reduction)
    return p.reshape(p.mul(slope, expand_to(p.reshape(each, [x.shape[0], 1]), x.shape)), shape)
