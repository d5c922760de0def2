"""Activation functions and their backward formulas. Half types are computed in float32 and rounded once, as eager's kernels do."""

from __future__ import annotations

import math
from typing import Any

from .common import aten, aten_call, broadcast, float32_inside, full_like, p, to
from .registry import register

_SQRT_HALF = math.sqrt(0.5)
_TANH_SCALE = math.sqrt(2.0 / math.pi)
_TANH_CUBIC = 0.044715


def _zero(x: Any) -> Any:
    return full_like(x, 0)


@register(aten.relu.default)
def relu(x: Any) -> Any:
    """max(x, 0); NaN stays."""
    return p.maximum_scalar(x, 0.0 if x.dtype.is_floating_point else 0)


@register(aten.threshold.default)
def threshold(x: Any, threshold: Any, value: Any) -> Any:
    """x where x > threshold, else the value; NaN stays."""
    return p.where(p.le_scalar(x, threshold), full_like(x, value), x)


@register(aten.threshold_backward.default)
def threshold_backward(grad: Any, x: Any, threshold: Any) -> Any:
    """grad where x > threshold (or x is NaN)."""
    grad, x = broadcast(grad, x)
    return p.where(p.le_scalar(x, threshold), _zero(grad), grad)


@register(aten.hardtanh.default)
def hardtanh(x: Any, min_val: Any = -1, max_val: Any = 1) -> Any:
    """x inside the bounds; NaN stays."""
    if not x.dtype.is_floating_point:
        return NotImplemented
    return p.minimum_scalar(p.maximum_scalar(x, float(min_val)), float(max_val))


@register(aten.hardtanh_backward.default)
def hardtanh_backward(grad: Any, x: Any, min_val: Any, max_val: Any) -> Any:
    """grad strictly inside the bounds."""
    outside = p.logical_or(p.le_scalar(x, min_val), p.ge_scalar(x, max_val))
    return p.where(outside, _zero(grad), grad)


@register(aten.leaky_relu.default)
@float32_inside
def leaky_relu(x: Any, negative_slope: Any = 0.01) -> Any:
    """x above 0, slope * x below."""
    return p.where(p.gt_scalar(x, 0.0), x, p.mul_scalar(x, float(negative_slope)))


@register(aten.leaky_relu_backward.default)
@float32_inside
def leaky_relu_backward(grad: Any, x: Any, negative_slope: Any, self_is_result: bool) -> Any:
    """grad above 0, slope * grad below."""
    return p.where(p.gt_scalar(x, 0.0), grad, p.mul_scalar(grad, float(negative_slope)))


@register(aten._prelu_kernel.default)
@float32_inside
def prelu(x: Any, weight: Any) -> Any:
    """x above 0, weight * x below."""
    x, weight = broadcast(x, weight)
    return p.where(p.gt_scalar(x, 0.0), x, p.mul(weight, x))


@register(aten._prelu_kernel_backward.default)
@float32_inside
def prelu_backward(grad: Any, x: Any, weight: Any) -> Any:
    """Gradients of input and (unsummed) weight."""
    grad, x, weight = broadcast(grad, x, weight)
    above = p.gt_scalar(x, 0.0)
    return p.where(above, grad, p.mul(weight, grad)), p.where(above, _zero(grad), p.mul(x, grad))


@register(aten.gelu.default)
@float32_inside
def gelu(x: Any, *, approximate: str = "none") -> Any:
    """x * Phi(x) by erf, or by tanh of a cubic."""
    if approximate == "tanh":
        inner = p.mul_scalar(p.add(x, p.mul_scalar(p.mul(p.mul(x, x), x), _TANH_CUBIC)), _TANH_SCALE)
        return p.mul(p.mul_scalar(x, 0.5), p.add_scalar(p.tanh(inner), 1.0))
    return p.mul(p.mul_scalar(x, 0.5), p.add_scalar(p.erf(p.mul_scalar(x, _SQRT_HALF)), 1.0))


@register(aten.gelu_backward.default)
@float32_inside
def gelu_backward(grad: Any, x: Any, *, approximate: str = "none") -> Any:
    """grad * (Phi(x) + x * phi(x)), or the derivative of the tanh form."""
    grad, x = broadcast(grad, x)
    square = p.mul(x, x)
    if approximate == "tanh":
        t = p.tanh(p.mul_scalar(p.add(x, p.mul_scalar(p.mul(square, x), _TANH_CUBIC)), _TANH_SCALE))
        inner = p.mul_scalar(p.add_scalar(p.mul_scalar(square, 3 * _TANH_CUBIC), 1.0), _TANH_SCALE)
        left = p.mul_scalar(p.add_scalar(t, 1.0), 0.5)
        right = p.mul(p.mul(p.mul_scalar(x, 0.5), p.rsub_scalar(p.mul(t, t), 1.0)), inner)
        return p.mul(grad, p.add(left, right))
    cdf = p.mul_scalar(p.add_scalar(p.erf(p.mul_scalar(x, _SQRT_HALF)), 1.0), 0.5)
    pdf = p.mul_scalar(p.exp(p.mul_scalar(square, -0.5)), 1.0 / math.sqrt(2.0 * math.pi))
    return p.mul(grad, p.add(cdf, p.mul(x, pdf)))


@register(aten.silu.default)
@float32_inside
def silu(x: Any) -> Any:
    """x / (1 + exp(-x))."""
    return p.div(x, p.add_scalar(p.exp(p.neg(x)), 1.0))


@register(aten.silu_backward.default)
@float32_inside
def silu_backward(grad: Any, x: Any) -> Any:
    """grad * s * (1 + x * (1 - s)), s = sigmoid(x)."""
    grad, x = broadcast(grad, x)
    s = p.sigmoid(x)
    return p.mul(p.mul(grad, s), p.add_scalar(p.mul(x, p.rsub_scalar(s, 1.0)), 1.0))


@register(aten.mish.default)
@float32_inside
def mish(x: Any) -> Any:
    """x * tanh(log1p(exp(x)))."""
    return p.mul(x, p.tanh(p.log1p(p.exp(x))))


@register(aten.mish_backward.default)
@float32_inside
def mish_backward(grad: Any, x: Any) -> Any:
    """grad * (t + x * s * (1 - t*t)), t = tanh(log1p(exp(x))), s = sigmoid(x)."""
    t = p.tanh(p.log1p(p.exp(x)))
    return p.mul(grad, p.add(t, p.mul(p.mul(x, p.sigmoid(x)), p.rsub_scalar(p.mul(t, t), 1.0))))


@register(aten.softplus.default)
@float32_inside
def softplus(x: Any, beta: Any = 1, threshold: Any = 20) -> Any:
    """log1p(exp(beta * x)) / beta, x itself above the threshold."""
    z = p.mul_scalar(x, float(beta))
    return p.where(p.gt_scalar(z, float(threshold)), x, p.div_scalar(p.log1p(p.exp(z)), float(beta)))


@register(aten.softplus_backward.default)
@float32_inside
def softplus_backward(grad: Any, x: Any, beta: Any, threshold: Any) -> Any:
    """grad * z / (z + 1), z = exp(beta * x); grad above the threshold."""
    scaled = p.mul_scalar(x, float(beta))
    z = p.exp(scaled)
    return p.where(p.gt_scalar(scaled, float(threshold)), grad, p.div(p.mul(grad, z), p.add_scalar(z, 1.0)))


@register(aten.elu.default)
@float32_inside
def elu(x: Any, alpha: Any = 1, scale: Any = 1, input_scale: Any = 1) -> Any:
    """scale * x above 0, scale * alpha * (exp(input_scale * x) - 1) below."""
    below = p.mul_scalar(p.expm1(p.mul_scalar(x, float(input_scale))), float(alpha) * float(scale))
    return p.where(p.le_scalar(x, 0.0), below, p.mul_scalar(x, float(scale)))


@register(aten.elu_backward.default)
@float32_inside
def elu_backward(grad: Any, alpha: Any, scale: Any, input_scale: Any, is_result: bool, x: Any) -> Any:
    """Derivative of elu, from its operand or its result."""
    alpha, scale, input_scale = float(alpha), float(scale), float(input_scale)
    if is_result:
        below = p.mul_scalar(p.mul(grad, p.add_scalar(x, alpha * scale)), input_scale)
    else:
        below = p.mul(p.mul_scalar(grad, input_scale * alpha * scale), p.exp(p.mul_scalar(x, input_scale)))
    return p.where(p.le_scalar(x, 0.0), below, p.mul_scalar(grad, scale))


@register(aten.celu.default)
def celu(x: Any, alpha: Any = 1.0) -> Any:
    """elu with input scale 1 / alpha."""
    return elu(x, alpha, 1, 1.0 / float(alpha))


def _relu6_of_shifted(x: Any) -> Any:
    return p.minimum_scalar(p.maximum_scalar(p.add_scalar(x, 3.0), 0.0), 6.0)


@register(aten.hardswish.default)
@float32_inside
def hardswish(x: Any) -> Any:
    """x * min(max(x + 3, 0), 6) / 6."""
    return p.div_scalar(p.mul(x, _relu6_of_shifted(x)), 6.0)


@register(aten.hardswish_backward.default)
@float32_inside
def hardswish_backward(grad: Any, x: Any) -> Any:
    """0 below -3, grad * (x / 3 + 0.5) up to 3, grad above."""
    middle = p.mul(grad, p.add_scalar(p.div_scalar(x, 3.0), 0.5))
    return p.where(p.le_scalar(x, -3.0), _zero(grad), p.where(p.lt_scalar(x, 3.0), middle, grad))


@register(aten.hardsigmoid.default)
@float32_inside
def hardsigmoid(x: Any) -> Any:
    """min(max(x + 3, 0), 6) / 6."""
    return p.div_scalar(_relu6_of_shifted(x), 6.0)


@register(aten.hardsigmoid_backward.default)
@float32_inside
def hardsigmoid_backward(grad: Any, x: Any) -> Any:
    """grad / 6 strictly between -3 and 3."""
    inside = p.logical_and(p.gt_scalar(x, -3.0), p.lt_scalar(x, 3.0))
    return p.where(inside, p.mul_scalar(grad, 1.0 / 6.0), _zero(grad))


@register(aten.sigmoid_backward.default)
@float32_inside
def sigmoid_backward(grad: Any, out: Any) -> Any:
    """grad * (1 - out) * out."""
    grad, out = broadcast(grad, out)
    return p.mul(p.mul(grad, p.rsub_scalar(out, 1.0)), out)


@register(aten.tanh_backward.default)
@float32_inside
def tanh_backward(grad: Any, out: Any) -> Any:
    """grad * (1 - out * out)."""
    grad, out = broadcast(grad, out)
    return p.mul(grad, p.rsub_scalar(p.mul(out, out), 1.0))


@register(aten.log_sigmoid_forward.default)
@float32_inside
def log_sigmoid(x: Any) -> Any:
    """min(0, x) - log1p(exp(-|x|)), and the buffer exp(-|x|)."""
    z = p.exp(p.neg(p.abs(x)))
    return p.sub(p.minimum_scalar(x, 0.0), p.log1p(z)), z


@register(aten.log_sigmoid_backward.default)
@float32_inside
def log_sigmoid_backward(grad: Any, x: Any, buffer: Any) -> Any:
    """grad * (1 below 0, else 0, plus or minus z / (1 + z)), z = exp(-|x|)."""
    below = p.lt_scalar(x, 0.0)
    z = p.exp(p.neg(p.abs(x)))
    part = p.div(z, p.add_scalar(z, 1.0))
    return p.mul(grad, p.where(below, p.rsub_scalar(part, 1.0), part))


@register(aten.softshrink.default)
@float32_inside
def softshrink(x: Any, lambd: Any = 0.5) -> Any:
    """x moved towards 0 by lambda; NaN stays."""
    v = float(lambd)
    out = p.where(p.gt_scalar(x, v), p.sub_scalar(x, v), p.where(p.lt_scalar(x, -v), p.add_scalar(x, v), p.mul_scalar(x, 0.0)))
    return out


@register(aten.hardshrink.default)
def hardshrink(x: Any, lambd: Any = 0.5) -> Any:
    """x outside -lambda..lambda, else 0; NaN stays."""
    inside = p.logical_and(p.ge_scalar(x, -float(lambd)), p.le_scalar(x, float(lambd)))
    return p.where(inside, _zero(x), x)


@register(aten.softshrink_backward.default, aten.hardshrink_backward.default)
def shrink_backward(grad: Any, x: Any, lambd: Any) -> Any:
    """grad outside -lambda..lambda."""
    inside = p.logical_and(p.ge_scalar(x, -float(lambd)), p.le_scalar(x, float(lambd)))
    return p.where(inside, _zero(grad), grad)


def _halves(x: Any, dim: int) -> tuple[Any, Any, int]:
    dim = dim + x.ndim if dim < 0 else dim
    n = x.shape[dim] // 2
    return p.slice(x, dim, 0, n, 1), p.slice(x, dim, n, 2 * n, 1), dim


@register(aten.glu.default)
@float32_inside
def glu(x: Any, dim: int = -1) -> Any:
    """First half times the sigmoid of the second."""
    a, b, _ = _halves(x, dim)
    return p.mul(a, p.sigmoid(b))


@register(aten.glu_backward.default)
@float32_inside
def glu_backward(grad: Any, x: Any, dim: int) -> Any:
    """Gradients of both halves, joined."""
    a, b, dim = _halves(x, dim)
    s = p.sigmoid(b)
    first = p.mul(grad, s)
    second = p.mul(p.mul(first, p.rsub_scalar(s, 1.0)), a)
    return p.cat([first, second], dim)


@register(aten.rrelu_with_noise_functional.default)
def rrelu(x: Any, noise: Any, lower: Any = 0.125, upper: Any = 1 / 3, training: bool = False, generator: Any = None) -> Any:
    """Leaky relu with the middle slope outside of training."""
    if training:
        return NotImplemented
    return leaky_relu(x, (float(lower) + float(upper)) / 2), noise


@register(aten.native_dropout_backward.default)
@float32_inside
def native_dropout_backward(grad: Any, mask: Any, scale: float) -> Any:
    """grad * mask * scale."""
    return p.mul_scalar(p.mul(grad, to(mask, grad.dtype)), float(scale))


@register(aten._masked_scale.default)
@float32_inside
def masked_scale(x: Any, mask: Any, scale: float) -> Any:
    """x * mask * scale."""
    return p.mul_scalar(p.mul(x, to(mask, x.dtype)), float(scale))


@register(aten.rrelu_with_noise_backward.default)
def rrelu_backward(grad: Any, x: Any, noise: Any, lower: Any, upper: Any, training: bool, self_is_result: bool) -> Any:
    """grad * noise in training; the middle slope below 0 outside."""
    if not training or float(upper) - float(lower) <= 1e-6:
        return leaky_relu_backward(grad, x, (float(lower) + float(upper)) / 2, self_is_result)
    return float32_inside(lambda g, n: p.mul(*broadcast(n, g)))(grad, noise)


@register(aten._add_relu.Scalar)
def add_relu_scalar(a: Any, b: Any, alpha: Any = 1) -> Any:
    """max(a + alpha * b, 0)."""
    return add_relu(a, b, alpha=alpha)


@register(aten._add_relu.Tensor)
def add_relu(a: Any, b: Any, *, alpha: Any = 1) -> Any:
    """max(a + alpha * b, 0)."""
    return relu(aten_call(aten.add.Tensor, a, b, alpha=alpha))


@register(aten._addmm_activation.default)
def addmm_activation(bias: Any, a: Any, b: Any, *, beta: Any = 1, alpha: Any = 1, use_gelu: bool = False) -> Any:
    """relu, or gelu by erf (as eager's CPU kernel), of addmm."""
    x = aten_call(aten.addmm.default, bias, a, b, beta=beta, alpha=alpha)
    return gelu(x) if use_gelu else relu(x)
