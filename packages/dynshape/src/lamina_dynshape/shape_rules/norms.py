"""Normalisation, with the statistics that the backward passes read."""

from __future__ import annotations

from typing import Any

import torch

from lamina_dynshape.layout import contiguous, dense_like, format_strides, suggest_format
from lamina_dynshape.shape_rules.registry import rule


def _like(mode: Any, x: Any, dtype: Any = None) -> Any:
    return mode.make(x.sizes, dense_like(x.sizes, x.strides), dtype or x.scalar_type, x.dev)


def _dense(mode: Any, x: Any) -> Any:
    return mode.make(x.sizes, contiguous(x.sizes), x.scalar_type, x.dev)


def _fresh(mode: Any, sizes: Any, dtype: Any, x: Any) -> Any:
    return mode.make(sizes, contiguous(sizes), dtype, x.dev)


def _statistics_dtype(x: Any, *parameters: Any) -> torch.dtype:
    """float32 for half-precision input whose parameters are float32, else the input's."""
    if x.scalar_type in (torch.bfloat16, torch.float16) and any(p is not None and p.scalar_type is torch.float32 for p in parameters):
        return torch.float32
    return x.scalar_type


# -- layer norm -------------------------------------------------------------------------------------------------------------
@rule("native_layer_norm")
def _layer_norm(mode: Any, x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    shape = tuple(map(mode.dim, shape))
    axis = len(x.sizes) - len(shape)
    from lamina_dynshape.dims import eq

    if axis < 0 or not all(map(eq, x.sizes[axis:], shape)):
        raise RuntimeError(
            f"Given normalized_shape={list(shape)}, expected input with shape [*, {', '.join(map(str, shape))}], but got input of size{list(x.sizes)}"
        )
    statistics = (*x.sizes[:axis], *(1 for _ in shape))
    dtype = _statistics_dtype(x, weight, bias)
    return _dense(mode, x), _fresh(mode, statistics, dtype, x), _fresh(mode, statistics, dtype, x)


@rule("native_layer_norm_backward")
def _layer_norm_backward(mode: Any, grad: Any, x: Any, shape: Any, mean: Any, rstd: Any, weight: Any, bias: Any, wanted: Any) -> Any:
    return (
        _dense(mode, x) if wanted[0] else None,
        _dense(mode, weight) if wanted[1] and weight is not None else None,
        _dense(mode, bias) if wanted[2] and bias is not None else None,
    )


# -- batch norm ---------------------------------------------------------------------------------------------------------------
def _batch_norm_strides(x: Any) -> Any:
    return format_strides(x.sizes, suggest_format(x.sizes, x.strides))


def _batch_norm(mode: Any, x: Any, weight: Any, training: bool, others: Any = ()) -> Any:
    for p in (weight, *others):  # on the CPU only half precision mixes with float
        if p is not None and p.scalar_type != x.scalar_type and x.dev.type == "cpu" and x.scalar_type not in (torch.bfloat16, torch.float16):
            raise RuntimeError(f"expected scalar type {x.scalar_type} but found {p.scalar_type}")
    result = mode.make(x.sizes, _batch_norm_strides(x), x.scalar_type, x.dev)
    count = x.sizes[1] if training else 0
    dtype = _statistics_dtype(x, weight)
    return result, _fresh(mode, (count,), dtype, x), _fresh(mode, (count,), dtype, x)


@rule("native_batch_norm", "_native_batch_norm_legit")
def _native_batch_norm(mode: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float) -> Any:
    return _batch_norm(mode, x, weight, training, (bias, mean, var))


@rule("_native_batch_norm_legit.no_stats")
def _batch_norm_no_stats(mode: Any, x: Any, weight: Any, bias: Any, training: bool, momentum: float, eps: float) -> Any:
    return _batch_norm(mode, x, weight, training, (bias,))


@rule("_native_batch_norm_legit_no_training")
def _batch_norm_inference(mode: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float) -> Any:
    return _batch_norm(mode, x, weight, False, (bias, mean, var))


@rule("_native_batch_norm_legit_functional")
def _batch_norm_functional(mode: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float) -> Any:
    return (*_batch_norm(mode, x, weight, training, (bias, mean, var)), _like(mode, mean), _like(mode, var))


@rule("native_batch_norm_backward")
def _batch_norm_backward(
    mode: Any, grad: Any, x: Any, weight: Any, running_mean: Any, running_var: Any, save_mean: Any, save_invstd: Any, train: bool, eps: float, wanted: Any
) -> Any:
    count = (x.sizes[1],)
    dtype = weight.scalar_type if weight is not None else x.scalar_type
    return (
        mode.make(x.sizes, _batch_norm_strides(x), x.scalar_type, x.dev) if wanted[0] else None,
        _fresh(mode, count, dtype, x) if wanted[1] else None,
        _fresh(mode, count, dtype, x) if wanted[2] else None,
    )


@rule("_batch_norm_with_update", "_batch_norm_no_update")
def _batch_norm_with_update(mode: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float) -> Any:
    return (*_batch_norm(mode, x, weight, True), mode.make((0,), (1,), torch.uint8, x.dev))


@rule("_batch_norm_with_update_functional")
def _batch_norm_with_update_functional(mode: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float) -> Any:
    return (*_batch_norm_with_update(mode, x, weight, bias, mean, var, momentum, eps), _like(mode, mean), _like(mode, var))


@rule("batch_norm_backward")
def _batch_norm_backward_with_reserve(
    mode: Any, grad: Any, x: Any, weight: Any, running_mean: Any, running_var: Any, save_mean: Any, save_var: Any, update: bool, eps: float, wanted: Any,
    reserve: Any,
) -> Any:
    return _batch_norm_backward(mode, grad, x, weight, running_mean, running_var, save_mean, save_var, update, eps, wanted)


# -- group norm, rms norm -----------------------------------------------------------------------------------------------------
@rule("native_group_norm")
def _group_norm(mode: Any, x: Any, weight: Any, bias: Any, n: Any, c: Any, hw: Any, group: int, eps: float) -> Any:
    statistics = (mode.dim(n), group)
    dtype = _statistics_dtype(x, weight, bias)
    result = mode.make(x.sizes, _batch_norm_strides(x), x.scalar_type, x.dev)
    return result, _fresh(mode, statistics, dtype, x), _fresh(mode, statistics, dtype, x)


@rule("native_group_norm_backward")
def _group_norm_backward(mode: Any, grad: Any, x: Any, mean: Any, rstd: Any, weight: Any, n: Any, c: Any, hw: Any, group: int, wanted: Any) -> Any:
    channels = (mode.dim(c),)
    dtype = weight.scalar_type if weight is not None else x.scalar_type
    return (
        mode.make(x.sizes, _batch_norm_strides(x), x.scalar_type, x.dev) if wanted[0] else None,
        _fresh(mode, channels, dtype, x) if wanted[1] else None,
        _fresh(mode, channels, dtype, x) if wanted[2] else None,
    )
