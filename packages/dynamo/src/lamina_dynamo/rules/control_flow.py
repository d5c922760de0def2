"""`torch.cond` and `torch.while_loop`: one node with a captured graph per function, which decides while it runs.

Between: a call of either on a value that only the run knows -> a call of `lamina_primops.control_flow`.
Keeps:   every function is interpreted once, on tensors of its own, into a `Scope` of the recorder; it may change nothing but those.
"""

from __future__ import annotations

import inspect
from typing import Any, NoReturn

import torch
from lamina_dynshape import FakeTensor
from lamina_primops.control_flow import Cond, While, call_of
from torch import fx
from torch.utils import _pytree as pytree

from ..calls import rule
from ..control import Observed, unsupported
from ..opcodes.operators import truth
from ..recorder import Scope

__all__ = ["Part", "run_cond", "run_while_loop"]


def _break(what: str, saw: str = "") -> NoReturn:
    unsupported("control-flow", what, saw=saw)


@rule(torch.cond)
def cond(cap: Any, args: Any, kwargs: Any) -> Any:
    """A condition that is known at capture is a branch like any other."""
    pred, true_fn, false_fn, *rest = inspect.signature(torch.cond).bind(*args, **kwargs).args
    operands = tuple(rest[0]) if rest else ()
    if not isinstance(pred, torch.Tensor):
        return cap.call(true_fn if truth(cap, pred) else false_fn, operands)
    known = cap.recorder.number(pred)
    if known is not None:
        return cap.call(true_fn if known else false_fn, operands)
    if pred.numel() != 1:
        _break("a condition of several elements")
    leaves, structure = _flat(operands)
    parts = [Part(cap, fn, leaves, structure) for fn in (true_fn, false_fn)]
    first, second = parts
    if first.structure != second.structure or first.constants != second.constants or any(_geometry(a) != _geometry(b) for a, b in zip(first.results, second.results, strict=True)):
        _break("branches whose results differ in structure, shape, strides or dtype")
    shown = [a if a.requires_grad else b for a, b in zip(first.results, second.results)]
    operands = (pred, tuple(leaves), first.outside, second.outside)
    return first.unflatten(_record(cap, Cond((first.module, second.module)), operands, shown))


@rule(torch.while_loop)
def while_loop(cap: Any, args: Any, kwargs: Any) -> Any:
    """What is carried requires gradients if it does at first, or after a round."""
    cond_fn, body_fn, carried = inspect.signature(torch.while_loop).bind(*args, **kwargs).args[:3]
    leaves, structure = _flat(tuple(carried))
    if not all(isinstance(x, torch.Tensor) for x in leaves):
        _break("a loop that carries numbers")
    needs = [x.requires_grad for x in leaves]
    while True:
        body = Part(cap, body_fn, leaves, structure, needs)
        if list(map(_geometry, body.results)) != list(map(_geometry, leaves)) or len(body.constants) != len(leaves):
            _break("a loop whose body changes the shape, strides or dtype of what it carries")
        now = [a or b.requires_grad for a, b in zip(needs, body.results)]
        if now == needs:
            break
        needs = now
    condition = Part(cap, cond_fn, leaves, structure, needs)
    if len(condition.constants) != 1 or len(condition.results) != 1 or condition.results[0].numel() != 1:
        _break("a loop whose condition is no tensor of one element")
    operands = (tuple(leaves), condition.outside, body.outside)
    return body.unflatten(_record(cap, While((condition.module, body.module)), operands, body.results))


def run_cond(pred: Any, true_fn: Any, false_fn: Any, operands: Any = ()) -> Any:
    """`torch.cond` as a plain branch: what runs at a graph break in its place, which would start the reference compiler."""
    return true_fn(*operands) if pred else false_fn(*operands)


def run_while_loop(cond_fn: Any, body_fn: Any, carried_inputs: Any) -> Any:
    """`torch.while_loop` as a plain loop."""
    carried = tuple(carried_inputs)
    while cond_fn(*carried):
        carried = tuple(body_fn(*carried))
    return carried


def _flat(operands: Any) -> tuple[list[Any], Any]:
    leaves, structure = pytree.tree_flatten(operands)
    if any(isinstance(x, torch.Tensor) and not isinstance(x, FakeTensor) or isinstance(x, (torch.SymInt, torch.SymFloat)) for x in leaves):
        _break("an operand that is no plain tensor")
    return leaves, structure


def _geometry(t: Any) -> Any:
    return (t.dtype, t.fake_device, t.sizes, t.strides) if isinstance(t, FakeTensor) else _break("a result that is no plain tensor")


def _another(t: Any, needs_grad: bool) -> Any:
    """A tensor like this one, in memory of its own."""
    with torch._C.DisableTorchFunction():
        return t.detach().requires_grad_(needs_grad).clone() if needs_grad != t.requires_grad else t.clone()


class Part:
    """A function captured: its graph, what it takes from outside, and the results on fakes. Leaves that are no tensors are fixed."""

    def __init__(self, cap: Any, fn: Any, leaves: list[Any], structure: Any, needs: list[bool] | None = None) -> None:
        rec = cap.recorder
        scope = Scope(rec.scope)
        given = [_another(x, x.requires_grad if needs is None else needs[i]) if isinstance(x, torch.Tensor) else x for i, x in enumerate(leaves)]
        before = cap.changes()
        with rec.resumed(scope):
            for i, (x, outer) in enumerate(zip(given, leaves)):
                if isinstance(x, torch.Tensor):
                    _describe(scope.argument(x, f"arg{i}"), x)
                else:
                    _describe(scope.argument(outer, f"fixed{i}"), outer)
            try:
                out = cap.call(fn, pytree.tree_unflatten(given, structure))
            except Observed as error:
                _break("a function that raises", f"{type(error.exc).__name__}: {error.exc}")
            found, self.structure = pytree.tree_flatten(out)
            self.results = [self._own(cap, scope, x) for x in found if isinstance(x, torch.Tensor)]
            self.constants = [_TENSOR if isinstance(x, torch.Tensor) else x for x in found]
            node = scope.graph.output(tuple(rec.node_of(x) for x in self.results))
            node.meta.update(val=tuple(self.results), stack=())
        for placeholder, x in zip([n for n in scope.graph.nodes if n.op == "placeholder"][len(given) :], scope.outside):
            _describe(placeholder, x)
        if cap.changes() != before or any(x.storage_key in rec.mutated for x in (*given, *scope.outside) if isinstance(x, FakeTensor)):
            _break("a function that changes more than tensors of its own")
        if any(isinstance(x, (torch.SymInt, torch.SymFloat)) for x in (*found, *scope.outside)):
            _break("a function that takes or gives symbolic numbers")
        rec.impure |= scope.impure
        self.outside = tuple(scope.outside)
        self.module = fx.GraphModule(torch.nn.Module(), scope.graph)

    def _own(self, cap: Any, scope: Any, x: Any) -> Any:
        """Results are new tensors, never operands."""
        if id(x) in {id(t) for t in scope.outside} or not cap.is_fake(x) or scope.nodes.get(id(x)) is None or scope.nodes[id(x)].op == "placeholder":
            with torch._C.DisableTorchFunction():
                return cap.recorder.run(torch.Tensor.clone, (x,), {})
        return x

    def unflatten(self, results: list[Any]) -> Any:
        given = iter(results)
        return pytree.tree_unflatten([next(given) if c is _TENSOR else c for c in self.constants], self.structure)


class _Tensor:
    """Where a tensor goes among the leaves of a result."""


_TENSOR = _Tensor()


def _describe(node: fx.Node, value: Any) -> None:
    node.meta.update(val=value, source=node.name, role="input", stack=())


def _record(cap: Any, control: Any, operands: Any, shown: list[Any]) -> list[Any]:
    """The node, and its results as new values of the enclosing graph."""
    results = tuple(_another(t, t.requires_grad) for t in shown)
    return list(cap.recorder.note(call_of(control), operands, {}, results, allowed=True))
