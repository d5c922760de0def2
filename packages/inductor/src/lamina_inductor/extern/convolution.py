"""Convolution and its backward.

Between: prim `convolution`, `aten.convolution_backward` -> one of
- 1x1, stride 1: matrix products of our own over the pixels, for any strides of the images (`_Pointwise*`);
- one filter per channel, channels last: kernels of our own (`_Depthwise*`);
- everything else: the library through the C shim (`_Library*`).
The layout of each result is what the metadata says; `layout.assign` has decided it before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lamina_primops.prims  # noqa: F401  (registers torch.ops.lamina)
import torch
from lamina_dynshape.expr import Expr

from ..ir.buffers import ONE, ZERO, StridedView, as_expr, dense_strides, numel
from ..ir.extern import CallWriter, EpilogueRef, ExternKernel
from ..lowering.registry import lowering
from ..window import DECLARATION, DEFINITION, library_path
from .matmul import write_gemm
from .shim import declare, i64_array

__all__ = ["convolution", "convolution_backward"]

_MAX_TAPS = 128  # of window.cpp


@dataclass(frozen=True)
class Geometry:
    """Numbers of one convolution; spatial values have one entry per dimension."""

    stride: tuple[Expr, ...]
    padding: tuple[Expr, ...]
    dilation: tuple[Expr, ...]
    transposed: bool
    output_padding: tuple[Expr, ...]
    groups: Expr

    @staticmethod
    def of(spatial: int, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: Any) -> Geometry:
        def each(v: Sequence[Any]) -> tuple[Expr, ...]:
            return tuple(map(as_expr, v)) * (spatial if len(v) == 1 and spatial > 1 else 1)
        return Geometry(each(stride), each(padding), each(dilation), bool(transposed), each(output_padding), as_expr(groups))

    def is_pointwise(self, w: Sequence[Expr]) -> bool:
        """Is each output pixel a function of one input pixel, at the same place?"""
        return (not self.transposed and self.groups is ONE and all(s is ONE for s in (*w[2:], *self.stride))
                and all(p is ZERO for p in (*self.padding, *self.output_padding)))

    def is_depthwise(self, channels: Expr, w: Sequence[Expr]) -> bool:
        """Is there one two-dimensional filter per channel?"""
        return (not self.transposed and len(w) == 4 and self.groups is channels and w[0] is channels and w[1] is ONE
                and all(k.is_const for k in w[2:]) and w[2].const * w[3].const <= _MAX_TAPS)


@dataclass(frozen=True)
class Pixels:
    """An image batch as rows of pixels: element (n, p, c) is at `n * image + p * step + c * channel`."""

    count: Expr
    image: Expr
    step: Expr
    channel: Expr
    flat: bool  # the pixels of consecutive images follow each other: (N * count) rows `step` apart

    @staticmethod
    def of(v: StridedView) -> Pixels | None:
        dims = [d for d in range(2, len(v.size)) if v.size[d] is not ONE]
        step = v.stride[dims[-1]] if dims else v.stride[-1] if len(v.size) > 2 else ONE
        for outer, inner in zip(dims, dims[1:], strict=False):
            if v.stride[outer] is not v.stride[inner] * v.size[inner]:
                return None
        count = numel(v.size[2:])
        if not dims:
            step = v.stride[0]
        flat = v.size[0] is ONE or v.stride[0] is count * step
        return Pixels(count, v.stride[0], step, v.stride[1], flat)


def _pixels(g: Any, x: Any) -> tuple[StridedView, Pixels]:
    """`x` in memory as rows of pixels, copied if its strides do not allow it."""
    view = g.realize(x)
    found = Pixels.of(view)
    if found is None:
        order = (0, *range(2, len(view.size)), 1)
        view = g.realize(x, dense_strides(view.size, order))
        found = Pixels.of(view)
    assert found is not None
    return view, found


def is_channels_last(size: Sequence[Expr], stride: Sequence[Expr]) -> bool:
    """Do the strides say (N, spatial..., C), densely, and not also (N, C, spatial...)?"""
    order = (0, *range(2, len(size)), 1)
    dense = dense_strides(size, order)
    return len(size) > 2 and size[1] is not ONE and all(a is b or s is ONE for s, a, b in zip(size, stride, dense, strict=True)) \
        and any(s is not ONE for s in size[2:])


class _PointwiseForward(ExternKernel):
    """inputs: x (N, C, ...), w (O, C, 1...), bias or None."""

    def emit_call(self, w: CallWriter, epilogue: EpilogueRef | None = None) -> None:
        x, weight, bias = self.inputs
        y = self.outputs[0].view()
        px, py = Pixels.of(x), Pixels.of(y)  # type: ignore[arg-type]
        o, c = weight.size[:2]  # type: ignore[union-attr]
        b = w.data(bias) if bias is not None else "0"
        if py.channel is ONE:  # type: ignore[union-attr]
            flat = px.flat and py.flat  # type: ignore[union-attr]
            rows = px.count * x.size[0] if flat else px.count  # type: ignore[union-attr]
            write_gemm(w, batch=1 if flat else x.size[0], sizes=(rows, o, c), a=(w.data(x), px.image, px.step, px.channel),  # type: ignore[union-attr, arg-type]
                       b=(w.data(weight), 0, weight.stride[1], weight.stride[0]), c=(w.data(y), py.image, py.step), bias=b, epilogue=epilogue)  # type: ignore[union-attr, arg-type]
        else:
            write_gemm(w, batch=x.size[0], sizes=(o, px.count, c), a=(w.data(weight), 0, weight.stride[0], weight.stride[1]),  # type: ignore[union-attr, arg-type]
                       b=(w.data(x), px.image, px.channel, px.step), c=(w.data(y), py.image, py.channel), row_bias=b, epilogue=epilogue)  # type: ignore[union-attr, arg-type]


class _PointwiseGradInput(ExternKernel):
    """inputs: dy (N, O, ...), w (O, C, 1...)."""

    def emit_call(self, w: CallWriter, epilogue: EpilogueRef | None = None) -> None:
        dy, weight = self.inputs
        dx = self.outputs[0].view()
        py, px = Pixels.of(dy), Pixels.of(dx)  # type: ignore[arg-type]
        o, c = weight.size[:2]  # type: ignore[union-attr]
        if px.channel is ONE:  # type: ignore[union-attr]
            flat = px.flat and py.flat  # type: ignore[union-attr]
            rows = py.count * dy.size[0] if flat else py.count  # type: ignore[union-attr]
            write_gemm(w, batch=1 if flat else dy.size[0], sizes=(rows, c, o), a=(w.data(dy), py.image, py.step, py.channel),  # type: ignore[union-attr, arg-type]
                       b=(w.data(weight), 0, weight.stride[0], weight.stride[1]), c=(w.data(dx), px.image, px.step))  # type: ignore[union-attr, arg-type]
        else:
            write_gemm(w, batch=dy.size[0], sizes=(c, py.count, o), a=(w.data(weight), 0, weight.stride[1], weight.stride[0]),  # type: ignore[union-attr, arg-type]
                       b=(w.data(dy), py.image, py.channel, py.step), c=(w.data(dx), px.image, px.channel))  # type: ignore[union-attr, arg-type]


class _PointwiseGradWeight(ExternKernel):
    """inputs: dy (N, O, ...), x (N, C, ...); the result is row-major (O, C)."""

    def emit_call(self, w: CallWriter, epilogue: EpilogueRef | None = None) -> None:
        dy, x = self.inputs
        dw = self.outputs[0].view()
        py, px = Pixels.of(dy), Pixels.of(x)  # type: ignore[arg-type]
        o, c = dy.size[1], x.size[1]  # type: ignore[union-attr]
        flat = px.flat and py.flat  # type: ignore[union-attr]
        a, b = w.data(dy), w.data(x)  # type: ignore[arg-type]
        if flat:
            write_gemm(w, batch=1, sizes=(o, c, py.count * dy.size[0]), a=(a, 0, py.channel, py.step), b=(b, 0, px.step, px.channel),  # type: ignore[union-attr]
                       c=(w.data(dw), 0, c))
            return
        n = w.fresh("n")
        for first in (True, False):
            w.line(f"for (i64 {n} = {0 if first else 1}; {n} < {'1' if first else w.expr(dy.size[0])}; {n}++) {{")  # type: ignore[union-attr]
            write_gemm(w, batch=1, sizes=(o, c, py.count), a=(f"{a} + {n} * {w.expr(py.image)}", 0, py.channel, py.step),  # type: ignore[union-attr]
                       b=(f"{b} + {n} * {w.expr(px.image)}", 0, px.step, px.channel), c=(w.data(dw), 0, c), accumulate=not first)  # type: ignore[union-attr]
            w.line("}")


class _Depthwise(ExternKernel):
    """`attributes`: function, geometry, image (sizes of the input). inputs in the order of the function's arguments."""

    def emit_call(self, w: CallWriter, epilogue: EpilogueRef | None = None) -> None:
        w.declare(DECLARATION)
        w.define("lamina_window", DEFINITION)
        w.link(library_path())
        geo: Geometry = self.attributes["geometry"]
        size, out, kernel = self.attributes["image"], self.attributes["out"], self.attributes["kernel"]
        numbers = (size[0], size[1], *size[2:], *out[2:], *kernel, *geo.stride, *geo.padding, *geo.dilation)
        name = w.fresh("window")
        w.line(f"const lamina_window_call {name} = {{{', '.join(map(w.expr, numbers))}}};")
        args = [w.data(v) if v is not None else "0" for v in self.inputs]
        w.line(f"if ({self.attributes['function']}(&{name}, {', '.join(args)}, {w.data(self.outputs[0].view())})) return lm_oom(ctx);")


def _shim_geometry(w: CallWriter, geo: Geometry) -> str:
    stride, padding, dilation, extra = (i64_array(w, v) for v in (geo.stride, geo.padding, geo.dilation, geo.output_padding))
    return f"{stride}, {padding}, {dilation}, {int(geo.transposed)}, {extra}, {w.expr(geo.groups)}"


class _LibraryForward(ExternKernel):
    """inputs: x, w, bias or None."""

    def emit_call(self, w: CallWriter, epilogue: EpilogueRef | None = None) -> None:
        x, weight, bias = self.inputs
        name = declare(w, "aoti_torch_cpu_convolution")
        out = w.fresh("conv")
        given = "0"
        if bias is not None:
            given = w.fresh("bias")
            w.line(f"H {given}v = {w.handle(bias)}; H* {given} = &{given}v;")
        w.line(f"H {out} = 0;")
        w.check(f"{name}({w.handle(x)}, {w.handle(weight)}, {given}, {_shim_geometry(w, self.attributes['geometry'])}, &{out})")  # type: ignore[arg-type]
        w.assign_output(self.outputs[0], out)


class _LibraryBackward(ExternKernel):
    """inputs: dy, x, w; outputs: those of dx, dw that `attributes['mask']` asks for."""

    def emit_call(self, w: CallWriter, epilogue: EpilogueRef | None = None) -> None:
        dy, x, weight = self.inputs
        name = declare(w, "aoti_torch_cpu_convolution_backward")
        outs = [w.fresh("grad") for _ in range(3)]
        w.line(" ".join(f"H {o} = 0;" for o in outs))
        mask = self.attributes["mask"]
        w.check(f"{name}({w.handle(dy)}, {w.handle(x)}, {w.handle(weight)}, 0, 0, {_shim_geometry(w, self.attributes['geometry'])}, "  # type: ignore[arg-type]
                f"(const int[]){{{int(mask[0])}, {int(mask[1])}, 0}}, 3, &{outs[0]}, &{outs[1]}, &{outs[2]})")
        wanted = iter(self.outputs)
        for o, want in zip(outs, (*mask, False), strict=True):
            if want:
                w.assign_output(next(wanted), o)
            else:
                w.line(f"if ({o}) aoti_torch_delete_tensor_object({o});")


def _usable(*xs: Any) -> bool:
    return all(x is None or (x.dtype is torch.float32 and not any(s is ZERO for s in x.size)) for x in xs)


@lowering(torch.ops.lamina.convolution.default, priority=10)
def convolution(g: Any, node: torch.fx.Node, x: Any, w: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
                output_padding: Any, groups: Any) -> Any:
    """Convolution forward."""
    if any(s is ZERO for t in (x, w) for s in t.size):
        return NotImplemented
    geo = Geometry.of(len(x.size) - 2, stride, padding, dilation, transposed, output_padding, groups)
    size, strides = g.meta_size(node), g.meta_strides(node)
    last = is_channels_last(size, strides)
    name = g.graph.fresh("conv")
    bv = g.realize(bias) if bias is not None else None
    own = _usable(x, w, bias) and (bv is None or bv.stride[0] is ONE or bv.size[0] is ONE)
    if own and geo.is_pointwise(w.size):
        order = (0, *range(2, len(size)), 1) if last else tuple(range(len(size)))
        out = g.new_buffer(x.dtype, size, dense_strides(size, order), prefix="conv")
        kernel: ExternKernel = _PointwiseForward(name, [_pixels(g, x)[0], g.realize(w), bv], [out])
    elif own and last and geo.is_depthwise(x.size[1], w.size):
        out = g.new_buffer(x.dtype, size, dense_strides(size, (0, 2, 3, 1)), prefix="conv")
        wv = g.realize(w, dense_strides(w.size, range(4)))
        kernel = _Depthwise(name, [_last(g, x), wv, bv], [out], {"function": "lamina_depthwise", "geometry": geo, "image": x.size, "out": size, "kernel": w.size[2:]})
    else:
        out = g.new_buffer(x.dtype, size, strides, prefix="conv")
        xv = _last(g, x) if last else g.realize(x, dense_strides(x.size, range(len(x.size))))
        kernel = _LibraryForward(name, [xv, g.realize(w), bv], [out], {"geometry": geo}, allocates=True)
    g.add_extern(kernel)
    return g.value(out)


def _last(g: Any, x: Any) -> StridedView:
    """`x` in memory, channels last."""
    return g.realize(x, dense_strides(x.size, (0, *range(2, len(x.size)), 1)))


@lowering(torch.ops.aten.convolution_backward.default, priority=10)
def convolution_backward(g: Any, node: torch.fx.Node, dy: Any, x: Any, w: Any, bias_sizes: Any, stride: Any, padding: Any, dilation: Any,
                         transposed: bool, output_padding: Any, groups: Any, mask: Sequence[bool]) -> Any:
    """Gradients of input and weight; the bias gradient is a sum that the decomposition has made."""
    if mask[2] or any(s is ZERO for t in (dy, x, w) for s in t.size):
        return NotImplemented
    geo = Geometry.of(len(x.size) - 2, stride, padding, dilation, transposed, output_padding, groups)
    own = _usable(dy, x, w)
    last = _backward_last(g, node, mask)
    if own and geo.is_pointwise(w.size):
        return _pointwise_backward(g, node, dy, x, w, mask, last)
    if own and geo.is_depthwise(x.size[1], w.size):
        return _depthwise_backward(g, geo, dy, x, w, mask)
    outs, results = [], []
    for k in (0, 1):
        if mask[k]:
            outs.append(g.new_buffer(x.dtype, g.meta_size(node, k), g.meta_strides(node, k), prefix="grad"))
        results.append(g.value(outs[-1]) if mask[k] else None)
    views = [g.realize(t, dense_strides(t.size, (0, *range(2, len(t.size)), 1) if last else range(len(t.size)))) for t in (dy, x)]
    g.add_extern(_LibraryBackward(g.graph.fresh("convback"), [*views, g.realize(w)], outs, {"geometry": geo, "mask": tuple(mask[:2])}, allocates=True))
    return (*results, None)


def _backward_last(g: Any, node: torch.fx.Node, mask: Sequence[bool]) -> bool:
    """Channels last, as the gradient of the input is; without one, as most of the operands are."""
    def last(v: torch.Tensor) -> bool:
        return is_channels_last(g.exprs(v.shape), g.exprs(v.stride()))
    if mask[0]:
        return last(node.meta["val"][0])
    return last(node.args[0].meta["val"]) or last(node.args[1].meta["val"])


def _pointwise_backward(g: Any, node: torch.fx.Node, dy: Any, x: Any, w: Any, mask: Sequence[bool], last: bool) -> Any:
    dyv, wv = _pixels(g, dy)[0], g.realize(w)
    dx = dw = None
    if mask[0]:
        order = (0, *range(2, len(x.size)), 1) if last else tuple(range(len(x.size)))
        dx = g.new_buffer(x.dtype, x.size, dense_strides(x.size, order), prefix="grad")
        g.add_extern(_PointwiseGradInput(g.graph.fresh("convback"), [dyv, wv], [dx]))
    if mask[1]:
        dw = g.new_buffer(x.dtype, w.size, prefix="grad")
        g.add_extern(_PointwiseGradWeight(g.graph.fresh("convback"), [dyv, _pixels(g, x)[0]], [dw]))
    return (g.value(dx) if dx else None, g.value(dw) if dw else None, None)


def _depthwise_backward(g: Any, geo: Geometry, dy: Any, x: Any, w: Any, mask: Sequence[bool]) -> Any:
    common = {"geometry": geo, "image": x.size, "out": dy.size, "kernel": w.size[2:]}
    dyv = _last(g, dy)
    dx = dw = None
    if mask[0]:
        dx = g.new_buffer(x.dtype, x.size, dense_strides(x.size, (0, 2, 3, 1)), prefix="grad")
        wv = g.realize(w, dense_strides(w.size, range(4)))
        g.add_extern(_Depthwise(g.graph.fresh("convback"), [dyv, wv], [dx], {"function": "lamina_depthwise_grad_input", **common}))
    if mask[1]:
        dw = g.new_buffer(x.dtype, w.size, prefix="grad")
        g.add_extern(_Depthwise(g.graph.fresh("convback"), [dyv, _last(g, x)], [dw], {"function": "lamina_depthwise_grad_weight", **common}))
    return (g.value(dx) if dx else None, g.value(dw) if dw else None, None)
