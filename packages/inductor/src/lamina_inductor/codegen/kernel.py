"""Writes one C++ function per fused group.

Between: `LoopNest` -> text of `void name(pointers..., i64 sizes..., int* err)`. Names in the text are canonical (p0, s0, x0, t1), so equal kernels are
equal texts and are emitted once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lamina_dynshape.expr import Expr

from ..config import config
from ..ir.body import replay
from ..ir.buffers import ONE, ZERO, Buffer
from ..ir.linear import coefficient
from ..ir.nodes import LoopGraph, LoopNode, Reduce, Scan, Scatter, Store
from ..ir.ops import use_handler
from ..schedule.group import Group, Phase
from .chandler import CHandler, CVal
from .ctext import COMPUTE, STORAGE, ExprText, load_text, store_text
from .loops import LoopNest
from .reduce import RUN, WELFORD_RUN, Accumulator, make_accumulator, scan_text

__all__ = ["Kernel", "write_kernel"]

_COLUMN_TILE = 64
_COLUMN_ROWS = 64
_BLOCKS = 32
_TALL_COLUMNS, _TALL_BLOCKS = 1024, 8
_TILE_U, _TILE_V = 16, 64     # transposing tiles
_MIN_STRIDE = 8               # inner step from which a load is worth turning


@dataclass(frozen=True)
class Kernel:
    """`text` is everything after the function's name; the call passes `buffers` then `sizes` then the error flag."""

    text: str
    buffers: tuple[Buffer, ...]
    sizes: tuple[Expr, ...]
    written: frozenset[Buffer]
    origin: str


def write_kernel(graph: LoopGraph, group: Group, outside: set[Buffer]) -> Kernel:
    return _Writer(graph, group, LoopNest(graph, group, outside)).write()


class _Writer:
    def __init__(self, graph: LoopGraph, group: Group, nest: LoopNest) -> None:
        self.graph, self.group, self.nest = graph, group, nest
        self.pointers: dict[Buffer, str] = {}
        self.written: set[Buffer] = set()
        self.symbols: dict[Expr, str] = {}  # parameters, by what they are
        self.loop_names: dict[Any, str] = {}
        self.expr = _KernelText(self)
        self.handler = CHandler(self.expr, lambda s: 0, self._element)
        self.forward: dict[tuple[Buffer, Expr], CVal] = {}
        self.tile = _COLUMN_TILE
        self.turned: dict[tuple[Buffer, Expr], str] = {}
        self.lines: list[str] = []
        self.indent = 1

    # -- names -----------------------------------------------------------------------------------------------------------------
    def pointer(self, buffer: Buffer, *, write: bool = False) -> str:
        if write:
            self.written.add(buffer)
        return self.pointers.setdefault(buffer, f"p{len(self.pointers)}")

    def _element(self, buffer: Buffer, index: Expr) -> str:
        turned = self.turned.get((buffer, index))
        if turned is not None:
            return load_text(turned, f"u_*{_TILE_V} + v_", buffer.dtype)
        if buffer in self.nest.row_buffers:
            return load_text(self._row_name(buffer), self.expr(self.nest.row_index(buffer, index)), buffer.dtype)
        return load_text(self.pointer(buffer), self.expr(index), buffer.dtype)

    def _row_name(self, buffer: Buffer) -> str:
        return f"row{list(self.nest.row_buffers).index(buffer)}"

    def put(self, text: str) -> None:
        self.lines.append("  " * self.indent + text if not text.startswith("#") else text)

    def open(self, text: str) -> None:
        self.put(text + " {")
        self.indent += 1

    def close(self, n: int = 1) -> None:
        for _ in range(n):
            self.indent -= 1
            self.put("}")

    def loop(self, var: Expr, *, lo: str = "0", hi: str | None = None) -> None:
        name = self.loop_names[var]
        self.open(f"for (i64 {name} = {lo}; {name} < {hi or self.expr(self.nest.sizes[var])}; {name}++)")

    # -- the whole ---------------------------------------------------------------------------------------------------------------
    def write(self) -> Kernel:
        nest = self.nest
        for v in [*nest.outer, *(v for p in nest.phases for v in p.inner)]:
            self.loop_names.setdefault(v, f"x{len(self.loop_names)}")
        with use_handler(self.handler):
            if nest.kind == "column":
                self._columns()
            elif nest.kind == "scan":
                self._scan()
            elif nest.kind == "scatter":
                self._scatter()
            else:
                self._rows()
        return self._finish()

    def _finish(self) -> Kernel:
        params = []
        for b, name in self.pointers.items():
            const = "" if b in self.written else "const "
            params.append(f"{const}{STORAGE[b.dtype]}* __restrict {name}")
        params += [f"i64 {n}" for n in self.symbols.values()]
        if self.handler.uses_errors:
            params.append("int* err")
        head = f"({', '.join(params)}) {{"
        body = [head]
        body += self.lines
        body.append("}")
        origins = dict.fromkeys(m.origin for m in self.group.members if m.origin)
        return Kernel("\n".join(body), tuple(self.pointers), (*self.symbols,), frozenset(self.written), " ".join(list(origins)[:6]))

    def _parallel(self, variables: list[Expr], extra: str = "") -> None:
        """Pragma before an outer nest that may be shared between threads; `extra` replaces the loop count for tiles."""
        cycles = self.nest.cycles()
        if cycles.is_const and cycles.const < config.parallel_cycles:
            return
        clause = "" if cycles.is_const else f" if ({self.expr(cycles)} > {int(config.parallel_cycles)}L)"
        n = len(variables)
        self.put(f"#pragma omp parallel for{f' collapse({n})' if n > 1 else ''} schedule(static){clause}{extra}")

    def _row_declarations(self) -> None:
        for b, (_, span) in self.nest.row_buffers.items():
            self.put(f"{STORAGE[b.dtype]} {self._row_name(b)}[{span}] __attribute__((aligned(64)));")

    def _bad_begin(self) -> int:
        self.put("i64 bad = 0;")
        return len(self.lines) - 1

    def _bad_end(self, at: int) -> None:
        if self.handler.uses_errors:
            self.put("if (bad) *err = (int)bad;")
        else:
            del self.lines[at]

    # -- transposed reads -------------------------------------------------------------------------------------------------------
    def _transposed(self) -> tuple[Expr, list[tuple[Buffer, Expr]]] | None:
        """(outer variable along which some loads run contiguously, those loads) of a pointwise kernel whose stores run along the inner variable."""
        nest = self.nest
        if nest.kind != "pointwise" or len(nest.phases) != 1 or not nest.phases[0].inner or not nest.outer:
            return None
        inner = nest.phases[0].inner[0]
        found: dict[Expr, dict[tuple[Buffer, Expr], None]] = {}
        for m in self.group.members:
            for a in m.reads:
                if a.masked or not a.affine or a.buffer in nest.row_buffers or a.buffer in self.group.writes():
                    continue
                index = nest.index(m, a.index)
                step = coefficient(index, inner)
                if step is None or step is ZERO or (step.is_const and abs(step.const) < _MIN_STRIDE):
                    continue
                for u in nest.outer:
                    if coefficient(index, u) is ONE:
                        found.setdefault(u, {})[a.buffer, index] = None
        for u, loads in found.items():
            if all(self.graph.evaluate(nest.sizes[v]) >= 8 for v in (u, inner)):
                return u, list(loads)
        return None

    def _transposing(self, along: Expr, loads: list[tuple[Buffer, Expr]]) -> None:
        """Tiles of 16 x 64: the loads that run across are turned in registers into a small block first."""
        nest, h = self.nest, self.handler
        phase = nest.phases[0]
        inner = phase.inner[0]
        others = [v for v in nest.outer if v is not along]
        self._parallel([*others, along, inner])
        for v in others:
            self.loop(v)
        nu, nv = self.expr(nest.sizes[along]), self.expr(nest.sizes[inner])
        self.open(f"for (i64 u0_ = 0; u0_ < {nu}; u0_ += {_TILE_U})")
        self.indent -= 1
        self.open(f"for (i64 v0_ = 0; v0_ < {nv}; v0_ += {_TILE_V})")
        at = self._bad_begin()
        self.put(f"const i64 nu_ = lm_imin({_TILE_U}, {nu} - u0_), nv_ = lm_imin({_TILE_V}, {nv} - v0_);")
        names = self.loop_names[along], self.loop_names[inner]
        self.loop_names[along], self.loop_names[inner] = "u0_", "v0_"
        for k, (b, index) in enumerate(loads):
            self.put(f"{STORAGE[b.dtype]} turn{k}[{_TILE_U * _TILE_V}] __attribute__((aligned(64)));")
            self.put(f"lm_tile(turn{k}, {_TILE_V}, {self.pointer(b)} + {self.expr(index)}, {self.expr(coefficient(index, inner))}, nu_, nv_);")
            self.turned[b, index] = f"turn{k}"
        self.loop_names[along], self.loop_names[inner] = "(u0_ + u_)", "(v0_ + v_)"
        h.begin_phase(self._levels([along, inner]))
        self._record(Phase([along, inner], phase.members), 2)
        self._flush(0)
        self.open("for (i64 u_ = 0; u_ < nu_; u_++)")
        self._flush(1)
        self.put(f"#pragma omp simd{' reduction(|:bad)' if h.uses_errors and h.error_level == 2 else ''}")
        self.open("for (i64 v_ = 0; v_ < nv_; v_++)")
        self._flush(2)
        self.close(2)
        self._bad_end(at)
        self.close()
        self.indent += 1
        self.close(len(others) + 1)
        self.loop_names[along], self.loop_names[inner] = names

    # -- pointwise and rows ------------------------------------------------------------------------------------------------------------
    def _rows(self) -> None:
        nest = self.nest
        across = self._transposed()
        if across is not None:
            self._transposing(*across)
            return
        few = self._few_outer()
        if nest.outer and not few:
            self._parallel(nest.outer)
        for v in nest.outer:
            self.loop(v)
        at = self._bad_begin()
        self._row_declarations()
        for phase in nest.phases:
            self._phase(phase, split=few or not nest.outer)
        self._bad_end(at)
        self.close(len(nest.outer))

    def _few_outer(self) -> bool:
        n = self.nest.points(self.nest.outer)
        return self.graph.evaluate(n) < 2 * config.threads_hint

    def _levels(self, variables: list[Expr]) -> Any:
        place = {v: k + 1 for k, v in enumerate(variables)}
        return lambda s: place.get(s, 0)

    def _record(self, phase: Phase, depth: int) -> list[tuple[LoopNode, Accumulator, CVal]]:
        """Replay the members of a phase into `handler.lines`; reductions are returned with their value."""
        found: list[tuple[LoopNode, Accumulator, CVal]] = []
        for m in phase.members:
            value = self._body(m)
            e = m.effect
            if isinstance(e, Store):
                index = self._target_index(m)
                value = self.handler.convert(value, e.buffer.dtype)
                self.forward[e.buffer, index] = value
                self._store(e.buffer, index, value, depth)
            else:
                assert isinstance(e, Reduce)
                kind = {"argmax": "amax", "argmin": "amin"}.get(e.kind, e.kind)
                acc = make_accumulator(kind, value.dtype, self.handler.fresh("r"))
                found.append((m, acc, value))
        return found

    def _target_index(self, m: LoopNode) -> Expr:
        return self.nest.index(m, m.effect.index)

    def _body(self, m: LoopNode) -> Any:
        """Value of the member's body over the C++ handler."""
        def load(v: Any, index: Expr, mask: Any) -> Any:
            found = self.forward.get((v.args[0], index))
            return found

        return replay(m.roots(), m.indirects, lambda e: self.nest.index(m, e), load)[-1]

    def _store(self, buffer: Buffer, index: Expr, value: CVal, level: int) -> None:
        text = store_text(value.text, buffer.dtype)
        if buffer in self.nest.row_buffers:
            self.handler.emit(level, f"{self._row_name(buffer)}[{self.expr(self.nest.row_index(buffer, index))}] = {text};")
        elif buffer in self.nest.memory:
            self.handler.emit(level, f"{self.pointer(buffer, write=True)}[{self.expr(index)}] = {text};")

    def _phase(self, phase: Phase, *, split: bool) -> None:
        h = self.handler
        h.begin_phase(self._levels(phase.inner))
        self.forward = {k: v for k, v in self.forward.items() if v.level == 0}
        depth = len(phase.inner)
        reductions = self._record(phase, depth)
        if not depth:
            self._flush(0)
            assert not reductions
            return
        self._flush(0)
        big = self._is_big(phase)
        blocked = split and big and bool(reductions) and not any(m.effect.kind.startswith("arg") for m, _, _ in reductions)  # type: ignore[union-attr]
        totals = [a for _, a, _ in reductions]
        for a in totals:
            for t in a.total:
                self.put(t)
        if blocked:
            self._blocks(phase, reductions)
        else:
            self._nest(phase.inner, reductions, parallel=split and big and not reductions)
        self._results(phase, reductions)

    def _is_big(self, phase: Phase) -> bool:
        cost = sum(max(m.cost, 1) for m in phase.members)
        return self.graph.evaluate(self.nest.points(phase.inner)) * cost >= 2 * config.parallel_cycles

    def _flush(self, level: int) -> None:
        for t in self.handler.lines.pop(level, ()):
            self.put(t)

    def _nest(self, inner: list[Expr], reductions: list, *, parallel: bool = False, bounds: tuple[str, str] | None = None) -> None:
        """The loops of a phase around the recorded lines; the last one is a vectorised run."""
        h = self.handler
        for k, v in enumerate(inner[:-1]):
            if k == 0 and parallel:
                self._bad_private(h, reductions)
            if k == 0 and bounds is not None:
                self.loop(v, lo=bounds[0], hi=bounds[1])
            else:
                self.loop(v)
            self._flush(k + 1)
        self._run(inner[-1], len(inner), reductions, parallel=parallel and len(inner) == 1, bounds=bounds if len(inner) == 1 else None)
        self.close(len(inner) - 1)

    def _bad_private(self, h: CHandler, reductions: list) -> None:
        self.put(f"#pragma omp parallel for schedule(static){' reduction(|:bad)' if h.uses_errors else ''}")

    def _run(self, var: Expr, level: int, reductions: list, *, parallel: bool, bounds: tuple[str, str] | None) -> None:
        """The innermost loop: vectorised, in runs when something accumulates."""
        h, size = self.handler, self.nest.sizes[var]
        name = self.loop_names[var]
        lines = h.lines.pop(level, [])
        has_bad = h.uses_errors and h.error_level == level
        clauses = " reduction(|:bad)" if has_bad else ""
        lo, hi = bounds or ("0", self.expr(size))
        if not reductions:
            self.put(f"#pragma omp {'parallel for simd schedule(static)' if parallel else 'simd'}{clauses}")
            self.open(f"for (i64 {name} = {lo}; {name} < {hi}; {name}++)")
            for t in lines:
                self.put(t)
            self.close()
            return
        welford = any(m.effect.kind == "welford" for m, _, _ in reductions)
        run = WELFORD_RUN if welford else RUN
        chunked = bounds is not None or not size.is_const or size.const > run
        start, stop = (f"{name}b", f"{name}e") if chunked else (lo, hi)
        if chunked:
            self.open(f"for (i64 {start} = {lo}; {start} < {hi}; {start} += {run})")
            self.put(f"i64 {stop} = lm_imin({start} + {run}, {hi});")
        else:
            self.open("")
        for m, a, v in reductions:
            for t in a.run:
                self.put(t)
            if m.effect.kind == "welford":
                span = run if chunked else size.const
                self.put(f"{COMPUTE[v.dtype]} w_{_acc_name(a)}[{span}] __attribute__((aligned(64)));")
            clauses += " " + a.clause
        self.put(f"#pragma omp simd{clauses}")
        self.open(f"for (i64 {name} = {start}; {name} < {stop}; {name}++)")
        for t in lines:
            self.put(t)
        for _, a, v in reductions:
            self.put(a.step.format(v=v.text, i=f"{name} - {start}"))
        self.close()
        for _, a, _ in reductions:
            for t in a.fold:
                self.put(t.replace("{len}", f"({stop} - {start})") if "{len}" in t else t)
        self.close()

    def _blocks(self, phase: Phase, reductions: list) -> None:
        """A reduction without outer loops, in a fixed number of blocks that threads share; the blocks are folded in order."""
        first = phase.inner[0]
        n = self.expr(self.nest.sizes[first])
        parts = [(c, name) for _, a, _ in reductions for c, name in a.parts]
        for c, name in parts:
            self.put(f"{c} B_{name}[{_BLOCKS}];")
        bad = " reduction(|:bad)" if self.handler.uses_errors else ""
        self.put(f"#pragma omp parallel for schedule(static){bad}")
        self.open(f"for (i64 b_ = 0; b_ < {_BLOCKS}; b_++)")
        for _, a, _ in reductions:
            for t in a.total:
                self.put(t)
        self.put(f"i64 lo_ = {n} * b_ / {_BLOCKS}, hi_ = {n} * (b_ + 1) / {_BLOCKS};")
        self._nest(phase.inner, reductions, bounds=("lo_", "hi_"))
        for _, name in parts:
            self.put(f"B_{name}[b_] = {name};")
        self.close()
        self.open(f"for (i64 b_ = 0; b_ < {_BLOCKS}; b_++)")
        for c, name in parts:
            self.put(f"{c} q_{name} = B_{name}[b_];")
        for _, a, _ in reductions:
            for t in a.merge:
                self.put(t.format(p="q_"))
        self.close()

    def _results(self, phase: Phase, reductions: list) -> None:
        """Results become row-level values; argmax and argmin look for the position in a second pass."""
        h = self.handler
        for m, a, v in reductions:
            e = m.effect
            index = self._target_index(m)
            if e.kind in ("argmax", "argmin"):
                self._position(phase, m, a)
                values = [CVal(f"pos_{_acc_name(a)}", e.buffers[0].dtype, 0)]
            else:
                values = [CVal(t, v.dtype, 0) for t in a.results]
            for b, val in zip(e.buffers, values, strict=True):
                h.lines = {}
                named = val if val.text.isidentifier() else h._temp(val.text, val.dtype, 0)
                converted = h.convert(named, b.dtype)
                self.forward[b, index] = converted
                if b in self.nest.memory:
                    h.emit(0, f"{self.pointer(b, write=True)}[{self.expr(index)}] = {store_text(converted.text, b.dtype)};")
                self._flush(0)

    def _position(self, phase: Phase, m: LoopNode, a: Accumulator) -> None:
        h = self.handler
        h.begin_phase(self._levels(phase.inner))
        self.forward = {k: v for k, v in self.forward.items() if v.level == 0}
        value = self._body(m)
        position = self.expr(self.nest.index(m, m.effect.position))  # type: ignore[union-attr, arg-type]
        best, top = f"pos_{_acc_name(a)}", f"A_{_acc_name(a)}"
        h.emit(len(phase.inner), f"if (({value.text} == {top}) | ({value.text} != {value.text})) {best} = lm_imin({best}, {position});")
        self.put(f"i64 {best} = 9223372036854775807L;")
        self._flush(0)
        for k, v in enumerate(phase.inner):
            if k == len(phase.inner) - 1:
                self.put(f"#pragma omp simd reduction(min:{best}){' reduction(|:bad)' if h.uses_errors else ''}")
            self.loop(v)
            self._flush(k + 1)
        self.close(len(phase.inner))

    # -- columns ----------------------------------------------------------------------------------------------------------------------------
    def _columns(self) -> None:
        """Reductions over strided dimensions. Wide results: a tile of neighbouring columns per thread, rows streamed through it. Tall inputs: blocks of
        whole rows per thread, in a fixed number, folded in order."""
        nest, h = self.nest, self.handler
        lane, others, rows = nest.outer[-1], nest.outer[:-1], nest.phases[0].inner
        size = nest.sizes[lane]
        name = self.loop_names[lane]
        tall = self._is_tall(lane, others, rows)
        self.tile = size.const if tall else _COLUMN_TILE
        if not tall:
            self._parallel([*others, lane])
            for v in others:
                self.loop(v)
            self.open(f"for (i64 tile_ = 0; tile_ < (({self.expr(size)} + {self.tile - 1}) / {self.tile}); tile_++)")
        at = self._bad_begin()
        self.put("const i64 c0_ = 0;" if tall else f"i64 c0_ = tile_ * {self.tile};")
        whole = size.is_const and size.const % self.tile == 0
        self.put(f"const i64 cn_ = {self.tile};" if whole else f"i64 cn_ = lm_imin({self.tile}, {self.expr(size)} - c0_);")
        self.loop_names[lane] = "(c0_ + l_)"
        h.begin_phase(self._levels([*rows, lane]))
        reductions = self._record(Phase([*rows, lane], nest.phases[0].members), len(rows) + 1)
        self._flush(0)
        if tall:
            self._column_blocks(rows, reductions)
        else:
            for _, a, _ in reductions:
                for t in _lane_state(a, self.tile):
                    self.put(t)
            self._column_rows(rows, reductions, None)
        h.begin_phase(self._levels([lane]))
        self.forward = {}
        for m, a, v in reductions:
            index = self._target_index(m)
            for b, text in zip(m.effect.buffers, a.results, strict=True):
                named = h._temp(_lanes(text, a), v.dtype, 1)
                converted = h.convert(named, b.dtype)
                self.forward[b, index] = converted
                if b in nest.memory:
                    h.emit(1, f"{self.pointer(b, write=True)}[{self.expr(index)}] = {store_text(converted.text, b.dtype)};")
        for phase in nest.phases[1:]:
            self._record(phase, 1)
        self._flush(0)
        self.put(f"#pragma omp simd{' reduction(|:bad)' if h.uses_errors and h.error_level == 1 else ''}")
        self.open("for (i64 l_ = 0; l_ < cn_; l_++)")
        self._flush(1)
        self.close()
        self._bad_end(at)
        self.loop_names[lane] = name
        self.close(0 if tall else len(others) + 1)

    def _is_tall(self, lane: Expr, others: list[Expr], rows: list[Expr]) -> bool:
        size = self.nest.sizes[lane]
        if others or not size.is_const or size.const > _TALL_COLUMNS:
            return False
        n = self.graph.evaluate(self.nest.points(rows))
        return n >= 4 * _TALL_BLOCKS and (n >= 4 * size.const or size.const < 4 * _COLUMN_TILE)

    def _column_blocks(self, rows: list[Expr], reductions: list) -> None:
        n = self.expr(self.nest.sizes[rows[0]])
        parts = [(c, name) for _, a, _ in reductions for c, name in a.parts]
        for c, name in parts:
            self.put(f"{c} B_{name}[{_TALL_BLOCKS}][{self.tile}] __attribute__((aligned(64)));")
        cycles = self.nest.cycles()
        if not cycles.is_const or cycles.const >= config.parallel_cycles:
            self.put(f"#pragma omp parallel for schedule(static){' reduction(|:bad)' if self.handler.uses_errors else ''}")
        self.open(f"for (i64 b_ = 0; b_ < {_TALL_BLOCKS}; b_++)")
        for _, a, _ in reductions:
            for t in _lane_state(a, self.tile):
                self.put(t)
        self.put(f"i64 lo_ = {n} * b_ / {_TALL_BLOCKS}, hi_ = {n} * (b_ + 1) / {_TALL_BLOCKS};")
        self._column_rows(rows, reductions, ("lo_", "hi_"))
        for _, name in parts:
            self.put(f"for (i64 l_ = 0; l_ < cn_; l_++) B_{name}[b_][l_] = {name}[l_];")
        self.close()
        for _, a, _ in reductions:
            for t in _lane_state(a, self.tile):
                self.put(t)
        self.open(f"for (i64 b_ = 0; b_ < {_TALL_BLOCKS}; b_++)")
        for c, name in parts:
            self.put(f"{c}* q_{name} = B_{name}[b_];")
        for _, a, _ in reductions:
            for t in a.merge:
                self.put(f"for (i64 l_ = 0; l_ < cn_; l_++) {{ {_lanes(t.format(p='q_'), a)} }}")
        self.close()

    def _column_rows(self, rows: list[Expr], reductions: list, bounds: tuple[str, str] | None) -> None:
        h, depth, tile = self.handler, len(rows) + 1, self.tile
        for k, v in enumerate(rows[:-1]):
            if k == 0 and bounds is not None:
                self.loop(v, lo=bounds[0], hi=bounds[1])
            else:
                self.loop(v)
            self._flush(k + 1)
        last = rows[-1]
        name, n, first = self.loop_names[last], self.expr(self.nest.sizes[last]), "0"
        if bounds is not None and len(rows) == 1:
            first, n = bounds
        self.open(f"for (i64 rb_ = {first}; rb_ < {n}; rb_ += {_COLUMN_ROWS})")
        self.put(f"i64 re_ = lm_imin(rb_ + {_COLUMN_ROWS}, {n});")
        for m, a, v in reductions:
            c = COMPUTE[v.dtype]
            if m.effect.kind == "welford":
                self.put(f"{c} w_{_acc_name(a)}[{_COLUMN_ROWS}][{tile}] __attribute__((aligned(64))), s_{_acc_name(a)}[{tile}] __attribute__((aligned(64))) = {{}};")
            for t in a.run:
                kind, var, start = _declaration(t)
                self.put(f"{kind} {var}[{tile}] __attribute__((aligned(64))); for (i64 l_ = 0; l_ < {tile}; l_++) {var}[l_] = {start};")
        self.open(f"for (i64 {name} = rb_; {name} < re_; {name}++)")
        self._flush(len(rows))
        bad = " reduction(|:bad)" if h.uses_errors and h.error_level == depth else ""
        self.put(f"#pragma omp simd{bad}")
        self.open("for (i64 l_ = 0; l_ < cn_; l_++)")
        self._flush(depth)
        for m, a, v in reductions:
            if m.effect.kind == "welford":
                self.put(f"s_{_acc_name(a)}[l_] += {v.text}; w_{_acc_name(a)}[{name} - rb_][l_] = {v.text};")
            else:
                var = _declaration(a.run[0])[1]
                self.put(a.step.format(v=v.text, i="0").replace(var, f"{var}[l_]"))
        self.close(2)
        for m, a, v in reductions:
            if m.effect.kind == "welford":
                moments = ", ".join(part for _, part in a.parts)
                self.put(f"lm_column_moments(w_{_acc_name(a)}, re_ - rb_, cn_, s_{_acc_name(a)}, {moments});")
            else:
                var = _declaration(a.run[0])[1]
                self.put("#pragma omp simd")
                self.put(f"for (i64 l_ = 0; l_ < cn_; l_++) {_lanes(a.fold[0].replace(var, f'{var}[l_]'), a)}")
        self.close(len(rows))

    # -- scans and scatters ----------------------------------------------------------------------------------------------------------------------
    def _scan(self) -> None:
        nest, h = self.nest, self.handler
        node = nest.phases[0].members[0]
        e = node.effect
        assert isinstance(e, Scan)
        var = nest.phases[0].inner[0] if nest.phases[0].inner else None
        if nest.outer and not self._few_outer():
            self._parallel(nest.outer)
        for v in nest.outer:
            self.loop(v)
        at = self._bad_begin()
        h.begin_phase(self._levels([var] if var is not None else []))
        value = self._body(node)
        depth = 1 if var is not None else 0
        begin, step, result = scan_text(e.kind, value.text, e.value.dtype, self.expr(var) if var is not None else "0")
        h.emit(depth, step)
        h.emit(depth, f"{self.pointer(e.buffer, write=True)}[{self.expr(self._target_index(node))}] = {store_text(result, e.buffer.dtype)};")
        self.put(begin)
        self._flush(0)
        if var is not None:
            self.loop(var)
            self._flush(1)
            self.close()
        self._bad_end(at)
        self.close(len(nest.outer))

    def _scatter(self) -> None:
        """In loop order on one thread where points may collide; neighbouring elements of one place are vectorised."""
        nest, h = self.nest, self.handler
        node = nest.phases[0].members[0]
        e = node.effect
        assert isinstance(e, Scatter)
        loops = list(nest.outer)
        at = self._bad_begin()
        h.begin_phase(self._levels(loops))
        hidden = node.roots()
        found = replay(hidden, node.indirects, lambda x: nest.index(node, x))
        names = {s: r for s, r in ((s, found[hidden.index(node.indirects[s])]) for s in e.index.free_symbols if s in node.indirects)}
        index = nest.index(node, e.index.subs(names))
        value = found[-1]
        depth = len(loops)
        at_text = f"{self.pointer(e.buffer, write=True)}[{self.expr(index)}]"
        c = COMPUTE[e.buffer.dtype]
        combined = {"set": value.text, "add": f"{at_text} + {value.text}", "mul": f"{at_text} * {value.text}",
                    "amax": f"lm_max<{c}>({at_text}, {value.text})", "amin": f"lm_min<{c}>({at_text}, {value.text})"}[e.mode]
        h.emit(depth, f"{at_text} = {store_text(combined, e.buffer.dtype)};")
        self._flush(0)
        for k, v in enumerate(loops):
            if k == depth - 1 and self._lanes_differ(index, v):
                self.put(f"#pragma omp simd{' reduction(|:bad)' if h.uses_errors and h.error_level == depth else ''}")
            self.loop(v)
            self._flush(k + 1)
        self.close(depth)
        self._bad_end(at)

    def _lanes_differ(self, index: Expr, var: Expr) -> bool:
        """Do neighbouring points of `var` go to different places whatever was loaded?"""
        if any(self.handler.indirect_level.get(s, 0) >= len(self.nest.outer) for s in index.free_symbols):
            return False
        c = coefficient(index, var)
        return c is not None and c is not ZERO


class _KernelText(ExprText):
    """Index expressions of a kernel. What depends on sizes alone is a parameter, computed once by the caller: shorter text, and kernels that differ in it only are one."""

    def __init__(self, writer: _Writer) -> None:
        super().__init__({}, writer.nest.ranges)  # names of indirect positions
        self.writer = writer

    def _varies(self, e: Expr) -> bool:
        return any(s in self.writer.loop_names or s in self.names for s in e.free_symbols)

    def __call__(self, e: Expr | int) -> str:
        if isinstance(e, int) or e.is_const or self._varies(e):
            return super().__call__(e)
        return self.writer.symbols.setdefault(e, f"s{len(self.writer.symbols)}")

    def visit_symbol(self, symbol: Any) -> str:
        return self.writer.loop_names.get(symbol) or self.names[symbol]

    def visit_sum(self, terms: Any, const: int) -> str:
        fixed = [t for t in terms if not self._varies(t[0])]
        if len(fixed) > 1:
            terms = [*(t for t in terms if self._varies(t[0])), (sum((e * c for e, c in fixed), ZERO), 1)]
        return super().visit_sum(terms, const)

    def visit_product(self, factors: Any) -> str:
        fixed = [f for f in factors if not self._varies(f)]
        return super().visit_product([*(f for f in factors if self._varies(f)), math.prod(fixed, start=ONE)] if fixed else factors)


def _acc_name(a: Accumulator) -> str:
    return a.parts[0][1].split("_", 1)[1]


def _declaration(text: str) -> tuple[str, str, str]:
    """(type, name, start) of `type name = start;`"""
    left, start = text.rstrip(";").split(" = ", 1)
    kind, name = left.rsplit(" ", 1)
    return kind, name, start


def _lanes(text: str, a: Accumulator) -> str:
    """The text with every part of the accumulator's state indexed by lane."""
    for _, part in a.parts:
        text = text.replace(part, f"{part}[l_]")
    return text


def _lane_state(a: Accumulator, tile: int) -> list[str]:
    """Arrays, one element per lane, for the state between runs."""
    out = []
    for t in a.total:
        first, *others = t.rstrip(";").split(", ")
        kind, name, start = _declaration(first)
        for name, start in [(name, start), *(o.split(" = ", 1) for o in others)]:
            out.append(f"{kind} {name}[{tile}] __attribute__((aligned(64))); for (i64 l_ = 0; l_ < {tile}; l_++) {name}[l_] = {start};")
    return out

