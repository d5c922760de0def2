"""Which sizes and Python numbers are symbolic: from the user's wish, from marks, and from what changed between compilations.

Between: the sizes seen at earlier compilations of a code object (`frame_state`) -> fakes of inputs, lifted numbers.
Keeps:   `dynamic=None`: static at first, symbolic for what was seen to change, and for tensors that first come once something has; True:
         symbolic at once, but for buffers, which are treated as under None; False: never.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lamina_dynshape import DimPolicy, ShapeEnv
from lamina_dynshape.boolean import expr_text
from lamina_dynshape.expr import Symbol, as_expr
from lamina_dynshape.float_expr import FloatRelation
from lamina_dynshape.marks import dim_marks

from .guards import Guard, GuardKind, shape_guard
from .loops import symbolic_dims
from .source import AttrSource, CallSource, ConstantSource, RowSource, SizeSource, Source, StrideSource

__all__ = ["Dynamic", "DynamicPolicy"]


CHANGED = "it changed between calls"
_GREW = -1


class DynamicPolicy:
    """What one compilation makes symbolic; `state` is remembered between compilations of the code."""

    def __init__(self, options: Any, state: dict[str, Any], dynamic: Any = ...) -> None:
        self.options, self.state, self.dynamic = options, state, options.dynamic if dynamic is ... else dynamic
        self.sizes: dict[str, tuple[int | None, ...]] = state.setdefault("sizes", {})  # None: was seen to change
        self.layouts: dict[str, tuple[int | None, ...]] = state.setdefault("strides", {})
        self.presumed: set[str] = state.setdefault("presumed", set())  # inputs that first came when sizes had changed
        self.numbers: dict[str, Any] = state.setdefault("numbers", {})
        self.lengths: dict[str, int] = state.setdefault("lengths", {})  # of lists from outside; _GREW: was seen to change
        self.read_lists: set[str] = state.setdefault("read lists", set())
        self._written: set[str] = state.setdefault("class attributes", set())
        self._written_before = frozenset(self._written)

    def static(self) -> DynamicPolicy:
        """For an operator that takes no symbolic sizes: only what the user marked stays symbolic."""
        return DynamicPolicy(self.options, self.state, False)

    def dims(self, name: str, t: torch.Tensor, role: str) -> dict[int, DimPolicy]:
        """Dims of an input to make symbolic, and how; notes its sizes."""
        shape: tuple[int | None, ...] = tuple(t.shape)
        old = self.sizes.get(name)
        if old is not None and len(old) == len(shape):
            shape = tuple(n if n == o else None for n, o in zip(shape, old))
        elif role == "input" and self.options.sizes_change:
            self.presumed.add(name)  # a cache that grows with the text, say: its sizes were not there to be compared
        self.sizes[name] = shape
        self.options.sizes_change |= None in shape
        marked = dict.fromkeys(dim_marks(t), DimPolicy.AUTO)
        if self.dynamic is False or role == "parameter":
            return marked
        if self.dynamic and role == "input":  # a module's buffers have the sizes of its parameters, as a rule
            return dict.fromkeys(range(len(shape)), DimPolicy.AUTO)
        chosen = {d: DimPolicy.AUTO if n is None else DimPolicy.PRESUMED for d, n in enumerate(shape) if n is None or name in self.presumed}
        return {**chosen, **marked}

    def strides(self, name: str, t: torch.Tensor, role: str) -> frozenset[int]:
        """Dims of an input whose stride is symbolic where no size says what it is (a view of something whose size changes); notes its strides."""
        strides: tuple[int | None, ...] = t.stride()
        old = self.layouts.get(name)
        if old is not None and len(old) == len(strides):
            strides = tuple(n if n == o else None for n, o in zip(strides, old))
        self.layouts[name] = strides
        if self.dynamic is False or role != "input":
            return frozenset()
        marks = dim_marks(t)
        kept = len(marks) == t.dim() and all(m.policy is DimPolicy.STATIC for m in marks.values())
        presumed = (self.dynamic or name in self.presumed) and not kept
        return frozenset(d for d, n in enumerate(strides) if n is None or t.shape[d] != 1 and presumed)

    def first_write(self, place: str) -> bool:
        """Whether no earlier compilation of the code met a write to this attribute of a class; notes it."""
        self._written.add(place)
        return place not in self._written_before

    def why(self, t: torch.Tensor, dim: int) -> str:
        """Why a dimension of an input is symbolic."""
        return "marked" if dim in dim_marks(t) else "dynamic=True" if self.dynamic else CHANGED

    def varies(self, name: str, v: Any) -> bool:
        """Whether a Python number from outside, or a tuple with numbers, was seen to change; notes its value."""
        old = self.numbers.get(name, v)
        self.numbers[name] = v if type(old) is type(v) and old == v else CHANGED
        return self.dynamic is not False and self.numbers[name] is CHANGED

    def only_grows(self, name: str, v: list[Any]) -> bool:
        """Whether a list from outside was seen to get longer, and is only appended to as far as is known; notes its length."""
        if self.lengths.setdefault(name, len(v)) < len(v):
            self.lengths[name] = _GREW
        return self.lengths[name] == _GREW and name not in self.read_lists

    def items_vary(self, names: list[str], v: tuple[Any, ...], name: str) -> bool:
        """Whether a tuple was seen to change; then its items are looked at one by one, each against what it was."""
        old = self.numbers.get(name, v)
        if type(old) is tuple and len(old) == len(v):
            for item, o in zip(names, old):
                self.numbers.setdefault(item, o)
        return self.varies(name, v)


@dataclass(frozen=True)
class _RealTest:
    """A condition on real numbers as a pure function, for `CallSource`, of a row of numbers: the first, and what `sources` reach."""

    condition: FloatRelation
    symbols: tuple[Symbol, ...]
    sources: tuple[Source, ...]

    @property
    def __name__(self) -> str:
        return f"({self.condition}) of "

    @functools.cached_property
    def _holds(self) -> Callable[..., bool]:
        return self.condition.compiled(self.symbols)

    def __call__(self, row: tuple[Any, ...]) -> bool:
        try:
            return self._holds(*row)
        except (ArithmeticError, ValueError):  # where Python raises, the trace does not hold
            return False


def _is_constant(c: Any) -> bool:
    """Whether a condition says that a real number is what it is now. 0.0 and -0.0 are equal, but not one constant."""
    return isinstance(c, FloatRelation) and c.op == "eq" and c.a.op == "real" and c.b.op == "const" and c.b.args[0] != 0


class Dynamic:
    """Mixin of `Capture`: symbols of inputs and the guards on them."""

    policy: DynamicPolicy
    mode: Any
    user_stack: Any
    why_symbolic: dict[str, str]  # source of a number -> why it is symbolic
    number_source: dict[str, Source]
    symbolic_numbers: dict[str, Any]  # source of a Python number -> its symbol
    named: dict[str, Source]

    def name_of(self, source: Source) -> str:
        """The source's name for this capture: objects that are held may share theirs, and are told apart."""
        name = source.name()
        while self.named.setdefault(name, source) is not source:
            name += "'"
        return name

    def shape_env(self) -> Any:
        """The environment, made when the first symbol is wanted."""
        if self.mode.shape_env is None:
            self.mode.shape_env = ShapeEnv()
            self.mode.shape_env.where = self.user_stack
        return self.mode.shape_env

    def fake_input(self, t: torch.Tensor, source: Source, role: str) -> tuple[Any, frozenset[int]]:
        """(fake, dims that came out symbolic)."""
        name = source.name()
        dims = self.policy.dims(name, t, role) if type(source) is not ConstantSource else {}  # constants share a name
        if self.policy.dynamic is not False and role == "input":
            dims = {**dict.fromkeys([d for d in symbolic_dims(self, source) if d < t.dim()], DimPolicy.PRESUMED), **dims}
        strides = self.policy.strides(name, t, role) if type(source) is not ConstantSource else frozenset()
        name = self.name_of(source)
        if not dims and not strides:
            return self.mode.from_real(t, source=name, dynamic_dims=()), frozenset()
        self.shape_env()
        for text, place in ((name, source), (f"{name}.grad", AttrSource(source, "grad"))):
            for d in range(t.dim()):
                self.number_source[f"{text}.size()[{d}]"] = SizeSource(place, d)
                self.number_source[f"{text}.stride()[{d}]"] = StrideSource(place, d)
        for d in range(t.dim()):
            self.why_symbolic[f"{name}.size()[{d}]"] = self.policy.why(t, d)
        marks = dim_marks(t)
        fake = self.mode.from_real(t, source=name, dynamic_dims={d: policy for d, policy in dims.items() if d not in marks} or None, dynamic_strides=strides)
        return fake, frozenset(d for d, s in enumerate(fake.sizes) if type(s) is not int)

    def symbolic_number(self, v: Any, source: Source) -> Any:
        """A Python int or float from outside as a symbol."""
        name = self.name_of(source)
        found = self.symbolic_numbers.get(name)
        if found is None:
            self.number_source[name] = source
            self.why_symbolic[name] = CHANGED
            found = self.symbolic_numbers[name] = self.shape_env().create_number(v, name)
        return found

    def number_from_outside(self, v: Any, source: Source) -> Any:
        """A Python number that is another one at each call: nothing is decided by its value."""
        name = self.name_of(source)
        self.number_source[name] = source
        number = self.symbolic_numbers[name] = self.shape_env().create_unbacked_input(v, name)
        return number

    def symbol_input(self, symbol: Any) -> tuple[Source, int]:
        """Where a backed symbol is read from, and its value now."""
        info = self.mode.shape_env.symbols[symbol]
        return self.number_source[info.sources[0]], info.value if info.hint is None else info.hint

    def shape_guards(self) -> list[Guard]:
        """Conditions on symbols, equal sizes that share one, strides that follow sizes; none may be taken afterwards."""
        env = self.mode.shape_env
        if env is None:
            return []
        out = []
        conditions = env.conditions()
        constants = {c.a.args[0] for c in conditions if _is_constant(c)}
        for c in conditions:
            if isinstance(c, FloatRelation):
                if _is_constant(c) or not constants.issuperset(c.free_symbols):  # what else was asked of constants follows
                    out.append(self._real_guard(c, env.stack_of(c)))
                continue
            out.append(self._guard(c.text(lambda s: s.name), c.free_symbols, {}, env.stack_of(c)))
        for s, info in env.symbols.items():
            for i, other in enumerate(info.sources[1:]):
                if self.number_source[other] is not self.number_source[info.sources[0]]:
                    out.append(self._guard(f"d{i} == {s.name}", [s], {f"d{i}": self.number_source[other]}))
        for b in env.strides:
            e = as_expr(b.expr)
            out.append(self._guard(f"d == {expr_text(e, lambda s: s.name)}", e.free_symbols, {"d": self.number_source[b.source]}))
        env.freeze()
        return out

    def _real_guard(self, c: FloatRelation, stack: tuple[Any, ...]) -> Guard:
        """A condition that is evaluated as it is; a number that is taken as it is now is compared like any constant."""
        if _is_constant(c):
            return Guard(self.symbol_input(c.a.args[0])[0], GuardKind.EQUALS, c.b.args[0], stack)
        symbols = tuple(sorted(c.free_symbols, key=lambda s: s.name))
        return Guard(self.source_over(symbols, lambda others: _RealTest(c, symbols, others)), GuardKind.BOOL, True, stack)

    def source_over(self, symbols: tuple[Symbol, ...], make: Callable[[tuple[Source, ...]], Any]) -> CallSource:
        """A pure function of the row of numbers behind `symbols`, which `make` makes of the sources of all but the first."""
        first, *others = [self.symbol_input(s)[0] for s in symbols]
        made = make(tuple(others))
        return CallSource(made, RowSource(first, made))

    def _guard(self, text: str, symbols: Any, more: dict[str, Source], stack: tuple[Any, ...] = ()) -> Guard:
        return shape_guard(text, {**{s.name: self.symbol_input(s)[0] for s in symbols}, **more}, stack)
