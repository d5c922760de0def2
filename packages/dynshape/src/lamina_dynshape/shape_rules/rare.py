"""Operators met now and then that fit no family."""

from __future__ import annotations

from typing import Any

import torch

from lamina_dynshape.dims import plain
from lamina_dynshape.layout import broadcast, contiguous, dense_like, format_strides, suggest_format
from lamina_dynshape.promotion import result_type, to_float
from lamina_dynshape.shape_rules.pointwise import elementwise
from lamina_dynshape.shape_rules.registry import each, rule
from lamina_dynshape.shape_rules.views import _split, _split_with_sizes, wrap_dim

_COMPLEX = {torch.float16: torch.complex32, torch.float32: torch.complex64, torch.float64: torch.complex128}


def _row(mode: Any, sizes: Any, x: Any, dtype: Any = None) -> Any:
    sizes = tuple(sizes)
    return mode.make(sizes, contiguous(sizes), dtype or x.scalar_type, x.dev)


def _like(mode: Any, x: Any) -> Any:
    return mode.make(x.sizes, dense_like(x.sizes, x.strides), x.scalar_type, x.dev)


# -- complex numbers ------------------------------------------------------------------------------------------------------------
@rule("complex", "polar")
def _complex(mode: Any, a: Any, b: Any) -> Any:
    return elementwise(mode, (a, b), _COMPLEX[a.scalar_type])


@rule("_conj_physical")
def _conj_physical(mode: Any, x: Any) -> Any:
    return elementwise(mode, (x,), x.scalar_type)


# -- like the first operand -----------------------------------------------------------------------------------------------------------
@rule("fake_quantize_per_tensor_affine_cachemask", "fake_quantize_per_channel_affine_cachemask", "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams")
def _fake_quantize(mode: Any, x: Any, *args: Any) -> Any:
    """(what x becomes, where it was inside the range)."""
    mask = _like(mode, x)
    return _like(mode, x), mode.make(mask.sizes, mask.strides, torch.bool, x.dev)


@rule("_masked_softmax", "_masked_softmax_backward")
def _masked_softmax(mode: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return _row(mode, x.sizes, x)


# -- recurrent layers -----------------------------------------------------------------------------------------------------------------
@rule("mkldnn_rnn_layer")
def _mkldnn_rnn_layer(
    mode: Any, x: Any, w0: Any, w1: Any, w2: Any, w3: Any, hx: Any, cx: Any, reverse: bool, batch_sizes: Any, kind: int, hidden: Any, layers: Any,
    has_biases: bool, bidirectional: bool, batch_first: bool, train: bool,
) -> Any:
    """(output, hidden state, cell state, workspace); input is (time, batch, features).

    The workspace is the library's own: its size is not known here, so it is given as empty (as PyTorch's Meta kernel does).
    """
    width = mode.dim(hidden)
    output = _row(mode, (x.sizes[0], x.sizes[1], width), x)
    states = [_row(mode, t.sizes, x) for t in (hx, cx)]
    return output, *states, _row(mode, (0,), x, torch.uint8)


@rule("mkldnn_rnn_layer_backward")
def _mkldnn_rnn_layer_backward(mode: Any, x: Any, w0: Any, w1: Any, w2: Any, w3: Any, hx: Any, cx: Any, *args: Any) -> Any:
    bias = w0.sizes[:1]  # there even without biases
    return tuple(_row(mode, sizes, x) for sizes in (x.sizes, w0.sizes, w1.sizes, bias, bias, hx.sizes, cx.sizes))


# -- gates ----------------------------------------------------------------------------------------------------------------------
@rule("glu")
def _glu(mode: Any, x: Any, dim: int = -1) -> Any:
    d = wrap_dim(dim, len(x.sizes))
    half = (*x.sizes[:d], plain(x.sizes[d] // 2), *x.sizes[d + 1 :])
    from lamina_dynshape.layout import iterator_strides

    return mode.make(*iterator_strides(((half, x.strides), (half, x.strides)), False), x.scalar_type, x.dev)


@rule("glu_backward")
def _glu_backward(mode: Any, grad: Any, x: Any, dim: int) -> Any:
    return _row(mode, x.sizes, x)


@rule("rrelu_with_noise")
def _rrelu(mode: Any, x: Any, noise: Any, *args: Any, **kwargs: Any) -> Any:
    return _like(mode, x)


@rule("rrelu_with_noise_backward")
def _rrelu_backward(mode: Any, grad: Any, x: Any, noise: Any, lower: Any, upper: Any, training: bool, is_result: bool) -> Any:
    return elementwise(mode, (grad, x, noise) if training else (grad, x), grad.scalar_type)


@rule("_safe_softmax")
def _safe_softmax(mode: Any, x: Any, dim: int, dtype: Any = None) -> Any:
    return _row(mode, x.sizes, x, dtype)


# -- diagonals, triangles ---------------------------------------------------------------------------------------------------------
@rule("diag_embed")
def _diag_embed(mode: Any, x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    rank = len(x.sizes) + 1
    a, b = wrap_dim(dim1, rank), wrap_dim(dim2, rank)
    side = plain(x.sizes[-1] + abs(offset))
    sizes = list(x.sizes[:-1])
    for d in sorted((a, b)):
        sizes.insert(d, side)
    return _row(mode, sizes, x)


@rule("tril_indices")
def _triangle_indices(mode: Any, rows: Any, columns: Any, offset: int = 0, *, dtype: Any = torch.int64, device: Any = None, **kwargs: Any) -> Any:
    if not all(type(v) is int for v in (rows, columns)):
        return NotImplemented
    count = sum(min(max(r + offset + 1, 0), columns) for r in range(rows))
    return mode.make((2, count), (count, 1), dtype or torch.int64, torch.device(device or "cpu"))


@rule("triu_indices")
def _upper_triangle_indices(mode: Any, rows: Any, columns: Any, offset: int = 0, *, dtype: Any = torch.int64, device: Any = None, **kwargs: Any) -> Any:
    if not all(type(v) is int for v in (rows, columns)):
        return NotImplemented
    count = sum(min(max(columns - r - offset, 0), columns) for r in range(rows))
    return mode.make((2, count), (count, 1), dtype or torch.int64, torch.device(device or "cpu"))


@rule("block_diag")
def _block_diag(mode: Any, tensors: Any) -> Any:
    rows: Any = 0
    columns: Any = 0
    for t in tensors:
        r, c = ((1, 1), (1, *t.sizes), t.sizes)[len(t.sizes)]
        rows, columns = plain(rows + r), plain(columns + c)
    return mode.make((rows, columns), contiguous((rows, columns)), result_type(tensors), tensors[0].dev)


# -- rearranging ------------------------------------------------------------------------------------------------------------------
@rule("unsafe_split.Tensor")
def _unsafe_split(mode: Any, x: Any, chunk: Any, dim: int = 0) -> Any:
    return _split(mode, x, chunk, dim)


@rule("unsafe_split_with_sizes")
def _unsafe_split_with_sizes(mode: Any, x: Any, lengths: Any, dim: int = 0) -> Any:
    return _split_with_sizes(mode, x, lengths, dim)


@rule("narrow_copy")
def _narrow_copy(mode: Any, x: Any, dim: int, start: Any, length: Any) -> Any:
    d = wrap_dim(dim, len(x.sizes))
    return _row(mode, (*x.sizes[:d], mode.dim(length), *x.sizes[d + 1 :]), x)


@rule("resize_as_")
def _resize_as(mode: Any, x: Any, like: Any, *, memory_format: Any = None) -> Any:
    if memory_format not in (None, torch.contiguous_format):
        return NotImplemented
    return x if x.sizes == like.sizes else x.set_metadata(like.sizes, contiguous(like.sizes), x.offset)


@rule("col2im")
def _col2im(mode: Any, x: Any, output: Any, kernel: Any, *args: Any) -> Any:
    channels = plain(x.sizes[-2] // (kernel[0] * kernel[1]))
    return _row(mode, (*x.sizes[:-2], channels, *map(mode.dim, output)), x)


@rule("nonzero_static")
def _nonzero_static(mode: Any, x: Any, *, size: Any, fill_value: int = -1) -> Any:
    return _row(mode, (mode.dim(size), len(x.sizes)), x, torch.int64)


@rule("masked_scatter_backward")
def _masked_scatter_backward(mode: Any, grad: Any, mask: Any, sizes: Any) -> Any:
    return _row(mode, map(mode.dim, sizes), grad)


@rule("histc")
def _histc(mode: Any, x: Any, bins: int = 100, *args: Any) -> Any:
    return _row(mode, (bins,), x)


@rule("histogram.bin_ct")
def _histogram(mode: Any, x: Any, bins: int = 100, **kwargs: Any) -> Any:
    return _row(mode, (bins,), x), _row(mode, (bins + 1,), x)


@rule("histogram.bins_tensor")
def _histogram_edges(mode: Any, x: Any, bins: Any, **kwargs: Any) -> Any:
    return _row(mode, (bins.sizes[0] - 1,), x), _row(mode, bins.sizes, x)


@rule("_histogramdd_bin_edges")
def _histogramdd_bin_edges(mode: Any, x: Any, bins: Any, **kwargs: Any) -> Any:
    return [_row(mode, (n + 1,), x) for n in bins]


@rule("_histogramdd_from_bin_cts")
def _histogramdd_from_bin_cts(mode: Any, x: Any, bins: Any, **kwargs: Any) -> Any:
    return _row(mode, bins, x)


@rule("_histogramdd_from_bin_tensors")
def _histogramdd_from_bin_tensors(mode: Any, x: Any, bins: Any, **kwargs: Any) -> Any:
    return _row(mode, (edges.sizes[0] - 1 for edges in bins), x)


@rule("isin.Tensor_Tensor", "isin.Tensor_Scalar")
def _isin(mode: Any, x: Any, test: Any, **kwargs: Any) -> Any:
    return _row(mode, x.sizes, x, torch.bool)


@rule("frexp.Tensor")
def _frexp(mode: Any, x: Any) -> Any:
    return elementwise(mode, (x,), x.scalar_type), elementwise(mode, (x,), torch.int32)


@rule("renorm")
def _renorm(mode: Any, x: Any, *args: Any) -> Any:
    return _row(mode, x.sizes, x)


@rule("dist")
def _dist(mode: Any, a: Any, b: Any, p: Any = 2) -> Any:
    return _row(mode, (), a, result_type((a, b)).to_real())


# -- distances --------------------------------------------------------------------------------------------------------------------
@rule("_cdist_backward")
def _cdist_backward(mode: Any, grad: Any, a: Any, b: Any, p: float, distance: Any) -> Any:
    return _row(mode, (*broadcast(a.sizes[:-2], b.sizes[:-2]), *a.sizes[-2:]), a)


@rule("_pdist_forward")
def _pdist(mode: Any, x: Any, p: float = 2.0) -> Any:
    n = x.sizes[0]
    return _row(mode, (plain(n * (n - 1) // 2),), x)


@rule("_pdist_backward")
def _pdist_backward(mode: Any, grad: Any, x: Any, p: float, distance: Any) -> Any:
    return _row(mode, x.sizes, x)


@rule("_trilinear")
def _trilinear(mode: Any, a: Any, b: Any, c: Any, expand1: Any, expand2: Any, expand3: Any, summed: Any, unroll: int = 1) -> Any:
    sizes: tuple[Any, ...] = ()
    for t, expanded in ((a, expand1), (b, expand2), (c, expand3)):
        full = list(t.sizes)
        for d in expanded:
            full.insert(d, 1)
        sizes = broadcast(sizes, tuple(full))
    return _row(mode, [n for d, n in enumerate(sizes) if d not in summed], a)


# -- losses -------------------------------------------------------------------------------------------------------------------------
@rule("multi_margin_loss")
def _multi_margin(mode: Any, x: Any, target: Any, p: Any = 1, margin: Any = 1, weight: Any = None, reduction: int = 1) -> Any:
    return _row(mode, target.sizes if reduction == 0 else (), x)


@rule("multilabel_margin_loss_forward")
def _multilabel_margin(mode: Any, x: Any, target: Any, reduction: int) -> Any:
    output = x.sizes[:-1] if reduction == 0 and len(x.sizes) > 1 else ()
    return _row(mode, output, x), _row(mode, target.sizes, x)


@rule("multi_margin_loss_backward", "multilabel_margin_loss_backward")
def _margin_backward(mode: Any, grad: Any, x: Any, *args: Any) -> Any:
    return _row(mode, x.sizes, x)


# -- embedding bags -----------------------------------------------------------------------------------------------------------------------
_SUM, _MAX = 0, 2


@rule("_embedding_bag", "_embedding_bag_forward_only")
def _embedding_bag(
    mode: Any, weight: Any, indices: Any, offsets: Any, scale: bool = False, kind: int = 0, sparse: bool = False, per_sample: Any = None,
    include_last: bool = False, padding_idx: int = -1,
) -> Any:
    """Source: ATen/native/EmbeddingBag.cpp; the fast path of sums does not fill `offset2bag`."""
    bags = plain(offsets.sizes[0] - 1) if include_last else offsets.sizes[0]
    width = weight.sizes[1]
    fast = kind == _SUM and padding_idx < 0 and weight.strides[1] == 1 and (per_sample is None or per_sample.strides[0] == 1)
    offset2bag = _row(mode, (0,) if fast else indices.sizes, indices)
    return (
        _row(mode, (bags, width), weight), offset2bag, _row(mode, (bags,), indices),
        _row(mode, (bags, width) if kind == _MAX else (bags,), indices),
    )


@rule("_embedding_bag_dense_backward")
def _embedding_bag_dense_backward(mode: Any, grad: Any, indices: Any, offset2bag: Any, bag_size: Any, maximum: Any, count: Any, *args: Any) -> Any:
    return _row(mode, (mode.dim(count), grad.sizes[1]), grad)


@rule("_embedding_bag_backward")
def _embedding_bag_backward(
    mode: Any, grad: Any, indices: Any, offsets: Any, offset2bag: Any, bag_size: Any, maximum: Any, count: Any, scale: bool, kind: int, sparse: bool, *args: Any
) -> Any:
    return NotImplemented if sparse else _row(mode, (mode.dim(count), grad.sizes[1]), grad)


@rule("_embedding_bag_per_sample_weights_backward")
def _embedding_bag_sample_backward(mode: Any, grad: Any, weight: Any, indices: Any, *args: Any) -> Any:
    return _row(mode, indices.sizes, grad)


# -- windows ----------------------------------------------------------------------------------------------------------------------------
@rule("fractional_max_pool2d", "fractional_max_pool3d")
def _fractional_pool(mode: Any, x: Any, kernel: Any, output: Any, samples: Any) -> Any:
    sizes = (*x.sizes[: -len(output)], *output)
    return _row(mode, sizes, x), _row(mode, sizes, x, torch.int64)


@rule("fractional_max_pool2d_backward", "fractional_max_pool3d_backward")
def _fractional_pool_backward(mode: Any, grad: Any, x: Any, *args: Any) -> Any:
    return _row(mode, x.sizes, x)


@rule("grid_sampler_2d_backward", "grid_sampler_3d_backward")
def _grid_sampler_backward(mode: Any, grad: Any, x: Any, grid: Any, kind: int, padding: int, align: bool, wanted: Any) -> Any:
    return _row(mode, x.sizes, x) if wanted[0] else None, _row(mode, grid.sizes, grid)


@rule("_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward", "_upsample_nearest_exact1d_backward", "_upsample_nearest_exact3d_backward")
def _upsample_backward(mode: Any, grad: Any, output: Any, sizes: Any, *args: Any) -> Any:
    sizes = tuple(map(mode.dim, sizes))
    return mode.make(sizes, format_strides(sizes, suggest_format(grad.sizes, grad.strides)), grad.scalar_type, grad.dev)


def _polynomial(op: Any) -> Any:
    def rule_(mode: Any, a: Any, b: Any) -> Any:
        return elementwise(mode, (a, b), to_float(result_type((a, b))))

    return rule_


each([f"special_{name}{suffix}" for name in (
    "chebyshev_polynomial_t", "chebyshev_polynomial_u", "chebyshev_polynomial_v", "chebyshev_polynomial_w", "hermite_polynomial_h",
    "hermite_polynomial_he", "laguerre_polynomial_l", "legendre_polynomial_p", "shifted_chebyshev_polynomial_t",
    "shifted_chebyshev_polynomial_u", "shifted_chebyshev_polynomial_v", "shifted_chebyshev_polynomial_w",
) for suffix in ("", ".x_scalar", ".n_scalar")], _polynomial)
