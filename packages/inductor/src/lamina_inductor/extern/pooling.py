"""Max pooling of images through a kernel of our own, with or without the indices.

Between: `aten.max_pool2d_with_indices` -> `_MaxPool`. Equal to eager bit for bit: the first of equal values wins, NaN wins over all.
"""

from __future__ import annotations

import operator
from typing import Any

import torch

from ..ir.buffers import ZERO, as_expr, dense_strides
from ..ir.extern import CallWriter, EpilogueRef, ExternKernel
from ..lowering.registry import lowering
from ..window import DECLARATION, DEFINITION, library_path
from .convolution import is_channels_last

__all__ = ["max_pool2d"]


class _MaxPool(ExternKernel):
    """`attributes`: numbers of `lamina_window_call`, last (channels last). outputs: values, and indices if they are wanted."""

    def emit_call(self, w: CallWriter, epilogue: EpilogueRef | None = None) -> None:
        w.declare(DECLARATION)
        w.define("lamina_window", DEFINITION)
        w.link(library_path())
        name = w.fresh("window")
        w.line(f"const lamina_window_call {name} = {{{', '.join(map(w.expr, self.attributes['numbers']))}}};")
        where = f"(i64*){w.data(self.outputs[1].view())}" if len(self.outputs) > 1 else "0"
        w.line(f"if (lamina_max_pool(&{name}, {int(self.attributes['last'])}, {w.data(self.inputs[0])}, {w.data(self.outputs[0].view())}, {where})) return lm_oom(ctx);")  # type: ignore[arg-type]


@lowering(torch.ops.aten.max_pool2d_with_indices.default, priority=10)
def max_pool2d(g: Any, node: torch.fx.Node, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False) -> Any:
    """(values, indices) of max_pool2d."""
    if len(x.size) != 4 or x.dtype is not torch.float32 or any(s is ZERO for s in x.size):
        return NotImplemented

    def pair(v: Any, default: Any = None) -> tuple[Any, Any]:
        values = [v] if not isinstance(v, (list, tuple)) else list(v) or list(default)
        return tuple(map(as_expr, values * 2 if len(values) == 1 else values))  # type: ignore[return-value]

    kernel = pair(kernel)
    size, strides = g.meta_size(node, 0), g.meta_strides(node, 0)
    last = is_channels_last(size, strides)
    order = (0, 2, 3, 1) if last else (0, 1, 2, 3)
    xv = g.realize(x, dense_strides(x.size, order))
    out = g.new_buffer(x.dtype, size, dense_strides(size, order), prefix="pool")
    outs = [out]
    wants_indices = any(u.target is not operator.getitem or u.args[1] == 1 for u in node.users)
    if wants_indices:
        outs.append(g.new_buffer(torch.int64, size, dense_strides(size, order), prefix="pool"))
    numbers = (*x.size, *size[2:], *kernel, *pair(stride, kernel), *pair(padding), *pair(dilation))
    g.add_extern(_MaxPool(g.graph.fresh("pool"), [xv], outs, {"numbers": numbers, "last": last}))
    return g.value(out), g.value(outs[1]) if wants_indices else None
