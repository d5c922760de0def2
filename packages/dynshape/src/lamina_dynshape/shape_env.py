"""ShapeEnv: owner of symbols, of what is known about them and of the guards that were taken on them.

Between: sizes of input tensors -> symbolic integers in shape rules -> guards of the compiled entry.
Sizes 0 and 1 specialise; equal hints share a symbol (duck sizing); a question that the facts do not decide is answered by the hints
and recorded as a guard, after which it is a fact. Unbacked symbols have no hint: what must hold of them becomes a runtime assertion.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch

from lamina_dynshape import boolean as B
from lamina_dynshape.boolean import BoolExpr
from lamina_dynshape.expr import Expr, Symbol, as_expr, symbol
from lamina_dynshape.facts import Facts, implied
from lamina_dynshape.fake_tensor import DataDependent
from lamina_dynshape.float_expr import FloatRelation, float_const, float_relation, float_symbol
from lamina_dynshape.support.errors import Unsupported, UserError, UserLocation
from lamina_dynshape.sym_node import FloatNode, IntNode, sym_int_of

__all__ = ["DimPolicy", "RuntimeAssert", "ShapeEnv", "ShapeGuard", "StrideBinding", "SymbolInfo"]

UNKNOWN_SIZE = 64  # what a size without bound counts as where costs are compared


class DimPolicy(Enum):
    """What the caller wants of one dimension."""

    STATIC = "static"
    AUTO = "auto"  # symbolic, may be specialised by a guard
    PRESUMED = "presumed"  # the same, of a tensor never seen before: equal only to its like at the same place is no sign that they vary together
    DYNAMIC = "dynamic"  # symbolic; specialising it is an error (mark_dynamic)
    UNBACKED = "unbacked"  # symbolic, and no decision is taken from its value now (mark_unbacked)


@dataclass
class SymbolInfo:
    """What the environment keeps of one symbol. `sources[0]` binds it; every further source must be equal to it at run time."""

    symbol: Symbol
    hint: int | None  # None: unbacked
    sources: list[str] = field(default_factory=list)
    policy: DimPolicy = DimPolicy.AUTO
    low: int | None = None  # range given by the user or by 0/1 specialisation
    high: int | None = None
    value: int | float | None = None  # of an unbacked symbol that is an input all the same

    @property
    def source(self) -> str | None:
        return self.sources[0] if self.sources else None


@dataclass(frozen=True)
class ShapeGuard:
    """A condition that the program's path relied upon; `stack` innermost last, (file, line, function) and perhaps the line's text."""

    expr: BoolExpr
    stack: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return str(self.expr)


@dataclass(frozen=True)
class RuntimeAssert:
    """A condition over unbacked symbols, to be checked when they get their value."""

    expr: BoolExpr
    message: str


@dataclass(frozen=True)
class StrideBinding:
    """Stride (elements) of a symbolic input as assumed: `source` must equal `expr` at run time."""

    source: str
    expr: Any  # int | Expr


class ShapeEnv:
    """See the module. Not thread-safe; one per compilation."""

    def __init__(self, *, duck_sizing: bool = True, specialize_zero_one: bool = True) -> None:
        self.duck_sizing = duck_sizing
        self.specialize_zero_one = specialize_zero_one
        self.symbols: dict[Symbol, SymbolInfo] = {}
        self.facts = Facts()
        self.runtime_asserts: list[RuntimeAssert] = []
        self.strides: list[StrideBinding] = []
        self.specialised: list[tuple[str, int, str]] = []  # (source, value, why): what the caller wanted symbolic and is not
        self.where: Callable[[], tuple[Any, ...]] = _user_stack  # the user's frames now, innermost last
        self.layout_memo: dict[Any, Any] = {}
        self._guards: dict[BoolExpr, ShapeGuard] = {}
        self._by_hint: dict[tuple[int, str | None], Symbol] = {}  # (hint, place of a presumed size) -> symbol that such sizes share
        self._hints: dict[Expr, int] = {}
        self._hint_values: dict[Symbol, int] = {}
        self._symints: dict[Expr, Any] = {}
        self._nodes: dict[Expr, IntNode] = {}
        self._numbers = 0  # symbols that are not sizes of inputs
        self._frozen = False
        self._quiet = 0

    # -- symbols ------------------------------------------------------------------------------------------------------
    def create_number(self, value: Any, source: str) -> Any:
        """A Python integer or (finite) real number from outside, `value` now: it may be any other, and shares no symbol."""
        s = symbol(f"{'z' if type(value) is float else 'n'}{self._numbers}")
        self._numbers += 1
        self.symbols[s] = SymbolInfo(s, value, [source])
        self._hint_values[s] = value
        return torch.SymFloat(FloatNode(float_symbol(s), self)) if type(value) is float else self.sym_int(s)

    def create_symbol(
        self, hint: int, source: str, *, dim_policy: DimPolicy = DimPolicy.AUTO, low: int | None = None, high: int | None = None
    ) -> torch.SymInt | int:
        """A size that is `hint` now and may differ later; the int itself where it specialises (0, 1, STATIC)."""
        if dim_policy is DimPolicy.STATIC or (hint in (0, 1) and self.specialize_zero_one):
            if dim_policy is DimPolicy.DYNAMIC:
                raise UserError(f"{source} is marked dynamic, but its size is {hint}: sizes 0 and 1 are always specialised")
            if dim_policy is not DimPolicy.STATIC:
                self.specialised.append((source, hint, "sizes 0 and 1 are always specialised"))
            return hint
        kind = (hint, source.rpartition(".")[2] if dim_policy is DimPolicy.PRESUMED else None)
        known = self._by_hint.get(kind) if self.duck_sizing else None
        if known is not None and (low, high) == (None, None):
            info = self.symbols[known]
            info.sources.append(source)
            if dim_policy is DimPolicy.DYNAMIC:
                info.policy = dim_policy
            return self.sym_int(known)
        low = max(low or 0, 2) if self.specialize_zero_one else low or 0
        if hint < low or (high is not None and hint > high):
            raise UserError(f"{source} is {hint}, outside of its declared range {low}..{high}")
        s = symbol(f"s{len(self.symbols) - self._numbers}")
        self.symbols[s] = SymbolInfo(s, hint, [source], dim_policy, low, high)
        self._hint_values[s] = hint
        if self.duck_sizing and (low, high) in ((2, None), (0, None)):
            self._by_hint[kind] = s
        self.facts.narrow(s, low, high)
        return self.sym_int(s)

    def create_unbacked(self, low: int | None = None, high: int | None = None) -> torch.SymInt:
        """A value that only the running program knows (`item()`, `nonzero()`)."""
        s = symbol(f"u{self._numbers}")
        self._numbers += 1
        self.symbols[s] = SymbolInfo(s, None, [], DimPolicy.AUTO, low, high)
        if low is not None or high is not None:
            self.facts.narrow(s, low, high)
        return self.sym_int(s)

    def create_unbacked_input(self, value: int | float, source: str, low: int | None = None) -> Any:
        """A number that the caller knows and the program must not rely upon."""
        number = self.create_unbacked(low) if type(value) is int else self.create_unbacked_float()
        info = self.symbols[next(iter(number.node.expr.free_symbols))]
        info.sources, info.value = [source], value
        return number

    def create_unbacked_float(self) -> torch.SymFloat:
        """A real number that only the running program knows."""
        s = symbol(f"f{self._numbers}")
        self._numbers += 1
        self.symbols[s] = SymbolInfo(s, None)
        return torch.SymFloat(FloatNode(float_symbol(s), self))

    def symbolic_layout(self, t: torch.Tensor, source: str | None, dynamic_dims: Any, dynamic_strides: Any = ()) -> tuple[Any, Any, Any]:
        """(sizes, strides, offset) of an input with the chosen dimensions symbolic; strides follow the sizes where they do now.

        dynamic_dims: container of ints, dict dim -> DimPolicy, None for the marks on the tensor alone.
        dynamic_strides: dims whose stride is a symbol of its own where it follows from nothing (rows of a tensor whose size changes).
        """
        from lamina_dynshape.marks import dim_marks

        chosen = dict(dynamic_dims) if isinstance(dynamic_dims, dict) else dict.fromkeys(dynamic_dims or (), DimPolicy.AUTO)
        marks = dim_marks(t)
        name = source or f"tensor{len(self.symbols)}"
        sizes: list[Any] = []
        for d, n in enumerate(t.shape):
            mark = marks.get(d)
            policy = mark.policy if mark is not None else chosen.get(d, DimPolicy.STATIC)
            low, high = (mark.low, mark.high) if mark is not None else (None, None)
            source_of_size = f"{name}.size()[{d}]"
            if policy is DimPolicy.UNBACKED:
                size = self.create_unbacked_input(n, source_of_size, 0)
            else:
                size = self.create_symbol(n, source_of_size, dim_policy=policy, low=low, high=high)
            sizes.append(self.dim(size))
        free = {d: f"{name}.stride()[{d}]" for d in dynamic_strides if t.shape[d] == 1 or t.stride(d) > 1}
        strides = self._symbolic_strides(tuple(t.shape), t.stride(), sizes, free)
        if any(type(s) is not int for s in (*sizes, *strides)):
            bindings = [StrideBinding(f"{name}.stride()[{d}]", s) for d, s in enumerate(strides) if t.shape[d] != 1]
            self.strides += [b for b in bindings if not isinstance(b.expr, Symbol) or self.symbols[b.expr].source != b.source]
        return tuple(sizes), strides, t.storage_offset()

    def _symbolic_strides(self, hints: tuple[int, ...], strides: tuple[int, ...], sizes: list[Any], free: dict[int, str]) -> tuple[Any, ...]:
        """Each stride as the extent of a dimension inside it, if the numbers agree, else a symbol (`free`: dim -> its source) or the number."""
        result: list[Any] = list(strides)
        order = sorted(range(len(hints)), key=lambda d: (strides[d], hints[d] != 1, -d))
        for at, d in enumerate(order):
            if d in free and hints[d] == 1:  # may be anything
                result[d] = self._stride_symbol(strides[d], free[d], 0)
                continue
            for inner in reversed(order[:at]):
                if hints[inner] * strides[inner] == strides[d] and type(sizes[inner]) is not int or (
                    hints[inner] != 1 and hints[inner] * strides[inner] == strides[d] and type(result[inner]) is not int
                ):
                    extent = as_expr(sizes[inner]) * result[inner]
                    result[d] = extent.const if extent.is_const else extent
                    break
            else:
                if d in free:
                    result[d] = self._stride_symbol(strides[d], free[d], 2)
        return tuple(result)

    def _stride_symbol(self, hint: int, source: str, low: int) -> Symbol:
        s = symbol(f"n{self._numbers}")
        self._numbers += 1
        self.symbols[s] = SymbolInfo(s, hint, [source], low=low)
        self._hint_values[s] = hint
        self.facts.narrow(s, low, None)
        return s

    # -- conversion ---------------------------------------------------------------------------------------------------
    def dim(self, x: Any) -> Any:
        """int or Expr of an int, SymInt or Expr."""
        if type(x) is int:
            return x
        if isinstance(x, torch.SymInt):
            node = x.node
            if isinstance(node, IntNode):
                e = node.expr
                return e.const if e.is_const else e
            known = node.maybe_as_int()
            return x.node.int_() if known is None else known
        if isinstance(x, Expr):
            return x.const if x.is_const else x
        return int(x)

    def sym_int(self, x: Any) -> Any:
        """int or SymInt of an int or Expr; one SymInt object per expression."""
        if type(x) is int:
            return x
        found = self._symints.get(x)
        if found is None:
            found = self._symints[x] = x.const if x.is_const else sym_int_of(self.node(x))
        return found

    def node(self, e: Expr) -> IntNode:
        found = self._nodes.get(e)
        if found is None:
            found = self._nodes[e] = IntNode(e, self)
        return found

    def hint(self, e: Any) -> int:
        """Value of an expression for the sizes of this compilation; DataDependent when it has an unbacked symbol."""
        if type(e) is int:
            return e
        found = self._hints.get(e)
        if found is None:
            try:
                found = self._hints[e] = e.evaluate(self._hint_values)
            except KeyError:
                raise self._no_value(e) from None
        return found

    def estimate(self, e: Any) -> int:
        """The hint, for decisions about cost: a symbol that only the running program knows counts as the largest it can be, or as `UNKNOWN_SIZE`."""
        if type(e) is int or not self.unbacked_in(e):
            return self.hint(e)
        largest = {s: self.range_of(s)[1] for s in self.unbacked_in(e)}
        return e.evaluate({**self._hint_values, **{s: UNKNOWN_SIZE if n is None else n for s, n in largest.items()}})

    def has_hint(self, e: Any) -> bool:
        return type(e) is int or not self.unbacked_in(e)

    def unbacked_in(self, e: Any) -> list[Symbol]:
        return [s for s in e.free_symbols if s not in self._hint_values] if not isinstance(e, int) else []

    def is_unbacked(self, *values: Any) -> bool:
        return any(type(v) is not int and self.unbacked_in(v) for v in values)

    def _no_value(self, e: Any) -> DataDependent:
        return DataDependent(
            "data-dependent size or branch", saw=str(e), hint="torch._check(...) tells the compiler what holds of the value"
        )

    # -- deciding -----------------------------------------------------------------------------------------------------
    def evaluate(self, condition: BoolExpr) -> bool:
        """Truth of a condition, recorded as a guard unless the facts decide it."""
        known = self.facts.decide(condition)
        if known is not None:
            return known
        if self._quiet:
            return True if self.unbacked_in(condition) else condition.evaluate(self._hint_values)
        if self.unbacked_in(condition):
            raise self._no_value(condition)
        answer = condition.evaluate(self._hint_values)
        if isinstance(condition, (B.And, B.Or)) and _compares_reals(condition):  # guards on real numbers stand alone
            return (all if isinstance(condition, B.And) else any)(self.evaluate(o) for o in condition.operands)
        self.guard(condition if answer else B.negate(condition))
        return answer

    def guard(self, condition: BoolExpr) -> None:
        """Record that the program relies on a condition, which the hints fulfil."""
        if self._frozen:
            raise Unsupported("a condition on sizes that is asked after the guards of the entry were taken", saw=str(condition), code="late_guard")
        condition = self.facts.reduced(condition)
        guard = self._guards[condition] = ShapeGuard(condition, self.where())
        self.facts.learn(condition)
        self.layout_memo.clear()
        self._check_policy(guard)

    def _check_policy(self, guard: ShapeGuard) -> None:
        """Refuse a guard that makes a size constant which the user marked dynamic."""
        for s in guard.expr.free_symbols:
            info = self.symbols[s]
            if info.policy is DimPolicy.DYNAMIC and self.is_constant(s):
                line = f"\n  at {UserLocation.of(guard.stack[-1])}" if guard.stack else ""
                raise UserError(f"{info.source} is marked dynamic, but the program needs {guard.expr.text(self.source_of)}{line}")

    def make_constant(self, s: Symbol) -> None:
        """Guard that a symbol stays what it is now."""
        value = self._hint_values[s]
        if type(value) is float:
            self.evaluate(float_relation("eq", float_symbol(s), float_const(value)))
        else:
            self.specialize(s)

    def is_constant(self, s: Symbol) -> bool:
        """Whether the guards leave a symbol one value."""
        value = self._hint_values.get(s)
        if type(value) is float:
            return self.statically_true(float_relation("eq", float_symbol(s), float_const(value)))
        low, high = self.range_of(s)
        return low is not None and low == high

    def range_of(self, s: Symbol) -> tuple[int | None, int | None]:
        """Known range of a symbol (inclusive, None: open)."""
        e = self.facts.canonical(s)
        return (e.const, e.const) if e.is_const else self.facts.ranges.get(s, (None, None))

    def statically_true(self, condition: BoolExpr) -> bool:
        """True only when the facts prove it; records nothing."""
        return self.facts.decide(condition) is True

    def refuse_zero(self, divisor: Any) -> None:
        """Python's exception for a divisor (Expr or FloatExpr) that is zero; that it is not is a guard where it could be."""
        real = not isinstance(divisor, Expr)
        condition = float_relation("ne", divisor, float_const(0.0)) if real else B.ne(divisor, 0)
        if not self.unbacked_in(divisor) and not self.evaluate(condition):
            raise ZeroDivisionError("float division by zero" if real else "integer division or modulo by zero")

    def expect_true(self, condition: BoolExpr, message: str = "") -> bool:
        """Take a condition as true: a guard, or a runtime assertion when it has unbacked symbols. False when the hints deny it."""
        if self.unbacked_in(condition) and self.facts.decide(condition) is None:
            self.runtime_asserts.append(RuntimeAssert(condition, message))
            self.facts.learn(condition)
            self.layout_memo.clear()
            return True
        return self.evaluate(condition)

    def hint_denies(self, condition: BoolExpr) -> bool:
        """Whether a condition does not hold for the sizes of this compilation; records nothing."""
        return not self.unbacked_in(condition) and not condition.evaluate(self._hint_values)

    def guard_or(self, condition: BoolExpr, default: bool) -> bool:
        """As `evaluate`, but `default` for what only the running program knows; then records nothing."""
        known = self.facts.decide(condition)
        if known is not None:
            return known
        if self.unbacked_in(condition):
            return default
        return self.evaluate(condition)

    def specialize(self, x: Any) -> int:
        """The integer, guarding that it stays what it is now."""
        if type(x) is int:
            return x
        canonical = self.facts.canonical(x)
        if canonical.is_const:
            return canonical.const
        value = self.hint(x)
        self.evaluate(B.eq(x, value))
        return value

    # -- questions about dimensions (see `dims`) ------------------------------------------------------------------------
    def eq(self, a: Any, b: Any) -> bool:
        condition = B.eq(a, b)
        if condition is B.TRUE or condition is B.FALSE:
            return condition is B.TRUE
        known = self.facts.decide(condition)
        if known is not None:
            return known
        if self.unbacked_in(condition):
            # Sizes that a shape rule needs equal are asserted; being 0 or 1 is taken not to happen.
            if any(type(v) is int and v in (0, 1) for v in (a, b)):
                return False
            return self.expect_true(condition, f"{a} == {b}")
        return self.evaluate(condition)

    def lt(self, a: Any, b: Any) -> bool:
        condition = B.lt(a, b)
        if self.unbacked_in(condition) and self.facts.decide(condition) is None:
            return False
        return self.evaluate(condition)

    def order(self, a: Any, b: Any) -> int:
        """-1, 0 or 1 as a < b, a == b or a > b, between strides. What only the running program knows is never asserted: `a <= b` counts as `a < b`, unknown as equal."""
        condition = B.eq(a, b)
        if not self.unbacked_in(condition) or self.facts.decide(condition) is not None:
            return 0 if self.eq(a, b) else -1 if self.lt(a, b) else 1
        return -1 if self.known_le(a, b) else int(self.known_le(b, a))

    def known_eq(self, a: Any, b: Any) -> bool:
        """Certainly equal, or equal by the hints in a way worth a guard: layouts of two concrete-looking strides."""
        return self.facts.decide(B.eq(a, b)) is True

    def known_le(self, a: Any, b: Any) -> bool:
        return self.facts.decide(B.le(a, b)) is True

    def likely_one(self, a: Any) -> bool:
        return a == 1 if type(a) is int else self.guard_or(B.eq(a, 1), False)

    def expect(self, x: Any, low: Any, end: Any) -> bool:
        """low <= x < end, asserted at run time for unbacked values."""
        return self.expect_true(B.ge(x, low)) and self.expect_true(B.lt(x, end))

    # -- results --------------------------------------------------------------------------------------------------------
    @property
    def guards(self) -> list[ShapeGuard]:
        """Minimal guards in the order taken: none follows from the others and the symbols' base ranges."""
        base = {s: (i.low, i.high) for s, i in self.symbols.items()}
        kept = list(self._guards.values())
        for g in list(kept):
            others = [o.expr for o in kept if o is not g and not o.expr.free_symbols.isdisjoint(g.expr.free_symbols)]
            if implied(g.expr, others, base):
                kept.remove(g)
        return kept

    @property
    def taken(self) -> tuple[BoolExpr, ...]:
        """Every condition relied upon so far, in the order taken."""
        return tuple(self._guards)

    def hold(self, conditions: Collection[BoolExpr]) -> bool:
        """Rely on conditions that an earlier program relied upon; False, and nothing relied upon, where one does not hold now."""
        with self.quiet():
            if not all(map(self.evaluate, conditions)):
                return False
        return all(map(self.evaluate, conditions))

    def stack_of(self, condition: BoolExpr) -> tuple[Any, ...]:
        """The user's frames that relied on a condition; empty for base ranges."""
        guard = self._guards.get(condition)
        return guard.stack if guard is not None else ()

    def conditions(self) -> list[BoolExpr]:
        """Everything an entry must check of its backed symbols: base ranges and guards, ranges merged per symbol."""
        base = []
        for s, info in self.symbols.items():
            if info.hint is None:
                continue
            if info.low is not None and info.low > 0:
                base.append(B.ge(s, info.low))
            if info.high is not None:
                base.append(B.le(s, info.high))
        guards = [g.expr for g in self.guards]
        merged = [c for c in base if not implied(c, guards, {})]
        return merged + guards

    def ranges(self) -> dict[Symbol, tuple[int | None, int | None]]:
        """Known range of each symbol (inclusive)."""
        return {s: self.range_of(s) for s in self.symbols}

    def knowledge(self) -> str:
        """All that decisions and simplifications follow from, as text: equal where two environments answer alike."""
        return f"{[f'{s}: {r}' for s, r in self.ranges().items()]} {[str(c) for c in self.facts.learned]}"

    def simplify(self, e: Any) -> Any:
        """Equal int or Expr under everything known."""
        if type(e) is int:
            return e
        from lamina_dynshape.expr import simplify

        result = simplify(self.facts.canonical(e), self.facts.ranges)
        return result.const if result.is_const else result

    def source_of(self, s: Symbol) -> str:
        """How the program reaches a symbol's value, or its name."""
        return self.symbols[s].source or s.name if s in self.symbols else s.name

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Answer by the hints and record nothing: for questions whose answer the program does not depend upon."""
        self._quiet += 1
        try:
            yield
        finally:
            self._quiet -= 1

    def freeze(self) -> None:
        """The entry's guards have been taken: from now on what the facts do not decide is `Unsupported` (`late_guard`)."""
        self._frozen = True

    def format_guards(self) -> str:
        """One line per thing an entry checks, in terms of sources."""
        lines = [c.text(self.source_of) for c in self.conditions()]
        for info in self.symbols.values():
            lines += [f"{other} == {info.sources[0]}" for other in info.sources[1:]]
        lines += [f"{b.source} == {B.expr_text(as_expr(b.expr), self.source_of)}" for b in self.strides]
        return "\n".join(lines)

    def __repr__(self) -> str:
        symbols = ", ".join(f"{s}={i.hint}" if i.hint is not None else str(s) for s, i in self.symbols.items())
        return f"ShapeEnv({symbols}; {', '.join(map(str, self.guards))})"


def _compares_reals(condition: BoolExpr) -> bool:
    if isinstance(condition, (B.And, B.Or)):
        return any(map(_compares_reals, condition.operands))
    return isinstance(condition, FloatRelation)


_OWN = ("/lamina_dynshape/", "/torch/")


def _user_stack(limit: int = 8) -> tuple[tuple[str, int, str], ...]:
    """Innermost frames outside of this package and torch."""
    frames: list[tuple[str, int, str]] = []
    frame: types.FrameType | None = sys._getframe(2)
    while frame is not None and len(frames) < limit:
        file = frame.f_code.co_filename
        if not any(part in file for part in _OWN):
            frames.append((file, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return tuple(reversed(frames))
