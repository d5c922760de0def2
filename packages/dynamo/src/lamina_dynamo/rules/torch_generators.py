"""`torch.Generator`: in the graph it is its state, a tensor.

Between: calls that name a generator, and its methods -> the calls without it, between two exchanges of the default generator's state.
Keeps:   the state comes from outside anew at each call and is set by the replacement code, so that a graph that raises leaves the generator alone; the
         default generator is where it was. A generator that the frame makes starts with the state that its seed gives.
"""

from __future__ import annotations

from typing import Any

import torch
from lamina_primops import rng
from torch.utils._python_dispatch import _disable_current_modes

from ..calls import rule
from ..control import native, unsupported
from ..guards import GuardKind
from ..recorder import Recorder
from ..source import CallSource, ConstantSource
from .settings import _run_rng, manual_seed

__all__ = ["draw_with", "emit_generators", "method", "rebuilt"]


# ---- state -----------------------------------------------------------------------------------------------------------------
def _state_of(generator: Any) -> Any:
    """For `CallSource`: where a generator is when the frame starts. The guards do not hold of what has no such state."""
    if type(generator) is not torch.Generator or generator.device.type != "cpu":
        raise TypeError("not a generator of the CPU")
    return generator.get_state()


def _current(cap: Any, generator: torch.Generator) -> Any:
    """The state of a generator as the graph knows it."""
    known = cap.generators.get(id(generator))
    if known is not None:
        return known[1]
    if generator.device.type != "cpu" or cap.recorder.regions or cap.recorder.scope is not None:
        unsupported("generator", "a generator of another device, or used under a transform or in a checkpointed region", saw=str(generator.device))
    if id(generator) in cap.own:
        return _set(cap, generator, cap.lift_constant(_real(generator.get_state)))
    source = cap.base_source(generator)
    if type(source) is not ConstantSource:  # it is none of the others
        others = [cap.base_source(g) for g, _ in cap.generators.values() if id(g) not in cap.own]
        cap.guards.add(source, GuardKind.NO_ALIAS, (ConstantSource(torch.default_generator), *others))
    with torch._C.DisableTorchFunction():
        return _set(cap, generator, cap.add_input(_real(generator.get_state), CallSource(_state_of, source), "input"))


def _real(make: Any) -> Any:
    with torch._C.DisableTorchFunction(), _disable_current_modes():
        return make()


def _set(cap: Any, generator: torch.Generator, state: Any) -> Any:
    cap.generators[id(generator)] = generator, state
    return state


# ---- calls -----------------------------------------------------------------------------------------------------------------
def draw_with(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """`func(*args, generator=g, ...)`."""
    cap, generator = rec.cap, kwargs["generator"]
    plain = {k: v for k, v in kwargs.items() if k != "generator"}
    if generator is torch.default_generator:
        _guard_default(cap, generator)
        with rec:
            return func(*args, **plain)
    if not (getattr(func, "__module__", None) or "torch").startswith("torch"):
        unsupported("generator", "a generator given to a function that is not PyTorch's", saw=str(func))
    state = _current(cap, generator)
    before = _run_rng(cap, rng.get_state)
    _run_rng(cap, rng.set_state, state)
    with rec:
        out = func(*args, **plain)
    _set(cap, generator, _run_rng(cap, rng.get_state))
    _run_rng(cap, rng.set_state, before)
    return out


def _guard_default(cap: Any, generator: torch.Generator) -> None:
    source = cap.path_of(generator)
    if source is not None:
        cap.guard(source, GuardKind.ID, generator)


@rule(torch.Generator)
def make(cap: Any, args: Any, kwargs: Any) -> torch.Generator:
    """Its first state is the same in each process."""
    made = native(torch.Generator, *args, **kwargs)
    cap.own[id(made)] = made
    cap.created[id(made)] = made, cap.step
    return made


def method(cap: Any, generator: torch.Generator, name: str, args: Any, kwargs: Any) -> Any:
    """`generator.name(*args)`."""
    arguments = (*args, *kwargs.values())
    if generator is torch.default_generator and name in _OF_DEFAULT:
        _guard_default(cap, generator)
        return _OF_DEFAULT[name](cap, *arguments)
    if name == "manual_seed" and type(arguments[0]) is int:
        _current(cap, generator)
        _set(cap, generator, cap.lift_constant(_real(lambda: native(torch.Generator().manual_seed, *arguments).get_state())))
        return generator
    if name == "get_state":
        return cap.recorder.run(torch.Tensor.clone, (_current(cap, generator),), {})
    if name == "set_state" and isinstance(arguments[0], torch.Tensor):
        _current(cap, generator)
        _set(cap, generator, cap.recorder.run(torch.Tensor.clone, arguments, {}))
        return generator
    unsupported("generator", "a method of a torch.Generator that is not modelled", saw=name)


_OF_DEFAULT: dict[str, Any] = {
    "manual_seed": lambda cap, seed: manual_seed(cap, (seed,), {}), "get_state": lambda cap: _run_rng(cap, rng.get_state),
    "set_state": lambda cap, state: (_run_rng(cap, rng.set_state, state), torch.default_generator)[1],
}  # fmt: skip


# ---- after the graph -------------------------------------------------------------------------------------------------------
def emit_generators(cap: Any, cg: Any) -> list[str]:
    """Lines that bring generators from outside to where the program left them."""
    left = [(g, state) for g, state in cap.generators.values() if id(g) not in cap.own and not _is_first(cap, g, state)]
    return [f"{cg.constant(torch.Generator.set_state)}({cg.source(cap.base_source(g))}, {cg.value(state)})" for g, state in left]


def _is_first(cap: Any, generator: torch.Generator, state: Any) -> bool:
    """Whether a generator is where the frame found it."""
    inp = cap.inputs.get(id(state))
    return inp is not None and inp.source is CallSource(_state_of, cap.base_source(generator))


def rebuilt(cap: Any, cg: Any, generator: torch.Generator) -> str:
    """A generator that the frame made, in the state where it left it."""
    return f"{cg.constant(torch.Generator.set_state)}({cg.constant(torch.Generator)}(), {cg.value(_current(cap, generator))})"
