"""What a functional graph no longer says about the program it came from.

Between: joint trace -> partition, compilers and the runtime wrapper.
Keeps:   graph outputs are values only. That an output *is* an input, is a view of one or of another output, and that an input is
         written, is written down here, and nowhere else.

Graph outputs come in this order: `fresh` values (user outputs and hidden bases), then written inputs that the runtime copies back under
autograd, then the plain `mutations`, which a backend may write itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from lamina_primops.wrappers import Structure

from .views import ViewSpec

__all__ = ["GraphSignature", "InputMutation", "Made", "OutputAlias", "OutputKind", "OutputSpec", "SavedSource"]


class OutputKind(Enum):
    FRESH = auto()          # graph output `index`
    INPUT = auto()          # the input `index` itself
    VIEW_OF_INPUT = auto()  # `view` replayed on input `index`
    VIEW_OF_OUTPUT = auto() # `view` replayed on graph output `index`
    SAME = auto()           # output `index` of the program once more
    CONSTANT = auto()       # `value`, known when traced


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """How the runtime makes one output of the program."""

    kind: OutputKind
    index: int = -1
    view: ViewSpec | None = None
    requires_grad: bool = False
    value: Any = None
    no_grad: bool = False      # a view that was made with gradients off
    leaf: bool = False         # a fresh value that requires gradients and has no history


@dataclass(frozen=True, slots=True)
class OutputAlias:
    """Output `output` of the program is a view of input or graph output `base`."""

    output: int
    base_is_input: bool
    base: int
    view: ViewSpec


@dataclass(frozen=True, slots=True)
class InputMutation:
    """Input `input` is written: `output` is the graph output with its new data (None: only its geometry changes, by `view`)."""

    input: int
    output: int | None
    tracked: bool = False        # the write is part of the autograd history: copy_ with gradients on
    view: ViewSpec | None = None # new geometry, as a view of the input


@dataclass(frozen=True, slots=True)
class SavedSource:
    """A saved value is an input of the forward graph, or one of its outputs."""

    is_input: bool
    index: int


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor that the runtime makes of plain ones; without `structure`, the plain tensor itself."""

    structure: Structure | None
    places: tuple[int, ...]

    def build(self, values: Sequence[Any]) -> Any:
        if self.structure is None:
            return values[self.places[0]]
        return self.structure.build(iter([values[k] for k in self.places]))


@dataclass(slots=True)
class GraphSignature:
    """Roles of the inputs and outputs of a graph; see the module."""

    roles: list[str]                                        # one per input: input, parameter, buffer, size
    outputs: list[OutputSpec] = field(default_factory=list) # one per output of the program
    input_mutations: list[InputMutation] = field(default_factory=list)
    mutations: list[tuple[int, int]] = field(default_factory=list)  # (graph output, input), trailing outputs, free for a backend to write
    num_outputs: int = 0                                    # graph outputs of the forward, mutations included, saved values not
    differentiable: list[int] = field(default_factory=list) # graph outputs that get a tangent
    tangents: list[Any] = field(default_factory=list)       # fake tensor per tangent
    grad_inputs: list[int] = field(default_factory=list)    # inputs that get a gradient (None gradients left out)
    requires_grad: list[int] = field(default_factory=list)  # inputs that take part in autograd, when gradients are on
    repeated: list[int] = field(default_factory=list)       # inputs that the backward writes: it takes them last, and returns their values last
    spent: list[int] = field(default_factory=list)          # positions in `differentiable` of outputs that the program differentiated already
    backward_error: str | None = None                       # what differentiating them raises, as in eager
    saved: list[Any] = field(default_factory=list)          # fake tensor or SymInt per value kept for the backward
    num_saved_symbols: int = 0                              # of these, the last ones are symbolic numbers
    saved_sources: list[SavedSource] = field(default_factory=list)  # where the runtime finds each saved value after the forward
    turns_gradients_on: bool = False                        # called with gradients off, which the program turns on
    wrappers: list[tuple[int, ...]] = field(default_factory=list)  # per wrapper, the last inputs, which compiled graphs do not take: the inputs inside of it
    made: list[Made] = field(default_factory=list)          # wrappers made of graph outputs; number k of these is graph output -1 - k
    opened: list[Made] = field(default_factory=list)        # per differentiable output, when there are wrappers: its gradient, of tangents
    gradients: list[Made] = field(default_factory=list)     # per entry of `grad_inputs`, when one is a wrapper: made of the backward's results
    rng: bool = False                                       # draws random numbers
    autocast: bool = False                                  # traced under autocast: run with autocast off

    @property
    def aliases(self) -> list[OutputAlias]:
        """Outputs that are regenerated as views."""
        kinds = (OutputKind.VIEW_OF_INPUT, OutputKind.VIEW_OF_OUTPUT)
        return [
            OutputAlias(i, s.kind is OutputKind.VIEW_OF_INPUT, s.index, s.view)
            for i, s in enumerate(self.outputs) if s.kind in kinds and s.view is not None
        ]
