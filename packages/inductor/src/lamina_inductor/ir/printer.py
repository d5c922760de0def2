"""Text of a loop graph: Python that `parse_loops` runs to rebuild it."""

from __future__ import annotations

from typing import Any

import torch
from lamina_dynshape import expr as _expr
from lamina_dynshape.boolean import And, BoolExpr, Or, Relation, conj, disj, eq, ge, ne
from lamina_dynshape.expr import Expr, symbol
from lamina_dynshape.float_expr import FloatExpr, FloatRelation, float_const, float_of, float_op, float_relation, float_symbol

from .body import Recorder, Val
from .buffers import Buffer, StridedView, as_expr, as_exprs
from .extern import ExternKernel
from .nodes import LoopGraph, LoopNode, Reduce, Scan, Scatter, Store

__all__ = ["parse_loops", "print_loops"]


def print_loops(graph: LoopGraph) -> str:
    """The graph as a Python program over `g` (a `LoopGraph` under construction)."""
    lines = []
    for b in graph.buffers:
        lines.append(f'{b.name} = g.buffer("{b.name}", "{str(b.dtype)[6:]}", ({_tuple(b.size)}), ({_tuple(b.stride)}), "{b.kind}")')
    for x in graph.inputs:
        lines.append(f"g.input({x.name if isinstance(x, Buffer) else x}{', real=True' if x in graph.reals else ''})")
    for e, bits in graph.computed.items():
        lines.append(f"{bits} = g.real({str(bits)!r}, {_real(e)})")
    for n in graph.nodes:
        lines.append("")
        lines += _extern(n) if isinstance(n, ExternKernel) else _node(n)
    lines.append("")
    for v in graph.outputs:
        if isinstance(v, StridedView):
            lines.append(f"g.output({v.buffer.name}, ({_tuple(v.size)}), ({_tuple(v.stride)}), {v.offset})")
        else:
            lines.append(f"g.output({_condition(v) if isinstance(v, BoolExpr) else _real(v) if isinstance(v, FloatExpr) else repr(v)})")
    return "\n".join(lines) + "\n"


def _tuple(xs: Any) -> str:
    return "".join(f"{x}, " for x in xs)


def _real(e: FloatExpr) -> str:
    if e.op in ("const", "int", "real"):
        return {"const": "float_const", "int": "float_of", "real": "float_symbol"}[e.op] + f"({_number(e.args[0]) if e.op == 'const' else e.args[0]})"
    return f"float_op({e.op!r}, {', '.join(map(_real, e.args))})"


def _condition(e: BoolExpr) -> str:
    if isinstance(e, Relation):
        return f"{e.kind}({e.e})"
    if isinstance(e, FloatRelation):
        return f"float_relation({e.op!r}, {_real(e.a)}, {_real(e.b)})"
    if isinstance(e, (And, Or)):
        return f"{'conj' if isinstance(e, And) else 'disj'}({', '.join(map(_condition, e.operands))})"
    return str(e)


def _extern(n: ExternKernel) -> list[str]:
    reads = ", ".join("None" if v is None else v.buffer.name for v in n.inputs)
    return [f'g.extern("{n.name}")  # {type(n).__name__}({reads}) -> {", ".join(b.name for b in n.outputs)}']


def _node(n: LoopNode) -> list[str]:
    where = f"  # {n.origin}" if n.origin else ""
    lines = [f"def {n.name}(h, {', '.join(str(v) for v, _ in n.all_vars)}):{where}"]
    names = {v: f"tmp{k}" for k, v in enumerate(n.values)}
    rename = {s: symbol(f"ind{names[v][3:]}") for s, v in n.indirects.items() if v in names}

    def text(a: Any) -> str:
        return names[a] if isinstance(a, Val) else str(a.subs(rename)) if isinstance(a, Expr) else a.name if isinstance(a, Buffer) else str(a)

    for v in n.values:
        lines.append(f"    {names[v]} = {_value(v, text)}  # {str(v.dtype)[6:]}")
        if v.op == "indirect":
            lines.append(f"    ind{names[v][3:]} = {names[v]}")
    e: Any = n.effect
    buffers = f"({_tuple(b.name for b in e.buffers)})"
    index, value = text(e.index), text(e.value)
    made = {
        Store: lambda: f"Store({e.buffers[0].name}, {index}, {value})",
        Reduce: lambda: f"Reduce({e.kind!r}, {buffers}, {index}, {value}, {e.position})",
        Scan: lambda: f"Scan({e.kind!r}, {e.buffers[0].name}, {index}, {value})",
        Scatter: lambda: f"Scatter({e.mode!r}, {e.buffers[0].name}, {index}, {value})",
    }[type(e)]()
    lines.append(f"    return {made}")
    loops = "".join(f'("{v}", {s}), ' for v, s in n.vars)
    inner = "".join(f'("{v}", {s}), ' for v, s in n.rvars)
    lines.append(f'g.node("{n.name}", ({loops}), ({inner}), {n.name}, {n.origin!r})')
    return lines


def _value(v: Val, text: Any) -> str:
    a = v.args
    if v.op == "load":
        return f"h.load_masked({text(a[0])}, {text(a[1])}, {text(a[2])})"
    if v.op == "indirect":
        return f"h.indirect_masked({text(a[0])}, {text(a[1])}, {text(a[2])})"
    if v.op == "constant":
        return f"h.constant({_number(a[0])}, {a[1]})"
    if v.op in ("index_expr", "convert", "bitcast"):
        return f"h.{v.op}({text(a[0])}, {a[1]})"
    if v.op == "where":
        return f"h.where({text(a[0])}, {text(a[1])}, {text(a[2])})"
    return f"h.op({v.op!r}, {', '.join(map(text, a))})"


def _number(x: Any) -> str:
    return f'float("{x}")' if isinstance(x, float) else repr(x)


class _Builder:
    """What the printed program calls `g`."""

    def __init__(self, externs: dict[str, ExternKernel]) -> None:
        self.graph, self.externs = LoopGraph(), externs

    def buffer(self, name: str, dtype: str, size: tuple, stride: tuple, kind: str) -> Buffer:
        b = Buffer(name, getattr(torch, dtype), as_exprs(size), as_exprs(stride), kind)
        self.graph.buffers.append(b)
        return b

    def input(self, x: Any, *, real: bool = False) -> None:
        self.graph.inputs.append(x if isinstance(x, Buffer) else as_expr(x))
        if real:
            self.graph.reals.add(self.graph.inputs[-1])  # type: ignore[arg-type]

    def real(self, name: str, e: FloatExpr) -> Expr:
        bits = self.graph.computed[e] = symbol(name)
        return bits

    def extern(self, name: str) -> None:
        self.graph.nodes.append(self.externs[name])

    def node(self, name: str, loops: tuple, inner: tuple, body: Any, origin: str) -> None:
        recorder = Recorder()
        outer = [(symbol(v), as_expr(s)) for v, s in loops]
        reduced = [(symbol(v), as_expr(s)) for v, s in inner]
        e = body(recorder, *[v for v, _ in [*outer, *reduced]])
        if not isinstance(e.index, Expr) or getattr(e, "position", None) is not None:
            e = type(e)(**{**e.__dict__, "index": as_expr(e.index), **({"position": as_expr(e.position)} if getattr(e, "position", None) is not None else {})})
        self.graph.nodes.append(LoopNode(name, outer, reduced, e, recorder.indirects, origin))

    def output(self, x: Any, size: tuple | None = None, stride: tuple | None = None, offset: Any = 0) -> None:
        self.graph.outputs.append(StridedView(x, as_exprs(size), as_exprs(stride), as_expr(offset)) if isinstance(x, Buffer) else x)  # type: ignore[arg-type]




def parse_loops(text: str, *, externs: dict[str, ExternKernel] | None = None, symbols: tuple[str, ...] = ()) -> LoopGraph:
    """Rebuild a printed graph. `externs` supplies library calls by name; `symbols` names the sizes."""
    g = _Builder(externs or {})
    scope: dict[str, Any] = {"g": g, "torch": torch, "Store": Store, "Reduce": Reduce, "Scan": Scan, "Scatter": Scatter}
    scope |= {f.__name__: f for f in (float_const, float_of, float_op, float_symbol, float_relation, conj, disj, eq, ge, ne)}
    scope.update({k: getattr(_expr, k) for k in ("floordiv", "mod", "emin", "emax", "integer")})
    scope.update({s: symbol(s) for s in symbols})
    exec(compile(text, "<loop graph>", "exec"), scope)  # noqa: S102  (text that `print_loops` wrote)
    return g.graph
