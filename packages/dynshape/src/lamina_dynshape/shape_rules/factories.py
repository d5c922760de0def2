"""Factories, copies and conversions, random numbers."""

from __future__ import annotations

import math
from typing import Any

import torch

from lamina_dynshape.dims import plain
from lamina_dynshape.layout import contiguous, dense_like, format_strides
from lamina_dynshape.promotion import number_dtype
from lamina_dynshape.shape_rules.pointwise import inplace, refuse_overlap
from lamina_dynshape.shape_rules.registry import rule

_CPU = torch.device("cpu")


def _device(device: Any) -> torch.device:
    return _CPU if device is None else device if isinstance(device, torch.device) else torch.device(device)


def _fresh(mode: Any, sizes: Any, dtype: Any, device: Any, memory_format: Any = None) -> Any:
    new = tuple(map(mode.dim, sizes))
    if any(type(s) is int and s < 0 for s in new):
        raise RuntimeError(f"Trying to create tensor with negative dimension {min(s for s in new if type(s) is int)}: {list(new)}")
    strides = contiguous(new) if memory_format in (None, torch.preserve_format) else format_strides(new, memory_format)
    return mode.make(new, strides, dtype or torch.get_default_dtype(), _device(device))


@rule("empty.memory_format", "zeros", "ones", "rand", "randn", "rand.generator", "randn.generator")
def _empty(
    mode: Any, sizes: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None, memory_format: Any = None,
    generator: Any = None,
) -> Any:
    return _fresh(mode, sizes, dtype, device, memory_format) if layout in (None, torch.strided) else NotImplemented


@rule("full")
def _full(mode: Any, sizes: Any, value: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    return _fresh(mode, sizes, dtype or number_dtype(value), device)


@rule("scalar_tensor")
def _scalar_tensor(mode: Any, value: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    return _fresh(mode, (), dtype, device)


@rule("empty_strided")
def _empty_strided(
    mode: Any, sizes: Any, strides: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None
) -> Any:
    return mode.make(tuple(map(mode.dim, sizes)), tuple(map(mode.dim, strides)), dtype or torch.get_default_dtype(), _device(device))


@rule("empty_permuted")
def _empty_permuted(mode: Any, sizes: Any, order: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    new = tuple(map(mode.dim, sizes))
    inner = contiguous(tuple(new[d] for d in order))
    strides = [0] * len(new)
    for at, d in enumerate(order):
        strides[d] = inner[at]
    return mode.make(new, tuple(strides), dtype or torch.get_default_dtype(), _device(device))


@rule("randint", "randint.generator")
def _randint(mode: Any, high: Any, sizes: Any, *, dtype: Any = torch.int64, device: Any = None, **kwargs: Any) -> Any:
    return _fresh(mode, sizes, dtype or torch.int64, device)


@rule("randint.low", "randint.low_generator")
def _randint_low(mode: Any, low: Any, high: Any, sizes: Any, *, dtype: Any = torch.int64, device: Any = None, **kwargs: Any) -> Any:
    return _fresh(mode, sizes, dtype or torch.int64, device)


@rule("randperm", "randperm.generator")
def _randperm(mode: Any, n: Any, *, dtype: Any = torch.int64, device: Any = None, **kwargs: Any) -> Any:
    return _fresh(mode, (n,), dtype or torch.int64, device)


@rule("eye")
def _eye(mode: Any, n: Any, *, dtype: Any = None, device: Any = None, **kwargs: Any) -> Any:
    return _fresh(mode, (n, n), dtype, device)


@rule("eye.m")
def _eye_m(mode: Any, n: Any, m: Any, *, dtype: Any = None, device: Any = None, **kwargs: Any) -> Any:
    return _fresh(mode, (n, m), dtype, device)


# -- ranges ---------------------------------------------------------------------------------------------------------------
def _range_length(mode: Any, start: Any, end: Any, step: Any) -> Any:
    if all(isinstance(v, (int, torch.SymInt)) and not isinstance(v, bool) for v in (start, end, step)):
        start, end, step = mode.dim(start), mode.dim(end), mode.dim(step)
        from lamina_dynshape import boolean as B
        from lamina_dynshape.dims import lt

        low, high = (start, end) if lt(0, step) else (end, start)
        if lt(high, low):
            raise RuntimeError("upper bound and larger bound inconsistent with step sign")
        if mode.shape_env is not None:
            mode.shape_env.expect_true(B.le(low, high))  # of numbers that only the running program knows
        return plain(-((start - end) // step))
    return mode.dim(math.ceil((end - start) / step))


def _arange(mode: Any, start: Any, end: Any, step: Any, dtype: Any, device: Any) -> Any:
    if dtype is None:
        integral = all(isinstance(v, (int, torch.SymInt)) for v in (start, end, step))
        dtype = torch.int64 if integral else torch.get_default_dtype()
    length = _range_length(mode, start, end, step)
    return mode.make((length,), (1,), dtype, _device(device))


@rule("arange")
def _arange_end(mode: Any, end: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    return _arange(mode, 0, end, 1, dtype, device)


@rule("arange.start", "arange.start_step")
def _arange_start(
    mode: Any, start: Any, end: Any, step: Any = 1, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None
) -> Any:
    return _arange(mode, start, end, step, dtype, device)


@rule("linspace", "logspace")
def _linspace(mode: Any, start: Any, end: Any, steps: Any, base: Any = 10.0, *, dtype: Any = None, device: Any = None, **kwargs: Any) -> Any:
    return _fresh(mode, (steps,), dtype, device)


# -- like another tensor ----------------------------------------------------------------------------------------------------
def _like(mode: Any, x: Any, dtype: Any, device: Any, memory_format: Any) -> Any:
    if memory_format in (None, torch.preserve_format):
        strides = dense_like(x.sizes, x.strides)
    else:
        strides = format_strides(x.sizes, memory_format)
    return mode.make(x.sizes, strides, dtype or x.scalar_type, x.dev if device is None else _device(device))


@rule("empty_like", "zeros_like", "ones_like", "rand_like", "randn_like", "rand_like.generator", "randn_like.generator")
def _empty_like(
    mode: Any, x: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None, memory_format: Any = None,
    generator: Any = None,
) -> Any:
    return _like(mode, x, dtype, device, memory_format)


@rule("full_like", "randint_like")
def _full_like(
    mode: Any, x: Any, value: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None, memory_format: Any = None
) -> Any:
    return _like(mode, x, dtype, device, memory_format)


@rule("randint_like.low_dtype")
def _randint_like(mode: Any, x: Any, low: Any, high: Any, *, dtype: Any = None, device: Any = None, memory_format: Any = None, **kwargs: Any) -> Any:
    return _like(mode, x, dtype, device, memory_format)


@rule("new_empty", "new_zeros", "new_ones")
def _new_empty(mode: Any, x: Any, sizes: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    return _fresh(mode, sizes, dtype or x.scalar_type, x.dev if device is None else device)


@rule("new_full")
def _new_full(mode: Any, x: Any, sizes: Any, value: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    return _fresh(mode, sizes, dtype or x.scalar_type, x.dev if device is None else device)


@rule("new_empty_strided")
def _new_empty_strided(
    mode: Any, x: Any, sizes: Any, strides: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None
) -> Any:
    return mode.make(tuple(map(mode.dim, sizes)), tuple(map(mode.dim, strides)), dtype or x.scalar_type, x.dev if device is None else _device(device))


# -- copies -----------------------------------------------------------------------------------------------------------------
@rule("clone")
def _clone(mode: Any, x: Any, *, memory_format: Any = None) -> Any:
    return _like(mode, x, None, None, memory_format)


@rule("contiguous")
def _contiguous(mode: Any, x: Any, *, memory_format: Any = torch.contiguous_format) -> Any:
    from lamina_dynshape.layout import is_channels_last, is_contiguous

    check = is_contiguous if memory_format is torch.contiguous_format else is_channels_last
    return x if check(x.sizes, x.strides) else _like(mode, x, None, None, memory_format)


@rule("_to_copy")
def _to_copy(
    mode: Any, x: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None, non_blocking: bool = False,
    memory_format: Any = None,
) -> Any:
    if layout not in (None, torch.strided):
        return NotImplemented
    return _like(mode, x, dtype, device, memory_format)


@rule("copy")
def _copy(mode: Any, x: Any, source: Any, non_blocking: bool = False) -> Any:
    return mode.make(x.sizes, dense_like(x.sizes, x.strides), x.scalar_type, x.dev)


@rule("copy_")
def _copy_inplace(mode: Any, x: Any, source: Any, non_blocking: bool = False) -> Any:
    from lamina_dynshape.layout import broadcast

    if source is not x:
        refuse_overlap(x, (source,))
    if source.sizes != x.sizes:
        common = broadcast(x.sizes, source.sizes)
        if len(common) != len(x.sizes):
            raise RuntimeError(f"output with shape {list(x.sizes)} doesn't match the broadcast shape {list(common)}")
        inplace(mode, x, (source,), x.scalar_type)
    return x


@rule("fill.Scalar", "fill.Tensor")
def _fill(mode: Any, x: Any, value: Any) -> Any:
    return _like(mode, x, None, None, None)


@rule("fill_.Scalar", "fill_.Tensor", "zero_", "geometric_", "fill_diagonal_")
def _unchanged(mode: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return x


@rule("uniform_", "normal_", "bernoulli_.float", "bernoulli_.Tensor", "exponential_", "random_", "random_.from", "random_.to", "cauchy_", "log_normal_")
def _drawn(mode: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    refuse_overlap(x, ())
    return x


# -- random -----------------------------------------------------------------------------------------------------------------
@rule("bernoulli", "bernoulli.p", "_standard_gamma", "_standard_gamma_grad", "_sample_dirichlet", "_dirichlet_grad", "poisson", "binomial")
def _bernoulli_dense(mode: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return mode.make(x.sizes, contiguous(x.sizes), x.scalar_type, x.dev)


@rule("zero", "uniform", "exponential")
def _random_like(mode: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return _like(mode, x, None, None, None)


@rule("normal_functional")
def _normal_functional(mode: Any, x: Any, mean: Any = 0.0, std: Any = 1.0, *, generator: Any = None) -> Any:
    return _like(mode, x, None, None, None)


@rule("native_dropout")
def _native_dropout(mode: Any, x: Any, p: float, train: Any) -> Any:
    return _like(mode, x, None, None, None), _like(mode, x, torch.bool, None, None)


@rule("native_dropout_backward")
def _native_dropout_backward(mode: Any, grad: Any, mask: Any, scale: float) -> Any:
    from lamina_dynshape.shape_rules.pointwise import elementwise

    return elementwise(mode, (grad, mask), grad.scalar_type)


@rule("normal.Tensor_float")
def _normal_mean(mode: Any, mean: Any, std: Any = 1.0, *, generator: Any = None) -> Any:
    return mode.make(mean.sizes, contiguous(mean.sizes), mean.scalar_type, mean.dev)


@rule("normal.float_Tensor")
def _normal_std(mode: Any, mean: Any, std: Any, *, generator: Any = None) -> Any:
    return mode.make(std.sizes, contiguous(std.sizes), std.scalar_type, std.dev)


@rule("normal.Tensor_Tensor")
def _normal_both(mode: Any, mean: Any, std: Any, *, generator: Any = None) -> Any:
    from lamina_dynshape.layout import broadcast

    sizes = broadcast(mean.sizes, std.sizes)
    return mode.make(sizes, contiguous(sizes), mean.scalar_type, mean.dev)


@rule("multinomial")
def _multinomial(mode: Any, x: Any, count: Any, replacement: bool = False, *, generator: Any = None) -> Any:
    sizes = (*x.sizes[:-1], mode.dim(count))
    return mode.make(sizes, contiguous(sizes), torch.int64, x.dev)


@rule("tril", "triu")
def _tril(mode: Any, x: Any, diagonal: int = 0) -> Any:
    return mode.make(x.sizes, contiguous(x.sizes), x.scalar_type, x.dev)


@rule("tril_", "triu_")
def _tril_inplace(mode: Any, x: Any, diagonal: int = 0) -> Any:
    return x
