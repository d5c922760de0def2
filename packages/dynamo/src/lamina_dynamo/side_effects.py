"""Side effects: what the frame changed in the outside world, replayed by the replacement code.

Between: shadows, overlays and cells of a capture -> lines of the replacement function.
Keeps:   all new values are built before the first store, so a store cannot change what a later line reads; objects
         keep their identity; what was stored back unchanged is not stored at all.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

from .control import DELETED, MISSING, CannotRebuild, refusal, unsupported
from .draws import emit_states
from .lift import _contents, is_torch_owned
from .rebuild import Codegen
from .wrappers import emit_versions

__all__ = ["add_effect", "emit_side_effects", "sets_attribute"]


def emit_side_effects(cap: Any, cg: Codegen) -> None:
    """Append the lines that bring the outside to where the interpreter left it."""
    from .rules.leaves import emit_inputs
    from .rules.torch_generators import emit_generators

    stores: list[str] = emit_inputs(cap, cg) + emit_versions(cap, cg) + emit_states(cap, cg) + emit_generators(cap, cg)
    _containers(cap, cg, stores)
    stores += [f"{cg.constant(list.append)}({cg.value(v)}, {cg.value(x)})" for v, x in cap.appended]
    _attributes(cap, cg, stores)
    _globals(cap, cg, stores)
    _cells(cap, cg, stores)
    stores += _calls(cap, cg)
    locks = [cg.source(cap.base_source(lock)) for lock in cap.locks.taken]
    for line in [*(f"{lock}.acquire()" for lock in locks), *stores, *(f"{lock}.release()" for lock in reversed(locks))]:
        cg.emit(line)


# ---- calls -----------------------------------------------------------------------------------------------------------------
def add_effect(cap: Any, code: str, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Call `fn` after the graph, in the order of the program: what is printed, what is logged. The arguments are texts and constants, or objects from outside."""
    rec = cap.recorder
    if cap.once or rec.scope is not None or rec.regions:
        unsupported(code, "output under a transform, in a checkpointed region or in a cached function")
    cap.effects.append((code, fn, args, kwargs, cap.step))


def sets_attribute(cap: Any, module: Any, *names: str) -> bool:
    """Whether the frame assigned one of these attributes of a module."""
    return any(n in cap.overlay.get(id(module), ()) or (id(vars(module)), n) in cap.globals_overlay for n in names)


def _calls(cap: Any, cg: Codegen) -> list[str]:
    lines = []
    for code, fn, args, kwargs, step in cap.effects:
        if any(n.meta.get("allowed") for n in cap.graph.nodes):  # the program's own code, which may print as well, runs in the graph
            raise CannotRebuild(step, refusal(code, "output beside a function that is allowed in the graph"))
        names = [cg.value(a) for a in args] + [f"{k}={cg.value(a)}" for k, a in kwargs.items()]
        lines.append(f"{cg.constant(fn)}({', '.join(names)})")
    return lines


def _containers(cap: Any, cg: Codegen, stores: list[str]) -> None:
    for original in list(cap.shadow_of):
        shadow = cap.shadow_of[original]
        before = cap.pristine[id(shadow)]
        if isinstance(shadow, dict):
            _dict(cap, cg, shadow, before, stores)
        elif isinstance(shadow, set):
            if set(shadow) != before:
                name = cg.value(shadow)
                new = "[" + ", ".join(cg.value(x) for x in shadow) + "]"
                stores += [f"{cg.constant(set.clear)}({name})", f"{cg.constant(set.update)}({name}, {new})"]
        else:
            base = deque if isinstance(shadow, deque) else list
            now = list(base.__iter__(shadow))
            if len(now) == len(before) and all(a is b for a, b in zip(now, before)):
                continue
            name = cg.value(shadow)
            new = "[" + ", ".join(cg.value(x) for x in now) + "]"
            if base is list:
                stores.append(f"{cg.constant(list.__setitem__)}({name}, {cg.constant(slice(None))}, {new})")
            else:
                stores += [f"{cg.constant(deque.clear)}({name})", f"{cg.constant(deque.extend)}({name}, {new})"]


def _dict(cap: Any, cg: Codegen, shadow: Any, before: dict[Any, Any], stores: list[str]) -> None:
    now = dict(OrderedDict.items(shadow) if isinstance(shadow, OrderedDict) else dict.items(shadow))
    if len(now) == len(before) and all(k is j and v is w for (k, v), (j, w) in zip(now.items(), before.items())):
        return
    name = cg.value(shadow)
    kind = OrderedDict if isinstance(shadow, OrderedDict) else dict
    put, drop = cg.constant(kind.__setitem__), cg.constant(kind.__delitem__)
    kept = [k for k in before if k in now]
    if list(now)[: len(kept)] != kept:  # an order that deletions and additions do not give
        stores.append(f"{cg.constant(kind.clear)}({name})")
        before = {}
    stores += [f"{drop}({name}, {cg.value(k)})" for k in before if k not in now]
    stores += [f"{put}({name}, {cg.value(k)}, {cg.value(v)})" for k, v in now.items() if before.get(k, MISSING) is not v]


def _attributes(cap: Any, cg: Codegen, stores: list[str]) -> None:
    for key, attributes in cap.overlay.items():
        obj = cap.keep[key]
        if cap.is_fake(obj) and id(obj) not in cap.inputs:
            continue  # a tensor of the graph: its attributes are set where it is rebuilt
        name = cg.value(obj) if cap.is_fake(obj) else cg.source(cap.base_source(obj))
        tensor = cap.is_fake(obj)
        for attr, v in attributes.items():
            if v is DELETED:
                stores.append(f"{name}.__dict__.pop({attr!r}, None)" if tensor else f"{cg.constant(object.__delattr__)}({name}, {attr!r})")
            elif isinstance(obj, type):
                stores.append(f"{cg.constant(setattr)}({name}, {attr!r}, {cg.value(v)})")
            else:
                stores.append(f"{cg.constant(object.__setattr__)}({name}, {attr!r}, {cg.value(v)})")


def _globals(cap: Any, cg: Codegen, stores: list[str]) -> None:
    for (key, name), v in cap.globals_overlay.items():
        if is_torch_owned(cap.globals_dicts[key].get("__name__")) and cap.globals_dicts[key].get(name, MISSING) is v:
            continue  # set and set back
        table = cg.constant(cap.globals_dicts[key])
        if v is DELETED:
            stores.append(f"del {table}[{name!r}]")
        else:
            stores.append(f"{table}[{name!r}] = {cg.value(v)}")


def _cells(cap: Any, cg: Codegen, stores: list[str]) -> None:
    for cell in cap.written_cells():
        now = _contents(cell)
        target = cg.cell(cell)
        if now is MISSING:
            stores.append(f"del {target}.cell_contents")
        else:
            stores.append(f"{target}.cell_contents = {cg.value(now)}")


