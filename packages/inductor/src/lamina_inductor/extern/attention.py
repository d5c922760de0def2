"""Scaled dot product attention, forward and backward, of float32 without dropout: kernels of our own on the matrix core.

Between: `aten._scaled_dot_product_flash_attention_for_cpu` and its backward -> `_Attention`. What is outside of these conditions stays with the library.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ..gemm import ATTENTION_DECLARATION, ATTENTION_DEFINITION, library_path
from ..ir.buffers import ONE, ZERO, Buffer, StridedView, contiguous_strides
from ..ir.extern import CallWriter, EpilogueRef, ExternKernel
from ..lowering.registry import lowering

__all__ = ["attention", "attention_backward"]

_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


class _Attention(ExternKernel):
    """`attributes`: scale, causal. Forward: inputs q, k, v, mask or None; outputs o, logsumexp.
    Backward: inputs q, k, v, mask or None, o, logsumexp, gradient of o; outputs dq, dk, dv."""

    def emit_call(self, w: CallWriter, epilogue: EpilogueRef | None = None) -> None:
        w.declare(ATTENTION_DECLARATION)
        w.define("lamina_attention", ATTENTION_DEFINITION)
        w.link(library_path())
        q, k, v, mask, *rest = self.inputs
        assert q is not None and k is not None and v is not None
        outs = [b.view() for b in self.outputs]
        backward = bool(rest)
        o, lse = (rest[0], rest[1]) if backward else outs[:2]

        def strides(x: StridedView | None, n: int = 3) -> str:
            return "{" + ", ".join(w.expr(s) for s in x.stride[:n]) + "}" if x is not None else "{0}"

        sizes = ", ".join(w.expr(s) for s in (*q.size[:3], k.size[2], q.size[3]))
        scale = self.attributes["scale"]
        factor = f"(float){scale!r}" if scale is not None else f"(float)(1.0 / __builtin_sqrt((double){w.expr(q.size[3])}))"
        text = [sizes, factor, str(int(self.attributes["causal"])), w.data(q), w.data(k), w.data(v),
                w.data(mask) if mask is not None else "0", strides(q), strides(k), strides(v), strides(mask, 4),
                f"(float*){w.data(o)}", f"(float*){w.data(lse)}", strides(o), strides(lse)]  # type: ignore[arg-type]
        if backward:
            text += [w.data(rest[2]), strides(rest[2]), *(w.data(x) for x in outs), *(strides(x) for x in outs)]  # type: ignore[arg-type]
        name = w.fresh("attention")
        w.line(f"const lamina_attention_call {name} = {{{', '.join(text)}}};")
        w.line(f"if (lamina_attention{'_backward' if backward else ''}(&{name})) return lm_oom(ctx);")


def _rows(g: Any, x: Any) -> StridedView:
    """`x` in memory with its last dimension contiguous."""
    view = g.realize(x)
    return view if view.stride[-1] is ONE or view.size[-1] is ONE else g.realize(x, contiguous_strides(x.size))


def _supported(node: torch.fx.Node, q: Any, k: Any, v: Any, dropout: Any, mask: Any, outs: int) -> bool:
    tensors = [q, k, v, *([mask] if mask is not None else [])]
    if any(len(t.size) != 4 or t.dtype is not torch.float32 or any(s is ZERO for s in t.size) for t in tensors) or dropout != 0:
        return False
    if q.size[1] is not k.size[1] or q.size[1] is not v.size[1] or q.size[3] is not v.size[3] or k.size[2] is not v.size[2]:
        return False
    return all(tuple(node.meta["val"][i].stride())[-1] == 1 for i in range(outs) if node.meta["val"][i].dim() == 4)


def _scale(q: Any, scale: float | None) -> float | None:
    """The factor of the scores; None when it is that of a symbolic width, 1 / sqrt(width)."""
    if scale is not None:
        return float(scale)
    return 1.0 / math.sqrt(q.size[3].const) if q.size[3].is_const else None


def _mask(g: Any, mask: Any, q: Any, k: Any) -> StridedView | None:
    """The mask as (B, H, Q, K), broadcast by strides."""
    if mask is None:
        return None
    view = g.realize(mask)
    size = (*q.size[:3], k.size[2])
    stride = tuple(ZERO if a is ONE and b is not ONE else t for a, b, t in zip(view.size, size, view.stride, strict=True))
    return StridedView(view.buffer, size, stride, view.offset)


def _results(g: Any, node: torch.fx.Node, n: int) -> list[Buffer]:
    return [g.new_buffer(torch.float32, g.meta_size(node, i), g.meta_strides(node, i), prefix="attn") for i in range(n)]


@lowering(_FORWARD, priority=10)
def attention(g: Any, node: torch.fx.Node, q: Any, k: Any, v: Any, dropout: float = 0.0, causal: bool = False, *, attn_mask: Any = None,
              scale: float | None = None) -> Any:
    """(output, logsumexp)."""
    factor = _scale(q, scale)
    if not _supported(node, q, k, v, dropout, attn_mask, 1):
        return NotImplemented
    outs = _results(g, node, 2)
    g.add_extern(_Attention(g.graph.fresh("attn"), [_rows(g, q), _rows(g, k), _rows(g, v), _mask(g, attn_mask, q, k)], outs, {"scale": factor, "causal": causal}))
    return g.value(outs[0]), g.value(outs[1])


@lowering(_BACKWARD, priority=10)
def attention_backward(g: Any, node: torch.fx.Node, grad: Any, q: Any, k: Any, v: Any, out: Any, logsumexp: Any, dropout: float, causal: bool, *,
                       attn_mask: Any = None, scale: float | None = None) -> Any:
    """(dq, dk, dv)."""
    factor = _scale(q, scale)
    if not _supported(node, q, k, v, dropout, attn_mask, 3):
        return NotImplemented
    outs = _results(g, node, 3)
    inputs = [_rows(g, q), _rows(g, k), _rows(g, v), _mask(g, attn_mask, q, k), _rows(g, out), g.realize(logsumexp), _rows(g, grad)]
    g.add_extern(_Attention(g.graph.fresh("attn"), inputs, outs, {"scale": factor, "causal": causal}))
    return tuple(map(g.value, outs))
