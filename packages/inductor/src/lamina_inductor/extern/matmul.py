"""Matrix products: `mm` and `bmm` of float32 through our own core, other dtypes through the library.

Between: prims `mm`, `bmm` -> `GemmKernel` (core.cpp, any strides, epilogues) or `LibraryMatmul` (the C shim's `mm_out`, `bmm_out`).
"""

from __future__ import annotations

from typing import Any

import lamina_primops.prims  # noqa: F401  (registers torch.ops.lamina)
import torch
from lamina_dynshape.expr import Expr

from ..gemm import DECLARATION, DEFINITION, library_path
from ..gemm.choice import own_is_faster, shape_class
from ..ir.buffers import ONE, ZERO, StridedView
from ..ir.extern import CallWriter, EpilogueRef, ExternKernel
from ..lowering.registry import lowering
from .shim import declare

__all__ = ["GemmKernel", "LibraryMatmul", "write_gemm"]


def write_gemm(w: CallWriter, *, batch: Any, sizes: tuple[Any, Any, Any], a: tuple[str, Any, Any, Any], b: tuple[str, Any, Any, Any],
               c: tuple[str, Any, Any], bias: str = "0", row_bias: str = "0", accumulate: bool = False, epilogue: EpilogueRef | None = None) -> None:
    """Call of the core: `sizes` M, N, K; `a`, `b` (pointer, batch, row, column stride), `c` (pointer, batch, row stride)."""
    w.declare(DECLARATION)
    w.define("lamina_gemm", DEFINITION)
    w.link(library_path())
    text = [w.expr(x) for x in (batch, *sizes)] + [a[0], *map(w.expr, a[1:]), b[0], *map(w.expr, b[1:]), c[0], *map(w.expr, c[1:]), bias, row_bias, str(int(accumulate))]
    text += [f"{epilogue.function}, {epilogue.context}"] if epilogue else ["0, 0"]
    name = w.fresh("gemm")
    w.line(f"const lamina_gemm_call {name} = {{{', '.join(text)}}};")
    w.line(f"if (lamina_gemm(&{name})) return lm_oom(ctx);")


def _write_library(w: CallWriter, kernel: ExternKernel) -> None:
    a, b = kernel.inputs[:2]
    name = declare(w, "aoti_torch_cpu_bmm_out" if len(a.size) == 3 else "aoti_torch_cpu_mm_out")  # type: ignore[union-attr]
    w.check(f"{name}({w.handle(kernel.outputs[0].view())}, {w.handle(a)}, {w.handle(b)})")  # type: ignore[arg-type]


class GemmKernel(ExternKernel):
    """inputs: a (.., M, K), b (.., K, N), bias (N) or None; the output is row-major."""

    def emit_call(self, w: CallWriter, epilogue: EpilogueRef | None = None) -> None:
        a, b, bias = self.inputs
        assert a is not None and b is not None
        batched = len(a.size) == 3
        if epilogue is None and bias is None and not batched and not self._own_is_faster(w):
            _write_library(w, self)
            return
        c = self.outputs[0].view()
        m, k, n = a.size[-2], a.size[-1], b.size[-1]
        write_gemm(
            w, batch=a.size[0] if batched else 1, sizes=(m, n, k),
            a=(w.data(a), a.stride[0] if batched else 0, *a.stride[-2:]), b=(w.data(b), b.stride[0] if batched else 0, *b.stride[-2:]),
            c=(w.data(c), c.stride[0] if batched else 0, c.stride[-2]), bias=w.data(bias) if bias is not None else "0", epilogue=epilogue)

    def _own_is_faster(self, w: CallWriter) -> bool:
        a, b = self.inputs[:2]
        assert a is not None and b is not None
        m, k, n = (w.hint(e) for e in (*a.size, b.size[1]))
        return own_is_faster(shape_class(m, n, k, a.stride[1] is ONE, b.stride[1] is ONE))

    def epilogue_shape(self) -> tuple[Expr, Expr] | None:
        out = self.outputs[0]
        rows = out.size[0] if len(out.size) == 2 else out.size[0] * out.size[1]
        return rows, out.size[-1]


class LibraryMatmul(ExternKernel):
    """inputs: a, b; any dtype that the library multiplies."""

    def emit_call(self, w: CallWriter, epilogue: EpilogueRef | None = None) -> None:
        assert epilogue is None
        _write_library(w, self)


def _matmul(g: Any, node: torch.fx.Node, a: Any, b: Any, bias: StridedView | None = None) -> Any:
    av, bv = g.realize(a), g.realize(b)
    size = (*av.size[:-1], bv.size[-1])
    out = g.new_buffer(a.dtype, size, prefix="mm")
    name = g.graph.fresh("mm")
    if a.dtype is torch.float32:
        kernel: ExternKernel = GemmKernel(name, [av, bv, bias], [out])
    else:
        kernel = LibraryMatmul(name, [av, bv], [out])
    g.add_extern(kernel)
    return g.value(out)


@lowering(torch.ops.lamina.mm.default, torch.ops.lamina.bmm.default, torch.ops.aten.mm.default, torch.ops.aten.bmm.default, priority=10)
def matmul(g: Any, node: torch.fx.Node, a: Any, b: Any) -> Any:
    """Product of matrices, or of batches of them."""
    if any(s is ZERO for s in (*a.size, *b.size)):
        return NotImplemented
    return _matmul(g, node, a, b)
