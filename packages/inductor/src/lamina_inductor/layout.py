"""Channels-last strides for the images inside a graph, where that pays.

Between: a traced ATen graph (inference, or joint before it is partitioned) -> the same graph with other strides in `meta["val"]`.
Keeps:   inputs, outputs and the values of every node, what random operators read and give (they draw in the order of memory); only strides of intermediates change, which are free in the dialect. The forward graph
         saves channels-last values for the backward graph, because both are cut from one annotated joint graph.
Why:     1x1 convolutions become one matrix product over all pixels, one filter per channel vectorises over channels, and both have fused kernels
         of ours. Dense k x k convolutions run in the library, a little faster channels last, but then their weights are converted at each call.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from lamina_dynshape.support.counters import counters
from lamina_primops.fxtools import is_random

__all__ = ["assign", "prefers_channels_last"]

aten = torch.ops.aten
_CONVOLUTION = aten.convolution.default
_BACKWARD = aten.convolution_backward.default
_VIEWS = frozenset({
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.permute.default, aten.transpose.int, aten.expand.default, aten.t.default,
    aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten.unsqueeze.default, aten.alias.default, aten.detach.default, aten.select.int,
    aten.slice.Tensor,
})

_DEPTHWISE_WEIGHT = 40.0
_IMAGE_TO_WEIGHT = 4.0


def assign(gm: fx.GraphModule) -> bool:
    """Give images of `gm` channels-last strides where that pays; says whether there are any."""
    nodes = [n for n in gm.graph.nodes if n.op == "call_function"]
    if any(n.target in (aten.as_strided.default, aten.as_strided_scatter.default) for n in nodes):
        return False
    everywhere = prefers_channels_last(gm)
    outputs = set(next(iter(reversed(gm.graph.nodes))).all_input_nodes)
    images: dict[fx.Node, tuple[int, ...]] = {}  # node -> places of images among its results
    for n in nodes:
        places = _image_places(n, images, everywhere)
        places = tuple(k for k in places if not _is_output(n, k, outputs) and not _decides_draws(n, k))
        if places:
            images[n] = places
            _restride(n, places)
    if images:
        counters["layouts"]["channels_last"] += 1
    return bool(images)


def _operands(n: fx.Node) -> tuple[Any, Any, Any, bool, Any]:
    """(x, w, y, transposed, groups) of a convolution or its backward."""
    k = 0 if n.target is _CONVOLUTION else 1
    x, w = n.args[k].meta["val"], n.args[k + 1].meta["val"]
    y = n.meta["val"] if k == 0 else n.args[0].meta["val"]
    return x, w, y, bool(n.args[6 + k]), n.args[8 + k]


def prefers_channels_last(gm: fx.GraphModule) -> bool:
    """Do 1x1 and one-filter-per-channel convolutions outweigh the dense ones? By multiply-adds; the latter kind, bound by memory, counts for more."""
    light = dense = 0.0
    for n in gm.graph.nodes:
        if n.op != "call_function" or n.target not in (_CONVOLUTION, _BACKWARD):
            continue
        x, w, y, transposed, groups = _operands(n)
        if x.dim() != 4 or x.dtype is not torch.float32 or transposed:
            continue
        work = _hint(y.numel()) * _hint(w.numel()) / max(_hint(w.shape[0]), 1)
        if _hint(groups) > 1 and _hint(w.shape[1]) == 1:
            light += _DEPTHWISE_WEIGHT * work
        elif all(_hint(s) == 1 for s in (*w.shape[2:], *(n.args[3] if n.target is _CONVOLUTION else n.args[4]))):
            light += work
        else:
            dense += work
    return light > dense


def _dense_gains(n: fx.Node) -> bool:
    """Does one dense convolution gain by channels last? The library converts its weights at each call, which large images outweigh."""
    x, w, y, transposed, _ = _operands(n)
    if x.dim() != 4 or x.dtype is not torch.float32 or transposed:
        return False
    return _hint(x.numel()) + _hint(y.numel()) > _IMAGE_TO_WEIGHT * _hint(w.numel())


def _hint(n: Any) -> float:
    if isinstance(n, int):
        return float(n)
    from lamina_dynshape import estimate_of
    return float(estimate_of(n))


def _is_image(v: Any) -> bool:
    return isinstance(v, torch.Tensor) and v.dim() == 4


def _image_places(n: fx.Node, images: dict[fx.Node, tuple[int, ...]], everywhere: bool) -> tuple[int, ...]:
    """Places among the results of `n` that are images of the batch it reads; (0,) for a single result."""
    val = n.meta.get("val")
    if n.target is operator.getitem:
        return (0,) if n.args[1] in images.get(n.args[0], ()) and isinstance(n.args[0].meta["val"], (tuple, list)) else ()
    if n.target is _CONVOLUTION or n.target is _BACKWARD:
        first = val[0] if isinstance(val, (tuple, list)) else val
        return (0,) if _is_image(first) and (everywhere or _dense_gains(n)) else ()
    if n.target in _VIEWS:
        return ()
    sources = [a for a in n.all_input_nodes if a in images and not isinstance(a.meta["val"], (tuple, list))]
    if not sources:
        return ()
    batch = sources[0].meta["val"].shape[0]
    results = val if isinstance(val, (tuple, list)) else (val,)
    return tuple(k for k, v in enumerate(results) if _is_image(v) and (v.shape[0] is batch or v.shape[0] == batch))


def _is_output(n: fx.Node, place: int, outputs: set[fx.Node]) -> bool:
    if isinstance(n.meta["val"], (tuple, list)):
        return any(u in outputs for u in n.users if u.target is operator.getitem and u.args[1] == place)
    return n in outputs


def _decides_draws(n: fx.Node, place: int) -> bool:
    """Would other strides of this result change which element gets which random number?"""
    readers = n.users if not isinstance(n.meta["val"], (tuple, list)) else [v for u in n.users if u.target is operator.getitem and u.args[1] == place for v in u.users]
    return is_random(n.target) or any(is_random(u.target) for u in readers)


def _restride(n: fx.Node, places: tuple[int, ...]) -> None:
    val = n.meta["val"]
    if n.target is operator.getitem:
        n.meta["val"] = n.args[0].meta["val"][n.args[1]]
    elif isinstance(val, (tuple, list)):
        n.meta["val"] = type(val)([_last(v) if k in places else v for k, v in enumerate(val)])
    else:
        n.meta["val"] = _last(val)


def _last(v: Any) -> Any:
    """A fake like `v` with dense channels-last strides."""
    _, c, h, w = v.shape
    return v.fake_mode.empty_strided(tuple(v.shape), (h * w * c, 1, w * c, c), dtype=v.dtype, device=v.device)
