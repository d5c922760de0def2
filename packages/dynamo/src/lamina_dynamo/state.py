"""PyTorch's state outside of tensors: what the program set of it, undone after the capture and set again by the replacement code.

Between: rules for setters and contexts (`rules/settings.py`, `rules/contexts.py`) -> lines of the replacement code.
Keeps:   a setter runs for real while capturing, so that the fakes see it. The graph holds the setters, too, for backends that run it as it is; a
         backend that compiles meets them while it traces, and what they set is put back after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from .control import native
from .guards import GuardKind, devices_of_modes
from .source import CallSource, ConstantSource

__all__ = ["DEFAULT_DEVICE", "Setting", "StateLeft", "apply", "emit_state", "global_device", "inference_outputs", "leave_state", "no_hooks_on_saved_tensors", "preserved", "rng_state", "spent_inference_mode", "start_state", "state_left"]


class Setting(NamedTuple):
    """`write(*key, *read(*key))` changes nothing. `keys`: how many arguments say which; `guarded`: by the state guard that each entry has."""

    write: Any
    read: Callable[..., tuple[Any, ...]]
    keys: int = 0
    guarded: bool = False


def apply(cap: Any, s: Setting, args: Any, kwargs: Any, *, in_graph: bool = True) -> None:
    """The program calls a setter."""
    key = tuple(args[: s.keys])
    was = s.read(*key)
    with torch._C.DisableTorchFunction():
        native(s.write, *args, **kwargs)
    cap.settings.setdefault((s, key), was)
    if in_graph:
        cap.recorder.emit(s.write, args, kwargs, None)


def _changed(cap: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """(setter, arguments) of what the program leaves otherwise than it found it."""
    return [(s.write, (*key, *now)) for (s, key), was in cap.settings.items() if (now := s.read(*key)) != was]


def _restore(settings: dict[tuple[Setting, Any], Any]) -> None:
    for (s, key), was in reversed(settings.items()):
        if s.read(*key) != was:
            s.write(*key, *was)


@contextlib.contextmanager
def preserved(settings: dict[tuple[Setting, Any], Any]) -> Iterator[None]:
    """Settings that something inside may change are as before afterwards."""
    before = {(s, key): s.read(*key) for s, key in settings}
    try:
        yield
    finally:
        _restore(before)


@contextlib.contextmanager
def no_hooks_on_saved_tensors() -> Iterator[None]:
    """What autograd saves of fakes is not shown to the program's hooks."""
    hooks = []
    while (pair := torch._C._autograd._top_saved_tensors_default_hooks(True)) is not None:
        hooks.append(pair)
        torch._C._autograd._pop_saved_tensors_default_hooks()
    try:
        yield
    finally:
        for pack, unpack in reversed(hooks):
            torch._C._autograd._push_saved_tensors_default_hooks(pack, unpack)


# ---- at the start of a capture -------------------------------------------------------------------------------------------
def global_device() -> torch.device | None:
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


DEFAULT_DEVICE = Setting(torch.set_default_device, lambda: (global_device(),))


def rng_state(_: Any) -> torch.Tensor:
    """For `CallSource`: the random generator's state when the frame starts."""
    return torch.get_rng_state()


def start_state(cap: Any) -> None:
    """What the frame finds when it starts."""
    cap.entry_devices = devices = devices_of_modes() or ()
    cap.devices = list(devices)
    if devices:
        cap.guards.add(CallSource(devices_of_modes, ConstantSource(None)), GuardKind.EQUALS, devices)


# ---- at the end of a capture ---------------------------------------------------------------------------------------------
class StateLeft(NamedTuple):
    """PyTorch's state where the program leaves it otherwise than the frame found it."""

    settings: list[tuple[Any, tuple[Any, ...]]]
    nesting: int  # of autocast
    inference: list[tuple[Any, bool]]
    devices: tuple[list[torch.device], list[torch.device]]  # left, entered

    def __bool__(self) -> bool:
        return bool(self.settings or self.nesting or self.inference or any(self.devices))


def state_left(cap: Any) -> StateLeft:
    same = 0
    while same < min(len(cap.devices), len(cap.entry_devices)) and cap.devices[same] == cap.entry_devices[same]:
        same += 1
    if any(s is DEFAULT_DEVICE for s, _ in cap.settings):  # replayed as a setting
        same = len(cap.devices)
    return StateLeft(_changed(cap), cap.autocast_nesting, list(cap.inference), (list(cap.entry_devices[same:])[::-1], cap.devices[same:]))


def emit_state(cap: Any, cg: Any) -> list[str]:
    """Lines that bring PyTorch's state to where the program left it. They come first after the graph."""
    left: StateLeft = cap.left
    lines = []
    for guard, grad in left.inference:
        name = cg.names[id(guard)] = cg.fresh()
        cg.hold.append(guard)
        lines += [f"{cg.constant(torch._C._set_grad_enabled)}({grad})", f"{name} = {cg.constant(torch._C._InferenceMode)}({cap.inference_modes[id(guard)][1]})"]
    for setter, args in left.settings:
        lines.append(f"{cg.constant(setter)}({', '.join([cg.constant(a) for a in args])})")
    step = torch.autocast_increment_nesting if left.nesting > 0 else torch.autocast_decrement_nesting
    lines += [f"{cg.constant(step)}()"] * abs(left.nesting)
    lines += [f"{cg.constant(torch.device.__exit__)}({cg.constant(d)}, None, None, None)" for d in left.devices[0]]
    return lines + [f"{cg.constant(torch.device.__enter__)}({cg.constant(d)})" for d in left.devices[1]]


def spent_inference_mode(mode: bool) -> Any:
    """An inference mode that was left again."""
    made = torch._C._InferenceMode(mode)
    made.__exit__(None, None, None)
    return made


def _as_inference(t: torch.Tensor) -> torch.Tensor:
    """The same memory as an inference tensor."""
    with torch.inference_mode():
        return torch.empty(0, dtype=t.dtype, device=t.device).set_(t.untyped_storage(), t.storage_offset(), t.shape, t.stride())


def inference_outputs(cap: Any, cg: Any) -> list[str]:
    """Lines that make inference tensors of what eager would have made in inference mode."""
    if not cap.inference_modes or cap.entry_state.expected.inference_mode:
        return []
    return [f"_o{i} = {cg.constant(_as_inference)}(_o{i})" for i, v in enumerate(cg.output_values) if isinstance(v, torch.Tensor) and v.is_inference()]


def leave_state(cap: Any) -> None:
    """After a capture: as the frame found it."""
    for guard, _ in reversed(cap.inference):
        guard.__exit__(None, None, None)
    _restore(cap.settings)
    for _ in range(abs(cap.autocast_nesting)):
        (torch.autocast_decrement_nesting if cap.autocast_nesting > 0 else torch.autocast_increment_nesting)()
