"""Random numbers of Python and NumPy: what the frame asks of a generator, done again at each call.

Between: rules for generators (`rules/random_numbers.py`) -> inputs of the graph, and a side effect.
Keeps:   what is asked of one generator is a list of calls (`Draws`), a pure function of the generator's state: the guard program runs it on a copy as
         often as it likes, and gets the same numbers and the state after them. The generator itself moves once, after the graph: where the graph
         raises, or a check fails, the original draws them again. Numbers are symbols of which only a range is known, so no value is ever relied upon.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from lamina_dynshape import boolean as B
from lamina_dynshape import expr_of
from lamina_dynshape.expr import Expr, Symbol
from lamina_dynshape.float_expr import FloatExpr

from .arrays import NUMPY_DTYPES, TensorArray
from .control import MISSING, CannotRebuild, native, refusal, unsupported
from .guards import GuardKind
from .source import CallSource, ConstantSource, ItemSource, RowSource, Source

__all__ = ["BELOW_ONE", "GENERATORS", "Draws", "derived", "drawn_value", "emit_states", "record", "refuse_to_decide", "shared_generators_kept"]

GENERATORS = (random.Random, np.random.RandomState, np.random.Generator)
BELOW_ONE = 1 - 2.0**-53  # the largest number that `random()` gives
MAX_CORNERS = 4  # numbers in one expression whose bounds are looked for
_numbers = itertools.count()


# ---- generators ----------------------------------------------------------------------------------------------------------
def _state(g: Any) -> Any:
    if isinstance(g, random.Random):
        return random.Random.getstate(g)
    return g.get_state(legacy=False) if isinstance(g, np.random.RandomState) else g.bit_generator.state


def set_state(g: Any, state: Any) -> None:
    if isinstance(g, random.Random):
        random.Random.setstate(g, state)
    elif isinstance(g, np.random.RandomState):
        g.set_state(state)
    else:
        g.bit_generator.state = state


def _copy(g: Any) -> Any:
    """Another generator in the same state."""
    if isinstance(g, random.Random):
        made = random.Random.__new__(random.Random)
    elif isinstance(g, np.random.RandomState):
        made = np.random.RandomState(np.random.MT19937(0))
    else:
        made = np.random.Generator(type(g.bit_generator)(0))
    set_state(made, _state(g))
    return made


@contextlib.contextmanager
def shared_generators_kept() -> Iterator[None]:
    """The generators that everybody shares are afterwards as before: what runs at capture (functions allowed in the graph, backends) draws nothing of the program's."""
    shared = [g for g in (random._inst, np.random.mtrand._rand) if is_plain(g)]  # type: ignore[attr-defined]
    before = [_state(g) for g in shared]
    try:
        yield
    finally:
        for g, state in zip(shared, before):
            set_state(g, state)


def is_plain(g: Any) -> bool:
    """Whether a generator has nothing but the state that is copied."""
    return type(g) in GENERATORS and (type(g) is not np.random.RandomState or type(g._bit_generator) is np.random.MT19937)


# ---- what is asked of one ------------------------------------------------------------------------------------------------
class _Term(NamedTuple):
    """An argument that is computed from numbers drawn before."""

    e: Expr | FloatExpr


class Draws:
    """Calls of one generator, in order. `self((generator, *other numbers))`: its state after them, and all the numbers they give."""

    def __init__(self) -> None:
        self.__name__ = f"draws_{next(_numbers)}"
        self.steps: list[tuple[Callable[..., Any], Any, Any]] = []  # (function of the generator and arguments, those)
        self.symbols: list[Symbol | None] = []  # what stands for each number
        self.sources: list[Source] = []  # of the other numbers that the arguments are computed from
        self.others: list[Symbol] = []  # what stands for those
        self._spare: list[Any] = []  # copies that no thread uses now: making one costs more than setting its state

    def __call__(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        copy, numbers = self._copy(row[0]), []
        values: dict[Symbol, Any] = dict(zip(self.others, row[1:]))
        for function, args, kwargs in self.steps:
            for n in _flat(function(copy, *_evaluated(args, values), **_evaluated(kwargs, values))):
                symbol = self.symbols[len(numbers)]
                if symbol is not None:
                    values[symbol] = _plain(n)
                numbers.append(n)
        state = _state(copy)
        self._spare.append(copy)
        return state, *numbers

    def _copy(self, generator: Any) -> Any:
        try:
            copy = self._spare.pop()
        except IndexError:
            return _copy(generator)
        if type(copy) is not type(generator) or not is_plain(generator) or getattr(copy, "bit_generator", None).__class__ is not getattr(generator, "bit_generator", None).__class__:
            return _copy(generator)
        set_state(copy, _state(generator))
        return copy


class _Stream:
    """One generator while capturing."""

    def __init__(self, generator: Any, source: Source, step: int) -> None:
        self.generator, self.base, self.draws = generator, source, Draws()
        self.source = CallSource(self.draws, RowSource(source, self.draws))
        self.copy = _copy(generator)  # where the calls so far lead
        self.values: dict[Symbol, Any] = {}  # numbers that its calls may take: drawn so far, or from elsewhere
        self.step = step
        self.needs: set[_Stream] = set()  # whose numbers its calls take

    def depends_on(self, other: _Stream) -> bool:
        return self is other or any(s.depends_on(other) for s in self.needs)


def _plain(n: Any) -> Any:
    return n.item() if isinstance(n, np.generic) else n


def _flat(out: Any) -> Iterator[Any]:
    """The numbers and arrays in what a call gave."""
    if isinstance(out, (list, tuple)):
        for x in out:
            yield from _flat(x)
    elif out is not None:
        yield out


def _evaluated(v: Any, values: dict[Symbol, Any]) -> Any:
    if type(v) is _Term:
        return v.e.evaluate(values)
    if type(v) in (list, tuple):
        return type(v)([_evaluated(x, values) for x in v])
    return {k: _evaluated(x, values) for k, x in v.items()} if type(v) is dict else v


# ---- while capturing -------------------------------------------------------------------------------------------------------
def record(cap: Any, generator: Any, function: Callable[..., Any], args: Any, kwargs: Any, bounds: tuple[Any, Any] = (None, None)) -> Any:
    """`function(generator, *args, **kwargs)`, which gives integers within the bounds: what stands for its result."""
    rec = cap.recorder
    if rec.scope is not None or rec.regions or cap.once or not is_plain(generator):
        unsupported("random", "random numbers under a transform, in a checkpointed region, in a cached function, or of a generator of another kind")
    stream = cap.streams.get(id(generator)) or _begin(cap, generator)
    args, kwargs = _terms(cap, stream, tuple(args)), _terms(cap, stream, kwargs)
    out = native(function, stream.copy, *_evaluated(args, stream.values), **_evaluated(kwargs, stream.values))
    if _has_term((args, kwargs)) and type(out) not in (int, float, np.int64, np.float64, type(None)):
        unsupported("random", "random numbers of which others decide how many there are", saw=type(out).__name__)
    stream.draws.steps.append((function, args, kwargs))
    return _stand_in(cap, stream, out, bounds)


def _begin(cap: Any, generator: Any) -> _Stream:
    """The first call of a generator: it is none of the others."""
    source = cap.base_source(generator)
    for other in cap.streams.values():
        first, second = (source, other.base) if type(source) is not ConstantSource else (other.base, source)
        if type(first) is not ConstantSource:
            cap.guards.add(first, GuardKind.NO_ALIAS, (second,))
    stream = cap.streams[id(generator)] = _Stream(generator, source, cap.step)
    cap.keep[id(stream.draws)] = stream.draws
    return stream


def _terms(cap: Any, stream: _Stream, v: Any) -> Any:
    """Arguments in a form that outlives the capture."""
    if isinstance(v, (torch.SymInt, torch.SymFloat)):
        return _term(cap, stream, v)
    if type(v) in (list, tuple):
        return type(v)([_terms(cap, stream, x) for x in v])
    if type(v) is dict:
        return {k: _terms(cap, stream, x) for k, x in v.items()}
    if v is None or isinstance(v, (bool, int, float, str, range, type, np.dtype, np.generic)):
        return v
    if type(v) is np.ndarray and v.dtype in NUMPY_DTYPES and id(v) not in cap.opaque:
        return v.copy()
    return unsupported("random", "an argument of a random number's call", saw=type(v).__qualname__)


def _term(cap: Any, stream: _Stream, v: Any) -> _Term:
    """A number that is computed from numbers drawn before, or from outside."""
    e = v.node.expr
    for s in sorted(e.free_symbols - stream.values.keys(), key=str):
        if not cap.mode.shape_env.symbols[s].sources:
            unsupported("random", "random numbers that depend on what only the running program knows", saw=str(e))
        other = next((o for o in cap.streams.values() if s in o.draws.symbols), None)
        if other is not None and other.depends_on(stream):
            unsupported("random", "two generators that each depend on the other", saw=str(e))
        stream.needs |= {other} if other is not None else set()
        source, stream.values[s] = cap.symbol_input(s)
        stream.draws.others.append(s)
        stream.draws.sources.append(source)
    return _Term(e)


def _has_term(v: Any) -> bool:
    return type(v) is _Term or type(v) in (list, tuple) and any(map(_has_term, v)) or type(v) is dict and any(map(_has_term, v.values()))


def _stand_in(cap: Any, stream: _Stream, out: Any, bounds: tuple[Any, Any]) -> Any:
    if type(out) in (list, tuple):
        return type(out)([_stand_in(cap, stream, x, bounds) for x in out])
    if out is None:
        return out
    raw = ItemSource(stream.source, len(stream.draws.symbols) + 1)
    if type(out) is np.ndarray and out.dtype in NUMPY_DTYPES:
        stream.draws.symbols.append(None)
        return TensorArray(cap, cap.add_input(torch.from_numpy(out), CallSource(torch.from_numpy, raw), "input"))
    if type(out) not in (int, float, np.int64, np.float64) or type(out) is int and abs(out) >= 1 << 62:
        unsupported("random", "random values that are no numbers", saw=type(out).__name__)
    number = cap.number_from_outside(_plain(out), CallSource(_plain, raw) if isinstance(out, np.generic) else raw)
    symbol = next(iter(number.node.expr.free_symbols))
    stream.draws.symbols.append(symbol)
    stream.values[symbol] = _plain(out)
    cap.drawn[symbol] = raw, isinstance(out, np.generic)
    for bound, holds in zip(bounds, (B.ge, B.le)):
        if bound is not None and type(number) is torch.SymInt:
            cap.mode.shape_env.facts.learn(holds(symbol, expr_of(bound)))
        elif bound is not None:
            cap.drawn_range.setdefault(symbol, []).append(float(bound))
    return number


# ---- what becomes of the numbers -------------------------------------------------------------------------------------------
def derived(cap: Any, fn: Any, args: Any, kwargs: Any) -> Any:
    """`fn(*args, **kwargs)` of drawn numbers, for a pure function of numbers: computed where they are drawn. MISSING where no drawn number is among the arguments."""
    found = {s for a in (*args, *kwargs.values()) if isinstance(a, (torch.SymInt, torch.SymFloat)) for s in a.node.expr.free_symbols}
    stream = next((s for s in reversed(cap.streams.values()) if found & set(s.draws.symbols)), None) if found else None
    if stream is None:
        return MISSING
    args, kwargs = _terms(cap, stream, tuple(args)), _terms(cap, stream, kwargs)
    out = native(fn, *_evaluated(args, stream.values), **_evaluated(kwargs, stream.values))
    if type(out) not in (int, float, np.int64, np.float64):
        unsupported("random", "a function of random numbers that gives something else", saw=type(out).__name__)
    stream.draws.steps.append((_without_generator(fn), args, kwargs))
    return _stand_in(cap, stream, out, _bounds_of(cap, fn, args))


def _without_generator(fn: Any) -> Any:
    return lambda generator, *args, **kwargs: fn(*args, **kwargs)


def _bounds_of(cap: Any, fn: Any, args: tuple[Any, ...]) -> tuple[Any, Any]:
    if fn is np.clip and len(args) == 3 and all(type(a) is int for a in args[1:]):
        return args[1], args[2]
    if fn in (int, round, math.floor, math.ceil) and len(args) == 1 and isinstance(args[0].e, FloatExpr):
        return _extremes(cap, args[0].e, fn)
    return None, None


def _extremes(cap: Any, e: FloatExpr, to_int: Any) -> tuple[Any, Any]:
    """Bounds of to_int(e). Sums and products in which each number occurs once are monotone in each, rounding included: the corners decide."""
    if to_int in (int, math.floor) and e.op == "mul" and any(_is_share(cap, e.args[i]) and e.args[1 - i].op == "int" for i in (0, 1)):
        return _below(cap, next(a.args[0] for a in e.args if a.op == "int"))
    ranges = {s: cap.drawn_range.get(s, ()) for s in e.free_symbols}
    leaves = [s for leaf in e.leaves() for s in (leaf.args[0].free_symbols if leaf.op == "int" else leaf.args if leaf.op == "real" else ())]
    if len(leaves) != len(ranges) or len(leaves) > MAX_CORNERS or any(len(r) != 2 for r in ranges.values()) or not _is_multilinear(e):
        return None, None
    corners = [to_int(e.evaluate(dict(zip(ranges, at)))) for at in itertools.product(*ranges.values())]
    return min(corners), max(corners)


def _is_share(cap: Any, e: FloatExpr) -> bool:
    """Whether a number is drawn from 0 to less than 1."""
    return e.op == "real" and list(cap.drawn_range.get(e.args[0], ())) == [0.0, BELOW_ONE]


def _below(cap: Any, n: Expr) -> tuple[Any, Any]:
    """Bounds of int(share * n): the product is rounded to no more than the float before n."""
    env = cap.mode.shape_env
    if not env.statically_true(B.ge(n, 0)):
        return None, None
    return 0, env.sym_int(n - 1 if env.statically_true(B.ge(n, 1)) else n)


def _is_multilinear(e: FloatExpr) -> bool:
    if e.op in ("const", "real"):
        return True
    if e.op == "truediv":
        return e.args[1].op == "const" and _is_multilinear(e.args[0])
    return e.op in ("add", "sub", "mul", "neg") and all(map(_is_multilinear, e.args))


def refuse_to_decide(cap: Any, condition: torch.SymBool) -> None:
    """A branch on a drawn number that both ways can go."""
    e = condition.node.expr
    if e.free_symbols & cap.drawn.keys() and cap.mode.shape_env.facts.decide(e) is None:
        unsupported("random", "a branch on a random number", saw=str(e))


def drawn_value(cap: Any, v: Any) -> Source | None:
    """Where a drawn number is found that the outside sees as it was drawn."""
    e = v.node.expr
    e = e.args[0] if isinstance(e, FloatExpr) and e.op == "real" else e
    found = cap.drawn.get(e) if isinstance(e, Symbol) else None
    if found is not None:
        return found[0]
    if any(cap.drawn[s][1] for s in e.free_symbols & cap.drawn.keys()):
        raise CannotRebuild(None, refusal("random", "a number of NumPy's own type that is computed from random numbers"))
    return None


def emit_states(cap: Any, cg: Any) -> list[str]:
    """Lines that move the generators on."""
    streams = [s for s in cap.streams.values() if s.draws.steps]
    if streams and any(n.meta.get("allowed") for n in cap.graph.nodes):
        raise CannotRebuild(streams[0].step, refusal("random", "random numbers beside a function that is allowed in the graph, which may draw as well"))
    return [f"{cg.constant(set_state)}({cg.source(s.base)}, {cg.source(ItemSource(s.source, 0))})" for s in streams]
