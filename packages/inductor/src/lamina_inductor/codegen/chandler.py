"""The handler that turns loop bodies into C++ statements placed at the loop level where their operands are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lamina_dynshape.expr import Expr, symbol

from ..ir.buffers import Buffer
from . import ctext
from .ctext import COMPUTE, ExprText

__all__ = ["CHandler", "CVal"]

_DIVIDES = ("floordiv", "truncdiv", "remainder", "fmod")


@dataclass(frozen=True)
class CVal:
    """A C++ expression (a name or a literal), its dtype, and the loop level at which it may be used (0: outside the phase's loops)."""

    text: str
    dtype: torch.dtype
    level: int


class CHandler:
    """`lines[level]` collects statements; `level_of` gives the level of a loop variable; `load_from(buffer, index)` the element's text."""

    def __init__(self, expr: ExprText, level_of: Callable[[Expr], int], element: Callable[[Buffer, Expr], str]) -> None:
        self.expr, self.level_of, self.element = expr, level_of, element
        self.lines: dict[int, list[str]] = {}
        self.names: dict[tuple, CVal] = {}
        self.indirect_level: dict[Expr, int] = {}
        self.uses_errors = False
        self.error_level = 0
        self._count = 0

    def begin_phase(self, level_of: Callable[[Expr], int]) -> None:
        """Forget what was computed inside loops; what stands outside stays visible."""
        self.level_of = level_of
        self.lines = {}
        self.names = {k: v for k, v in self.names.items() if v.level == 0}
        self.error_level = 0

    def fresh(self, prefix: str = "t") -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def emit(self, level: int, text: str) -> None:
        self.lines.setdefault(level, []).append(text)

    def _temp(self, text: str, dtype: torch.dtype, level: int) -> CVal:
        key = (text, dtype)
        found = self.names.get(key)
        if found is None:
            name = self.fresh()
            self.emit(level, f"{COMPUTE[dtype]} {name} = {text};")
            found = self.names[key] = CVal(name, dtype, level)
        return found

    def index_level(self, e: Expr) -> int:
        level = 0
        for s in e.free_symbols:
            level = max(level, self.indirect_level[s] if s in self.indirect_level else self.level_of(s))
        return level

    # -- the protocol ------------------------------------------------------------------------------------------------------------
    def op(self, name: str, *args: CVal) -> CVal:
        from ..ir.ops import OPS
        dtype = args[0].dtype
        level = max(a.level for a in args)
        texts = [a.text for a in args]
        if name in _DIVIDES and not dtype.is_floating_point:
            texts[1] = self._nonzero(args[1], level)
        out = torch.bool if OPS[name].rule == "bool" else dtype
        return self._temp(ctext.op_text(name, dtype, texts), out, level)

    def _nonzero(self, divisor: CVal, level: int) -> str:
        if divisor.text.lstrip("-").rstrip("L").isdigit():
            return divisor.text if int(divisor.text.rstrip("L")) else "1"
        self._error(level, f"{divisor.text} == 0", 2)
        return self._temp(f"({divisor.text} == 0 ? ({COMPUTE[divisor.dtype]})1 : {divisor.text})", divisor.dtype, level).text

    def _error(self, level: int, text: str, code: int = 1) -> None:
        self.uses_errors = True
        self.error_level = max(self.error_level, level)
        self.emit(level, f"bad |= ({text}) ? {code}L : 0L;")

    def where(self, cond: CVal, a: CVal, b: CVal) -> CVal:
        return self._temp(f"{cond.text} ? {a.text} : {b.text}", a.dtype, max(cond.level, a.level, b.level))

    def constant(self, value: Any, dtype: torch.dtype) -> CVal:
        return CVal(ctext.constant(value, dtype), dtype, 0)

    def index_expr(self, e: Expr, dtype: torch.dtype) -> CVal:
        text = ctext.convert_text(self.expr(e), torch.int64, dtype)
        return self._temp(text, dtype, self.index_level(e))

    def convert(self, a: CVal, dtype: torch.dtype) -> CVal:
        if a.dtype == dtype:
            return a
        return self._temp(ctext.convert_text(a.text, a.dtype, dtype), dtype, a.level)

    def bitcast(self, a: CVal, dtype: torch.dtype) -> CVal:
        from .ctext import STORAGE
        text = a.text
        if a.dtype in (torch.bfloat16, torch.float16):
            text = ctext.store_text(text, a.dtype)
        text = f"lm_bits<{STORAGE[dtype]}>({text})"
        if dtype == torch.bfloat16:
            text = f"lm_bf16({text})"
        return self._temp(text, dtype, a.level)

    def load_masked(self, buffer: Buffer, index: Expr, mask: CVal | None) -> CVal:
        level = self.index_level(index)
        text = self.element(buffer, index)
        if mask is not None:
            level = max(level, mask.level)
            text = f"{mask.text} ? {text} : ({COMPUTE[buffer.dtype]})0"
        return self._temp(text, buffer.dtype, level)

    def indirect_masked(self, a: CVal, size: Expr, mask: CVal | None) -> Expr:
        level = max(a.level, self.index_level(size), mask.level if mask is not None else 0)
        n = self.expr(size)
        wrapped = self._temp(f"{a.text} + ({a.text} < 0 ? {n} : 0)", torch.int64, level)
        key = ("indirect", wrapped.text, n, mask.text if mask is not None else "")
        found = self.names.get(key)
        if found is None:
            bad = f"((u64){wrapped.text} >= (u64)({n}))"
            self._error(level, f"{bad} & {mask.text}" if mask is not None else bad)
            name = self.fresh("j")
            self.emit(level, f"i64 {name} = {bad} ? 0 : {wrapped.text};")
            found = self.names[key] = CVal(name, torch.int64, level)
        s = symbol("lm_" + found.text)
        self.expr.names[s] = found.text
        self.indirect_level[s] = level
        return s
