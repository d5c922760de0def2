"""Which sizes and Python ints are symbolic: from the user's wish, from marks, and from what changed between compilations.

Between: the sizes seen at earlier compilations of a code object (`frame_state`) -> fakes of inputs, lifted ints.
Keeps:   `dynamic=None`: static at first, symbolic for what was seen to change, and for tensors that first come once something has; True:
         symbolic at once; False: never.
"""

from __future__ import annotations

from typing import Any

import torch
from lamina_dynshape import ShapeEnv
from lamina_dynshape.boolean import expr_text
from lamina_dynshape.expr import as_expr
from lamina_dynshape.marks import dim_marks

from .guards import Guard, shape_guard
from .source import AttrSource, SizeSource, Source, StrideSource

__all__ = ["Dynamic", "DynamicPolicy"]


CHANGED = "it changed between calls"


class DynamicPolicy:
    """What one compilation makes symbolic; `state` is remembered between compilations of the code."""

    def __init__(self, dynamic: bool | None, state: dict[str, Any]) -> None:
        self.dynamic, self.state = dynamic, state
        self.sizes: dict[str, tuple[int | None, ...]] = state.setdefault("sizes", {})  # None: was seen to change
        self.ints: dict[str, int | None] = state.setdefault("ints", {})

    def static(self) -> DynamicPolicy:
        """For an operator that takes no symbolic sizes: only what the user marked stays symbolic."""
        return DynamicPolicy(False, self.state)

    def dims(self, name: str, t: torch.Tensor, role: str) -> frozenset[int]:
        """Dims of an input to make symbolic; notes its sizes."""
        shape: tuple[int | None, ...] = tuple(t.shape)
        old = self.sizes.get(name)
        if old is None and role == "input" and self._sizes_change():
            shape = (None,) * len(shape)  # a cache that grows with the text, say: its sizes were not there to be compared
        elif old is not None and len(old) == len(shape):
            shape = tuple(n if n == o else None for n, o in zip(shape, old))
        self.sizes[name] = shape
        marked = frozenset(dim_marks(t))
        if self.dynamic is False or role == "parameter":
            return marked
        if self.dynamic:
            return marked | frozenset(range(len(shape)))
        return marked | frozenset(d for d, n in enumerate(shape) if n is None)

    def _sizes_change(self) -> bool:
        """Whether some size was seen to change, at this compilation or before."""
        return any(n is None for shape in self.sizes.values() for n in shape)

    def why(self, t: torch.Tensor, dim: int) -> str:
        """Why a dimension of an input is symbolic."""
        return "marked" if dim in dim_marks(t) else "dynamic=True" if self.dynamic else CHANGED

    def is_dynamic_int(self, name: str, v: int) -> bool:
        """Whether a Python int from outside becomes symbolic; notes its value."""
        old = self.ints.get(name, v)
        self.ints[name] = v if old == v else None
        return self.dynamic is not False and self.ints[name] is None and v > 1


class Dynamic:
    """Mixin of `Capture`: symbols of inputs and the guards on them."""

    policy: DynamicPolicy
    mode: Any
    user_stack: Any
    why_symbolic: dict[str, str]  # source of a number -> why it is symbolic
    number_source: dict[str, Source]

    def shape_env(self) -> Any:
        """The environment, made when the first symbol is wanted."""
        if self.mode.shape_env is None:
            self.mode.shape_env = ShapeEnv()
            self.mode.shape_env.where = self.user_stack
        return self.mode.shape_env

    def fake_input(self, t: torch.Tensor, source: Source, role: str) -> tuple[Any, frozenset[int]]:
        """(fake, dims that came out symbolic)."""
        name = source.name()
        dims = self.policy.dims(name, t, role)
        if not dims:
            return self.mode.from_real(t, source=name, dynamic_dims=()), dims
        self.shape_env()
        for text, place in ((name, source), (f"{name}.grad", AttrSource(source, "grad"))):
            for d in range(t.dim()):
                self.number_source[f"{text}.size()[{d}]"] = SizeSource(place, d)
                self.number_source[f"{text}.stride()[{d}]"] = StrideSource(place, d)
        for d in range(t.dim()):
            self.why_symbolic[f"{name}.size()[{d}]"] = self.policy.why(t, d)
        marks = dim_marks(t)
        fake = self.mode.from_real(t, source=name, dynamic_dims=tuple(d for d in dims if d not in marks) or None)
        return fake, frozenset(d for d, s in enumerate(fake.sizes) if type(s) is not int)

    def symbolic_int(self, v: int, source: Source) -> Any:
        """A Python int from outside as a symbol."""
        name = source.name()
        env = self.shape_env()
        self.number_source[name] = source
        self.why_symbolic[name] = CHANGED
        return env.create_symbol(v, name)

    def symbol_input(self, symbol: Any) -> tuple[Source, int]:
        """Where a backed symbol is read from, and its value now."""
        info = self.mode.shape_env.symbols[symbol]
        return self.number_source[info.sources[0]], info.hint

    def shape_guards(self) -> list[Guard]:
        """Conditions on symbols, equal sizes that share one, strides that follow sizes; none may be taken afterwards."""
        env = self.mode.shape_env
        if env is None:
            return []
        out = []
        for c in env.conditions():
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

    def _guard(self, text: str, symbols: Any, more: dict[str, Source], stack: tuple[Any, ...] = ()) -> Guard:
        return shape_guard(text, {**{s.name: self.symbol_input(s)[0] for s in symbols}, **more}, stack)
