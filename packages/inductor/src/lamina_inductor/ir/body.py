"""Bodies: the recorded form of a loop body, a hash-consed graph of scalar ops, and replay over any handler.

Between: Python functions over `ops` (lowering) -> analyses, fusion and C++ text, which replay the record.
Keeps:   operands precede users; equal ops on equal operands are one `Val`; a load or an indirect index inside `masked` carries its mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lamina_dynshape.expr import Expr, symbol
from lamina_dynshape.support.errors import InternalError

from .buffers import Buffer
from .ops import OPS, ops

__all__ = ["Recorder", "Val", "loads_of", "replay", "topological"]


class Val:
    """One recorded scalar op. `args` holds `Val`s, `Expr`s, a `Buffer`, numbers or a dtype, by the op's signature."""

    __slots__ = ("args", "dtype", "number", "op")

    def __init__(self, op: str, args: tuple, dtype: torch.dtype, number: int) -> None:
        self.op, self.args, self.dtype, self.number = op, args, dtype, number

    def operands(self) -> list[Val]:
        return [a for a in self.args if isinstance(a, Val)]

    def __repr__(self) -> str:
        return f"tmp{self.number}"


def _key(a: Any) -> Any:
    if isinstance(a, Val):
        return ("v", a.number)
    if isinstance(a, float):
        return ("f", math.copysign(1.0, a), repr(a))
    if isinstance(a, Buffer):
        return ("b", id(a))
    return (type(a), a)


def result_dtype(name: str, operands: Sequence[Val]) -> torch.dtype:
    """Dtype of a table op; raises `InternalError` when the operands break its rule."""
    info = OPS[name]
    if len(operands) != info.arity:
        raise InternalError(f"ops.{name} takes {info.arity} operands, got {len(operands)}")
    first = operands[0].dtype
    if any(o.dtype != first for o in operands):
        raise InternalError(f"ops.{name}: operands have {', '.join(str(o.dtype)[6:] for o in operands)}; convert first")
    if info.rule == "float" and not first.is_floating_point:
        raise InternalError(f"ops.{name} needs a floating type, got {first}")
    if info.rule == "int" and first.is_floating_point:
        raise InternalError(f"ops.{name} needs an integer type, got {first}")
    return torch.bool if info.rule == "bool" else first


class Recorder:
    """Handler that records `Val`s. `memo` lets lazily inlined producers be recorded once per (producer, index)."""

    def __init__(self) -> None:
        self._seen: dict[tuple, Val] = {}
        self.memo: dict[tuple, Val] = {}
        self.indirects: dict[Expr, Val] = {}  # index symbol -> the value that it stands for
        self._mask: Val | None = None
        self._count = 0

    def _make(self, op: str, args: tuple, dtype: torch.dtype) -> Val:
        key = (op, dtype, tuple(map(_key, args)))
        found = self._seen.get(key)
        if found is None:
            found = self._seen[key] = Val(op, args, dtype, self._count)
            self._count += 1
        return found

    def op(self, name: str, *args: Val) -> Val:
        return self._make(name, args, result_dtype(name, args))

    def where(self, cond: Val, a: Val, b: Val) -> Val:
        if cond.dtype != torch.bool or a.dtype != b.dtype:
            raise InternalError(f"ops.where(bool, a, b): got {cond.dtype}, {a.dtype}, {b.dtype}")
        return a if a is b else self._make("where", (cond, a, b), a.dtype)

    def constant(self, value: Any, dtype: torch.dtype) -> Val:
        if dtype.is_floating_point:
            value = float(value)
        elif dtype == torch.bool:
            value = bool(value)
        else:
            value = int(value)
        return self._make("constant", (value, dtype), dtype)

    def index_expr(self, e: Expr, dtype: torch.dtype) -> Val:
        return self.constant(e.const, dtype) if e.is_const else self._make("index_expr", (e, dtype), dtype)

    def convert(self, a: Val, dtype: torch.dtype) -> Val:
        return a if a.dtype == dtype else self._make("convert", (a, dtype), dtype)

    def bitcast(self, a: Val, dtype: torch.dtype) -> Val:
        return a if a.dtype == dtype else self._make("bitcast", (a, dtype), dtype)

    def load(self, buffer: Buffer, index: Expr) -> Val:
        return self.load_masked(buffer, index, self._mask)

    def load_masked(self, buffer: Buffer, index: Expr, mask: Val | None) -> Val:
        return self._make("load", (buffer, index, mask), buffer.dtype)

    def indirect(self, a: Val, size: Expr) -> Expr:
        return self.indirect_masked(a, size, self._mask)

    def indirect_masked(self, a: Val, size: Expr, mask: Val | None) -> Expr:
        value = self._make("indirect", (a, size, mask), torch.int64)
        name = symbol(f"ind{value.number}")
        self.indirects[name] = value
        return name

    def masked(self, cond: Val, body: Callable[[], Val], other: Any) -> Val:
        saved = self._mask
        self._mask = cond if saved is None else self.op("logical_and", saved, cond)
        memo, self.memo = self.memo, {}  # what is recorded under a mask must not be shared with what is not
        try:
            value = body()
        finally:
            self._mask, self.memo = saved, memo
        return self.where(cond, value, self.constant(other, value.dtype))


def topological(roots: Iterable[Val], indirects: dict[Expr, Val]) -> list[Val]:
    """The values that `roots` need, operands first (values behind index symbols included)."""
    order: list[Val] = []
    done: set[Val] = set()
    stack: list[tuple[Val, bool]] = [(r, False) for r in reversed(list(roots))]
    while stack:
        v, ready = stack.pop()
        if v in done:
            continue
        if ready:
            done.add(v)
            order.append(v)
            continue
        stack.append((v, True))
        for d in reversed(dependencies(v, indirects)):
            if d not in done:
                stack.append((d, False))
    return order


def dependencies(v: Val, indirects: dict[Expr, Val]) -> list[Val]:
    """Values that `v` needs: operands, and the values behind the symbols of its indices."""
    out = []
    for a in v.args:
        if isinstance(a, Val):
            out.append(a)
        elif indirects and isinstance(a, Expr):
            out.extend(sorted((indirects[s] for s in a.free_symbols if s in indirects), key=lambda x: x.number))  # sets have no order of their own
    return out


def loads_of(roots: Iterable[Val], indirects: dict[Expr, Val]) -> list[Val]:
    return [v for v in topological(roots, indirects) if v.op == "load"]


def replay(roots: Sequence[Val], indirects: dict[Expr, Val], index: Callable[[Expr], Expr], load: Callable[[Val, Expr, Any], Any] | None = None) -> list[Any]:
    """Run recorded values over the installed handler.

    `index` rewrites index expressions (renaming loop variables); `load(v, index, mask)` may replace a load (None: `ops.load`). Masks are passed as recorded.
    """
    env: dict[Val, Any] = {}
    names: dict[Expr, Expr] = {}
    back: dict[Val, list[Expr]] = {}
    for s, v in indirects.items():
        back.setdefault(v, []).append(s)

    def rewrite(e: Expr) -> Expr:
        hit = {s: names[s] for s in e.free_symbols if s in names} if names else None
        return index(e.subs(hit) if hit else e)

    handler = ops.handler
    for v in topological(roots, indirects):
        a = v.args
        if v.op == "load":
            mask = env[a[2]] if a[2] is not None else None
            i = rewrite(a[1])
            out = load(v, i, mask) if load is not None else None
            if out is None:
                out = handler.load_masked(a[0], i, mask)
        elif v.op == "indirect":
            mask = env[a[2]] if a[2] is not None else None
            e = handler.indirect_masked(env[a[0]], rewrite(a[1]), mask)
            for s in back.get(v, ()):
                names[s] = e
            out = e
        elif v.op == "constant":
            out = handler.constant(*a)
        elif v.op == "index_expr":
            out = handler.index_expr(rewrite(a[0]), a[1])
        elif v.op in ("convert", "bitcast"):
            out = getattr(handler, v.op)(env[a[0]], a[1])
        elif v.op == "where":
            out = handler.where(env[a[0]], env[a[1]], env[a[2]])
        else:
            out = handler.op(v.op, *[env[x] for x in a])
        env[v] = out
    return [env[r] for r in roots]

