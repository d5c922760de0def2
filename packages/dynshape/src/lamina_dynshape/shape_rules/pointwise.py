"""Elementwise operators: broadcasting, type promotion and stride propagation, from tables."""

from __future__ import annotations

from typing import Any

import torch

from lamina_dynshape.dims import eq, lt, numel, plain
from lamina_dynshape.fake_tensor import FakeTensor
from lamina_dynshape.layout import broadcast, contiguous, is_dense, iterator_strides
from lamina_dynshape.promotion import FLOATS, result_type, to_float
from lamina_dynshape.shape_rules.registry import RULES, overload, register, rule
from lamina_dynshape.support.errors import Unsupported

__all__ = ["elementwise", "inplace", "refuse_overlap"]


# -- what the result's dtype is ------------------------------------------------------------------------------------------
def _same(operands: Any) -> torch.dtype:
    if len(operands) == 1:
        return operands[0].scalar_type
    a, b = operands[0], operands[1]
    if len(operands) == 2:
        if type(a) is type(b) is FakeTensor and a.scalar_type is b.scalar_type:
            return a.scalar_type
        if (type(b) is float or type(b) is int) and isinstance(a, FakeTensor) and a.scalar_type in FLOATS:
            return a.scalar_type
    return result_type(operands)


def _float(operands: Any) -> torch.dtype:
    return to_float(_same(operands))


def _bool(operands: Any) -> torch.dtype:
    return torch.bool


def _first(operands: Any) -> torch.dtype:
    return operands[0].scalar_type


def _byte_or_bool(operands: Any) -> torch.dtype:
    return torch.uint8 if operands[0].scalar_type is torch.uint8 else torch.bool


_REAL = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}


def _real(operands: Any) -> torch.dtype:
    dtype = operands[0].scalar_type
    return _REAL.get(dtype, dtype)


# -- the family ----------------------------------------------------------------------------------------------------------
def elementwise(mode: Any, operands: Any, dtype: torch.dtype) -> FakeTensor:
    """New tensor of the common shape of `operands` (fakes and numbers), laid out as TensorIterator does."""
    if len(operands) == 2:
        a, b = operands
        if type(a) is type(b) is FakeTensor and a.sizes == b.sizes and a.strides == b.strides == contiguous(a.sizes) and a.dev == b.dev:
            return mode.make(a.sizes, a.strides, dtype, a.dev)
    layouts = []
    device = None
    has_number = False
    for x in operands:
        if type(x) is FakeTensor or isinstance(x, torch.Tensor):
            layouts.append((x.sizes, x.strides))
            device = x.dev if device is None else _common_device(device, x, operands)
        else:
            has_number = True
    if device is None:  # numbers alone, as in torch.div(7, 2)
        return mode.make((), (), dtype, torch.device("cpu"))
    sizes, strides = iterator_strides(tuple(layouts), has_number)
    return mode.make(sizes, strides, dtype, device)


def _common_device(device: torch.device, x: FakeTensor, operands: Any) -> torch.device:
    if device == x.dev:
        return device
    ranked = {t.dev for t in operands if isinstance(t, FakeTensor) and t.sizes}
    if len(ranked) > 1:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {device} and {x.dev}!"
        )
    if ranked:
        return ranked.pop()
    return x.dev if device.type == "cpu" else device


def inplace(mode: Any, target: FakeTensor, operands: Any, dtype: torch.dtype) -> FakeTensor:
    """The target of an in-place operator after eager's checks: no broadcasting of the target, castable result."""
    sizes = target.sizes
    for x in operands:
        if isinstance(x, FakeTensor) and x.sizes != sizes:
            common = broadcast(sizes, x.sizes)
            if common != sizes and not (len(common) == len(sizes) and all(map(_agree, common, sizes))):
                raise RuntimeError(
                    f"output with shape {list(sizes)} doesn't match the broadcast shape {list(common)}"
                )
    own = target.scalar_type
    if dtype is not own and not torch.can_cast(dtype, own):
        raise RuntimeError(f"result type {_name(dtype)} can't be cast to the desired output type {_name(own)}")
    return target


def _iterated(mode: Any, target: FakeTensor, operands: Any, dtype: torch.dtype) -> FakeTensor:
    """`inplace` of what TensorIterator writes: memory must not overlap."""
    refuse_overlap(target, operands)
    return inplace(mode, target, operands, dtype)


def refuse_overlap(target: FakeTensor, operands: Any) -> None:
    """What TensorIterator raises where written memory overlaps itself, or in part an operand. May guard on sizes; those that only the run knows are left to it."""
    others = [x for x in operands if isinstance(x, FakeTensor) and x is not target and x.storage_key == target.storage_key]
    broadcast_from = [n for n, step in zip(target.sizes, target.strides) if step == 0 and type(step) is int]
    if not others and not broadcast_from:
        return
    try:
        if _is_empty(target):
            return
        whole = _is_whole(target)
        if not whole and any(lt(1, n) for n in broadcast_from):
            raise RuntimeError(_ITSELF)
        for x in others:
            if whole and _is_whole(x) and not _is_empty(x) and _cross(target, x):
                raise RuntimeError(_OPERAND)
    except Unsupported:
        return


def _is_empty(x: FakeTensor) -> bool:
    return not all(lt(0, n) for n in x.sizes)


def _is_whole(x: FakeTensor) -> bool:
    """Whether elements fill their memory without gaps, for certain."""
    static = all(type(n) is int for n in (*x.sizes, *x.strides))
    return is_dense(x.sizes, x.strides) if static else x.strides == contiguous(x.sizes)


def _cross(a: FakeTensor, b: FakeTensor) -> bool:
    """Whether the memory of two dense tensors of one storage overlaps, and they are not the same elements in the same order."""
    (begin, end), (first, last) = _span(a), _span(b)
    return lt(begin, last) and lt(first, end) and not (eq(begin, first) and eq(end, last) and a.strides == b.strides)


def _span(x: FakeTensor) -> tuple[Any, Any]:
    """Where a dense tensor's memory begins and ends, in bytes."""
    return plain(x.offset * x.scalar_type.itemsize), plain((x.offset + numel(x.sizes)) * x.scalar_type.itemsize)


_ITSELF = "unsupported operation: more than one element of the written-to tensor refers to a single memory location. Please clone() the tensor before performing the operation."
_OPERAND = "unsupported operation: some elements of the input tensor and the written-to tensor refer to a single memory location. Please clone() the tensor before performing the operation."


def _agree(a: Any, b: Any) -> bool:
    return eq(a, b)


_NAMES = {
    torch.float32: "Float", torch.float64: "Double", torch.float16: "Half", torch.bfloat16: "BFloat16", torch.int64: "Long",
    torch.int32: "Int", torch.int16: "Short", torch.int8: "Char", torch.uint8: "Byte", torch.bool: "Bool",
    torch.complex64: "ComplexFloat", torch.complex128: "ComplexDouble",
}


def _name(dtype: torch.dtype) -> str:
    return _NAMES.get(dtype, str(dtype))


def _unary(dtype_rule: Any) -> Any:
    def rule_(mode: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        sizes, strides = x.sizes, x.strides
        if strides != contiguous(sizes):
            sizes, strides = iterator_strides(((sizes, strides),), False)
        return mode.make(sizes, strides, dtype_rule((x,)), x.dev)

    return rule_


def _unary_inplace(dtype_rule: Any, write: Any = _iterated) -> Any:
    def rule_(mode: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        return write(mode, x, (), dtype_rule((x,)))

    return rule_


def _binary(dtype_rule: Any) -> Any:
    def rule_(mode: Any, a: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
        operands = (a, b)
        return elementwise(mode, operands, dtype_rule(operands))

    return rule_


def _binary_inplace(dtype_rule: Any) -> Any:
    def rule_(mode: Any, a: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
        operands = (a, b)
        return _iterated(mode, a, operands, dtype_rule(operands))

    return rule_


def _nary(count: int, dtype_rule: Any) -> Any:
    """The first `count` arguments take part (keywords too: `self`, then the schema's names, come positionally from the dispatcher)."""

    def rule_(mode: Any, *args: Any, **kwargs: Any) -> Any:
        operands = args[:count]
        return elementwise(mode, operands, dtype_rule(operands))

    return rule_


def _nary_inplace(count: int, dtype_rule: Any) -> Any:
    def rule_(mode: Any, *args: Any, **kwargs: Any) -> Any:
        operands = args[:count]
        return _iterated(mode, args[0], operands, dtype_rule(operands))

    return rule_


_MAKERS = {1: (_unary, _unary_inplace), 2: (_binary, _binary_inplace)}


def _family(count: int, dtype_rule: Any, names: str, suffixes: str = "") -> None:
    """Enter functional and in-place overloads: each name with each suffix ('' is the default overload)."""
    functional, in_place = _MAKERS.get(count) or (lambda r: _nary(count, r), lambda r: _nary_inplace(count, r))
    for name in names.split():
        for suffix in suffixes.split() or [""]:
            tail = f".{suffix}" if suffix else ""
            for text, maker in ((name + tail, functional), (f"{name}_{tail}", in_place)):
                op = overload(text)
                if op is not None and op not in RULES:
                    register(op, maker(dtype_rule))


_family(1, _float, """acos acosh asin asinh atan atanh cos cosh deg2rad digamma erf erfc erfinv exp exp2 expm1 i0 lgamma log
    log10 log1p log2 logit rad2deg reciprocal rsqrt sigmoid sin sinc sinh special_bessel_j0 special_bessel_j1 special_bessel_y0
    special_bessel_y1 special_entr special_erfcx special_i0e special_i1 special_i1e special_log_ndtr special_ndtri special_modified_bessel_i0
    special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1 special_scaled_modified_bessel_k0
    special_scaled_modified_bessel_k1 special_spherical_bessel_j0 special_airy_ai sqrt tan tanh""")
_family(1, _same, """bitwise_not ceil celu elu floor frac hardshrink hardsigmoid hardswish hardtanh leaky_relu mish neg
    positive relu relu6 round selu sgn sign silu softplus softshrink square trunc log_sigmoid""")
_family(1, _same, "round", "decimals")
_family(1, _same, "gelu")
for _name_ in ("threshold", "nan_to_num", "conj_physical"):  # write where elements share memory, the last two for some dtypes
    register(overload(_name_), _unary(_same))
    register(overload(f"{_name_}_"), _unary_inplace(_same, inplace))
_family(1, _real, "abs")
_family(1, _bool, "isnan isinf isfinite isposinf isneginf isreal logical_not signbit")
_family(2, _same, "add sub rsub mul", "Tensor Scalar")
_family(2, _float, "div", "Tensor Scalar")
_family(2, _same, "remainder fmod floor_divide bitwise_and bitwise_or bitwise_xor", "Tensor Scalar Scalar_Tensor")
_family(2, _same, "floor_divide")
_family(2, _same, "bitwise_left_shift bitwise_right_shift", "Tensor Tensor_Scalar Scalar_Tensor")
_family(2, _same, "__lshift__ __rshift__ __and__ __or__ __xor__", "Tensor Scalar")
_family(2, _same, "pow", "Tensor_Tensor Tensor_Scalar")
register(overload("pow_.Tensor"), _binary_inplace(_same))
register(overload("pow_.Scalar"), _binary_inplace(_same))
_family(2, _same, "maximum minimum fmax fmin gcd lcm hypot nextafter copysign heaviside")
_family(2, _float, "atan2 xlogy logaddexp logaddexp2 special_xlog1py special_zeta")
_family(2, _float, "xlogy", "Tensor Scalar_Self Scalar_Other")
_family(2, _float, "special_xlog1py special_zeta", "self_scalar other_scalar")
_family(2, _float, "copysign", "Tensor Scalar")
_family(2, _bool, "eq ne lt le gt ge", "Tensor Scalar")
_family(2, _bool, "logical_and logical_or logical_xor")
_family(2, _same, "igamma igammac")
# Gradients of elementwise operators: the promoted type of what they read.
_family(2, _same, """sigmoid_backward tanh_backward threshold_backward leaky_relu_backward hardtanh_backward hardswish_backward
    hardsigmoid_backward hardshrink_backward softshrink_backward softplus_backward gelu_backward silu_backward mish_backward logit_backward""")
_family(3, _same, "addcmul addcdiv")
_family(3, _same, "lerp", "Tensor")
_family(2, _same, "lerp", "Scalar")


def _signed_div(mode: Any, a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    return elementwise(mode, (a, b), _same((a, b)) if rounding_mode else _float((a, b)))


def _signed_div_inplace(mode: Any, a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    return _iterated(mode, a, (a, b), _same((a, b)) if rounding_mode else _float((a, b)))


for _suffix in ("Tensor_mode", "Scalar_mode"):
    register(overload(f"div.{_suffix}"), _signed_div)
    register(overload(f"div_.{_suffix}"), _signed_div_inplace)


@rule("pow.Scalar")
def _pow_scalar(mode: Any, base: Any, x: Any) -> Any:
    return mode.make(x.sizes, contiguous(x.sizes), result_type((base, x)), x.dev)


@rule("mvlgamma")
def _mvlgamma(mode: Any, x: Any, p: int) -> Any:
    return mode.make(x.sizes, contiguous(x.sizes), _float((x,)), x.dev)


@rule("ldexp.Tensor")
def _ldexp(mode: Any, x: Any, other: Any) -> Any:
    power = mode.make(other.sizes, contiguous(other.sizes), to_float(other.scalar_type), other.dev)  # 2.0 ** other
    return elementwise(mode, (x, power), _same((x, power)))


@rule("elu_backward")
def _elu_backward(mode: Any, grad: Any, alpha: Any, scale: Any, input_scale: Any, is_result: bool, x: Any) -> Any:
    return elementwise(mode, (grad, x), _same((grad, x)))


@rule("where.self")
def _where(mode: Any, condition: Any, a: Any, b: Any) -> Any:
    return elementwise(mode, (condition, a, b), _same((a, b)))


@rule("where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where_scalar(mode: Any, condition: Any, a: Any, b: Any) -> Any:
    tensors = [condition] + [x if isinstance(x, FakeTensor) else _zero_dim(mode, x, condition) for x in (a, b)]
    return elementwise(mode, tensors, result_type((a, b)))


def _zero_dim(mode: Any, number: Any, like: FakeTensor) -> FakeTensor:
    from lamina_dynshape.promotion import number_dtype

    return mode.make((), (), number_dtype(number), like.dev)


@rule("clamp", "clamp.Tensor", "clip", "clip.Tensor", "clamp_min", "clamp_min.Tensor", "clamp_max", "clamp_max.Tensor")
def _clamp(mode: Any, x: Any, *limits: Any, **named: Any) -> Any:
    operands = (x, *(v for v in (*limits, *named.values()) if v is not None))
    return elementwise(mode, operands, _same(operands))


@rule("clamp_", "clamp_.Tensor", "clamp_min_", "clamp_min_.Tensor", "clamp_max_", "clamp_max_.Tensor")
def _clamp_inplace(mode: Any, x: Any, *limits: Any, **named: Any) -> Any:
    operands = (x, *(v for v in (*limits, *named.values()) if v is not None))
    return _iterated(mode, x, operands, _same(operands))


@rule("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(mode: Any, x: Any, mask: Any, value: Any) -> Any:
    sizes = broadcast(x.sizes, mask.sizes)
    return mode.make(sizes, contiguous(sizes), x.scalar_type, x.dev)


@rule("masked_fill_.Scalar", "masked_fill_.Tensor")
def _masked_fill_inplace(mode: Any, x: Any, mask: Any, value: Any) -> Any:
    return inplace(mode, x, (mask,), x.scalar_type)


@rule("prelu", "_prelu_kernel")
def _prelu(mode: Any, x: Any, weight: Any) -> Any:
    return elementwise(mode, (x, weight), x.scalar_type) if len(weight.sizes) == len(x.sizes) else NotImplemented


@rule("_prelu_kernel_backward")
def _prelu_backward(mode: Any, grad: Any, x: Any, weight: Any) -> Any:
    operands = (grad, x, weight)
    return elementwise(mode, operands, x.scalar_type), elementwise(mode, operands, x.scalar_type)


@rule("log_sigmoid_forward")
def _log_sigmoid_forward(mode: Any, x: Any) -> Any:
    strides = contiguous(x.sizes)
    buffer = (x.sizes, strides) if x.dev.type == "cpu" else ((0,), (1,))
    return mode.make(x.sizes, strides, x.scalar_type, x.dev), mode.make(*buffer, x.scalar_type, x.dev)


@rule("log_sigmoid_backward")
def _log_sigmoid_backward(mode: Any, grad: Any, x: Any, buffer: Any) -> Any:
    return elementwise(mode, (grad, x), x.scalar_type)


@rule("polygamma")
def _polygamma(mode: Any, n: int, x: Any) -> Any:
    return elementwise(mode, (x,), _float((x,)))
