"""Matrix products, convolution and attention."""

from __future__ import annotations

from typing import Any

import torch

from lamina_dynshape.dims import eq, lt, plain
from lamina_dynshape.layout import broadcast, channels_last_strides, contiguous, dense_like, suggest_format
from lamina_dynshape.shape_rules.registry import rule

__all__ = ["conv_output_sizes"]


def _same_dtype(name: str, a: Any, b: Any) -> None:
    if a.scalar_type is not b.scalar_type:
        from lamina_dynshape.shape_rules.pointwise import _NAMES

        names = [_NAMES.get(t.scalar_type, str(t.scalar_type)).lower() for t in (a, b)]
        raise RuntimeError(f"expected m1 and m2 to have the same dtype, but got: {names[0]} != {names[1]}")


def _product(mode: Any, a: Any, b: Any) -> tuple[Any, ...]:
    if len(a.sizes) != 2:
        raise RuntimeError("self must be a matrix")
    if len(b.sizes) != 2:
        raise RuntimeError("mat2 must be a matrix")
    if not eq(a.sizes[1], b.sizes[0]):
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied ({a.sizes[0]}x{a.sizes[1]} and {b.sizes[0]}x{b.sizes[1]})"
        )
    _same_dtype("mm", a, b)
    return a.sizes[0], b.sizes[1]


def _fresh(mode: Any, sizes: Any, like: Any) -> Any:
    return mode.make(sizes, contiguous(sizes), like.scalar_type, like.dev)


def _must_expand(source: Any, sizes: Any) -> None:
    common = broadcast(source.sizes, sizes)
    if len(common) != len(sizes) or not all(map(eq, common, sizes)):
        raise RuntimeError(
            f"The expanded size of the tensor ({sizes[-1]}) must match the existing size ({source.sizes[-1]}) at non-singleton "
            f"dimension {len(sizes) - 1}.  Target sizes: {list(sizes)}.  Tensor sizes: {list(source.sizes)}"
        )


@rule("mm")
def _mm(mode: Any, a: Any, b: Any) -> Any:
    return _fresh(mode, _product(mode, a, b), a)


@rule("addmm", "_addmm_activation")
def _addmm(mode: Any, bias: Any, a: Any, b: Any, **kwargs: Any) -> Any:
    sizes = _product(mode, a, b)
    _must_expand(bias, sizes)
    return _fresh(mode, sizes, a)


@rule("addmm_")
def _addmm_inplace(mode: Any, target: Any, a: Any, b: Any, **kwargs: Any) -> Any:
    _must_expand(target, _product(mode, a, b))
    return target


def _batched(a: Any, b: Any) -> tuple[Any, ...]:
    if len(a.sizes) != 3 or len(b.sizes) != 3:
        raise RuntimeError("batch1 must be a 3D tensor" if len(a.sizes) != 3 else "batch2 must be a 3D tensor")
    if not (eq(a.sizes[0], b.sizes[0]) and eq(a.sizes[2], b.sizes[1])):
        raise RuntimeError(
            f"Expected size for first two dimensions of batch2 tensor to be: [{a.sizes[0]}, {a.sizes[2]}] but got: [{b.sizes[0]}, {b.sizes[1]}]."
        )
    if a.scalar_type is not b.scalar_type:
        raise RuntimeError(f"expected scalar type {a.scalar_type} but found {b.scalar_type}")
    return a.sizes[0], a.sizes[1], b.sizes[2]


@rule("bmm")
def _bmm(mode: Any, a: Any, b: Any) -> Any:
    return _fresh(mode, _batched(a, b), a)


@rule("baddbmm")
def _baddbmm(mode: Any, bias: Any, a: Any, b: Any, **kwargs: Any) -> Any:
    sizes = _batched(a, b)
    _must_expand(bias, sizes)
    return _fresh(mode, sizes, a)


@rule("baddbmm_")
def _baddbmm_inplace(mode: Any, target: Any, a: Any, b: Any, **kwargs: Any) -> Any:
    _must_expand(target, _batched(a, b))
    return target


@rule("addbmm")
def _addbmm(mode: Any, bias: Any, a: Any, b: Any, **kwargs: Any) -> Any:
    sizes = _batched(a, b)[1:]
    _must_expand(bias, sizes)
    return _fresh(mode, sizes, a)


@rule("dot", "vdot")
def _dot(mode: Any, a: Any, b: Any) -> Any:
    if len(a.sizes) != 1 or len(b.sizes) != 1:
        raise RuntimeError(f"1D tensors expected, but got {len(a.sizes)}D and {len(b.sizes)}D tensors")
    if not eq(a.sizes[0], b.sizes[0]):
        raise RuntimeError(
            f"inconsistent tensor size, expected tensor {list(a.sizes)} and src {list(b.sizes)} to have the same number of elements, "
            f"but got {a.sizes[0]} and {b.sizes[0]} elements respectively"
        )
    return _fresh(mode, (), a)


@rule("mv")
def _mv(mode: Any, a: Any, v: Any) -> Any:
    if len(a.sizes) != 2 or len(v.sizes) != 1 or not eq(a.sizes[1], v.sizes[0]):
        raise RuntimeError(f"size mismatch, got input ({a.sizes[0]}), mat ({'x'.join(map(str, a.sizes))}), vec ({v.sizes[0]})")
    return _fresh(mode, (a.sizes[0],), a)


@rule("addmv")
def _addmv(mode: Any, bias: Any, a: Any, v: Any, **kwargs: Any) -> Any:
    return _fresh(mode, (a.sizes[0],), a)


@rule("addr")
def _addr(mode: Any, bias: Any, a: Any, b: Any, **kwargs: Any) -> Any:
    from lamina_dynshape.layout import iterator_strides
    from lamina_dynshape.promotion import result_type

    sizes = (a.sizes[0], b.sizes[0])
    _must_expand(bias, sizes)
    column, row = ((a.sizes[0], 1), (a.strides[0], 1)), (b.sizes, b.strides)
    layouts = ((bias.sizes, bias.strides), column, row)
    return mode.make(*iterator_strides(layouts, False), result_type((bias, a, b)), a.dev)


# -- convolution ------------------------------------------------------------------------------------------------------------
def _per_dim(value: Any, count: int) -> list[Any]:
    return [value[0]] * count if len(value) == 1 else list(value)


def conv_output_sizes(mode: Any, x: Any, w: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: int) -> tuple[Any, ...]:
    """Sizes of a convolution's result (N, O, *spatial)."""
    count = len(w.sizes) - 2
    stride, padding, dilation = (_per_dim([mode.dim(v) for v in p], count) for p in (stride, padding, dilation))
    output_padding = _per_dim([mode.dim(v) for v in output_padding] or [0], count)
    channels = plain(w.sizes[1] * groups) if transposed else w.sizes[0]
    sizes = [x.sizes[0], channels]
    for d in range(count):
        n, k = x.sizes[d + 2], w.sizes[d + 2]
        if transposed:
            sizes.append(plain((n - 1) * stride[d] - 2 * padding[d] + dilation[d] * (k - 1) + output_padding[d] + 1))
        else:
            sizes.append(plain((n + 2 * padding[d] - dilation[d] * (k - 1) - 1) // stride[d] + 1))
    return tuple(sizes)


def _check_conv(x: Any, w: Any, transposed: bool, groups: int) -> None:
    if len(x.sizes) != len(w.sizes):
        raise RuntimeError(f"Expected {len(w.sizes) - 1}D (unbatched) or {len(w.sizes)}D (batched) input to conv{len(w.sizes) - 2}d, but got input of size: {list(x.sizes)}")
    expected = w.sizes[0] if transposed else plain(w.sizes[1] * groups)
    if not eq(x.sizes[1], expected):
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(w.sizes)}, expected input{list(x.sizes)} to have {expected} channels, but got "
            f"{x.sizes[1]} channels instead"
        )
    if x.scalar_type is not w.scalar_type:
        raise RuntimeError(f"Input type ({x.scalar_type}) and weight type ({w.scalar_type}) should be the same")


def _conv_strides(sizes: Any, x: Any, w: Any) -> Any:
    """Channels-last if input or weight is (`determine_backend_memory_format` of the oneDNN backend)."""
    if len(sizes) in (4, 5):
        if suggest_format(x.sizes, x.strides) is not torch.contiguous_format or suggest_format(w.sizes, w.strides) is not torch.contiguous_format:
            return channels_last_strides(sizes)
    return contiguous(sizes)


@rule("convolution", "_convolution", "convolution_overrideable")
def _convolution(
    mode: Any, x: Any, w: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: int, *flags: Any
) -> Any:
    if len(x.sizes) != len(w.sizes):
        return NotImplemented  # not batched
    groups = mode.dim(groups)
    _check_conv(x, w, transposed, groups)
    sizes = conv_output_sizes(mode, x, w, stride, padding, dilation, transposed, output_padding, groups)
    if any(lt(s, 0) for s in sizes[2:]):
        raise RuntimeError(
            f"Calculated padded input size per channel: smaller than kernel size; input {list(x.sizes)}, weight {list(w.sizes)}: kernel size can't be greater than actual input size"
        )
    return mode.make(sizes, _conv_strides(sizes, x, w), x.scalar_type, x.dev)


@rule("convolution_backward")
def _convolution_backward(
    mode: Any, grad: Any, x: Any, w: Any, bias_sizes: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any,
    groups: int, wanted: Any,
) -> Any:
    results: list[Any] = [None, None, None]
    if wanted[0]:
        results[0] = mode.make(x.sizes, _conv_strides(x.sizes, x, w), grad.scalar_type, grad.dev)
    if wanted[1]:
        results[1] = mode.make(w.sizes, _conv_strides(w.sizes, x, w), grad.scalar_type, grad.dev)
    if wanted[2]:
        channels = w.sizes[1] * mode.dim(groups) if transposed else w.sizes[0]
        results[2] = mode.make((plain(channels),), (1,), grad.scalar_type, grad.dev)
    return tuple(results)


# -- attention ----------------------------------------------------------------------------------------------------------------
def _transposed_12(mode: Any, q: Any, last: Any, like: Any) -> Any:
    """(B, H, S, D) laid out as (B, S, H, D): what the CPU kernels return."""
    b, h, s = q.sizes[0], q.sizes[1], q.sizes[2]
    inner = contiguous((b, s, h, last))
    return mode.make((b, h, s, last), (inner[0], inner[2], inner[1], inner[3]), like.scalar_type, like.dev)


@rule("_scaled_dot_product_flash_attention_for_cpu")
def _flash_cpu(mode: Any, q: Any, k: Any, v: Any, dropout_p: float = 0.0, is_causal: bool = False, *, attn_mask: Any = None, scale: Any = None) -> Any:
    b, h, s = q.sizes[0], q.sizes[1], q.sizes[2]
    output = mode.make(q.sizes, dense_like(q.sizes, q.strides), q.scalar_type, q.dev)
    lse_dtype = q.scalar_type if q.scalar_type in (torch.float32, torch.float64) else torch.float32
    inner = contiguous((b, s, h))
    return output, mode.make((b, h, s), (inner[0], inner[2], inner[1]), lse_dtype, q.dev)


@rule("_scaled_dot_product_flash_attention_for_cpu_backward")
def _flash_cpu_backward(mode: Any, grad: Any, q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> Any:
    return tuple(_transposed_12(mode, t, t.sizes[3], t) for t in (q, k, v))


@rule("_transformer_encoder_layer_fwd")
def _encoder_layer(mode: Any, src: Any, *args: Any, **kwargs: Any) -> Any:
    return _fresh(mode, src.sizes, src)


@rule("_native_multi_head_attention")
def _multi_head_attention(
    mode: Any, query: Any, key: Any, value: Any, embed_dim: int, num_head: int, qkv_weight: Any, qkv_bias: Any, proj_weight: Any, proj_bias: Any,
    mask: Any = None, need_weights: bool = True, average_attn_weights: bool = True, mask_type: Any = None,
) -> Any:
    batch, length = query.sizes[:2]
    heads = () if average_attn_weights else (num_head,)
    return _fresh(mode, query.sizes, query), _fresh(mode, (batch, *heads, length, key.sizes[1]), query) if need_weights else None


@rule("_scaled_dot_product_fused_attention_overrideable", "_scaled_dot_product_attention_math_for_mps")
def _unknown_attention(mode: Any, *args: Any, **kwargs: Any) -> Any:
    return NotImplemented


# -- distances --------------------------------------------------------------------------------------------------------------
@rule("_cdist_forward")
def _cdist(mode: Any, a: Any, b: Any, p: float, compute_mode: Any) -> Any:
    batch = broadcast(a.sizes[:-2], b.sizes[:-2])
    return _fresh(mode, (*batch, a.sizes[-2], b.sizes[-2]), a)


@rule("_scaled_mm")
def _scaled_mm(
    mode: Any, a: Any, b: Any, scale_a: Any, scale_b: Any, bias: Any = None, scale_result: Any = None, out_dtype: Any = None, fast: bool = False
) -> Any:
    sizes = (a.sizes[0], b.sizes[1])
    return mode.make(sizes, contiguous(sizes), out_dtype or a.scalar_type, a.dev)


@rule("_scaled_mm_v2")
def _scaled_mm_v2(
    mode: Any, a: Any, b: Any, scale_a: Any, recipe_a: Any, swizzle_a: Any, scale_b: Any, recipe_b: Any, swizzle_b: Any, bias: Any, out_dtype: Any,
    *rest: Any,
) -> Any:
    return _scaled_mm(mode, a, b, scale_a, scale_b, bias, None, out_dtype)
