"""Transforms of functions (`torch.vmap`, `torch.func.grad`, `jvp`, ...): one node that applies the transform to the captured function.

Between: a call of a transformed function -> a node whose target runs PyTorch's own transform around a sub-graph.
Keeps:   the function is interpreted once, on the transform's wrappers of fakes; what it calls goes into a graph of its own (a `Scope` of the
         recorder), and what it takes from outside of itself are further operands of the node. Later stages see the transform's ATen calls.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from ..calls import rule
from ..control import InternalError, LaminaError, Observed, native, plain_numbers, unsupported
from ..recorder import Scope

__all__ = ["made_by_transform"]

_MAKERS = {f.__name__: f for f in (torch.vmap, torch.func.grad, torch.func.grad_and_value, torch.func.jacrev, torch.func.jacfwd, torch.func.hessian)}


def _make(maker: Any, cap: Any, args: Any, kwargs: Any) -> Any:
    """What it returns is called by `_call_made`, and its cells are no values from outside."""
    made = native(maker, *args, **kwargs)
    cap.own_cells.update((id(c), (c, None, None, None)) for c in made.__closure__)
    return made


for _maker in _MAKERS.values():
    rule(_maker)(functools.partial(_make, _maker))


def made_by_transform(fn: Any) -> Any:
    """How to call `fn` if it is what `torch.vmap(f)` and its like returned, else None. The same for all functions of its code."""
    maker = _MAKERS.get(fn.__code__.co_qualname.partition(".<locals>.")[0])
    return None if maker is None else functools.partial(_call_made, maker)


def _call_made(maker: Any, cap: Any, fn: Any, args: Any, kwargs: Any) -> Any:
    """The parameters of the maker are the closure of what it made."""
    closure = zip(fn.__code__.co_freevars, cap.closure_of(fn), strict=True)
    options = {name: cell.cell_contents for name, cell in closure if name in inspect.signature(maker).parameters}
    inner = options.pop("func")
    options = plain_numbers(options)
    return _apply(cap, maker.__name__, lambda body: maker(body, **options), inner, args, kwargs)


@rule(torch.func.jvp)
def jvp(cap: Any, args: Any, kwargs: Any) -> Any:
    """The tangents are arguments like the primals."""
    fn, *args = args
    return _apply(cap, "jvp", lambda body: lambda *a, **k: torch.func.jvp(body, *a, **k), fn, args, kwargs)


class _Function:
    """The captured function and its calling convention: tensors of its arguments, then values from outside, in; tensors out."""

    def __init__(self) -> None:
        self.module: Any = None
        self.structure: Any = None  # of the result
        self.constants: list[Any] = []  # leaves of the result; None where a tensor goes

    def __call__(self, args: Any, kwargs: Any, outside: Any) -> Any:
        results = iter(self.module(*_tensors((args, kwargs)), *outside))
        return pytree.tree_unflatten([next(results) if c is _TENSOR else c for c in self.constants], self.structure)


_TENSOR = object()


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [x for x in pytree.tree_leaves(tree) if isinstance(x, torch.Tensor)]


def _apply(cap: Any, name: str, transform: Any, fn: Any, args: Any, kwargs: Any) -> Any:
    """Run the transform on fakes with `fn` interpreted, and record it."""
    rec = cap.recorder
    args, kwargs = tuple(args), dict(kwargs or {})
    leaves, structure = pytree.tree_flatten((args, kwargs))
    leaves = [cap.lift_constant(x) if isinstance(x, torch.Tensor) and not cap.is_fake(x) else x for x in leaves]
    if any(isinstance(x, (torch.SymInt, torch.SymFloat)) for x in leaves):
        unsupported("functorch", "a symbolic number as argument of a functorch transform", saw=name)
    args, kwargs = pytree.tree_unflatten(leaves, structure)
    function = _Function()
    scope = Scope(rec.scope)
    with rec.paused():
        out = native(transform(lambda *a, **k: _body(cap, scope, function, fn, a, k)), *args, **kwargs)
    results, result_structure = pytree.tree_flatten(out)
    fixed = [_TENSOR if isinstance(x, torch.Tensor) else x for x in leaves]
    call = _node_function(name, transform, function, fixed, structure)
    operands = (*[x for x in leaves if isinstance(x, torch.Tensor)], *scope.outside)
    results = _record(rec, call, operands, results)
    if scope.writes:
        rec.written(operands)
    rec.impure |= scope.impure
    return pytree.tree_unflatten(results, result_structure)


def _body(*state: Any) -> Any:
    """`_interpret`, with our own errors told apart from the program's: PyTorch's code lies between here and the interpreter."""
    try:
        return _interpret(*state)
    except (Observed, LaminaError):
        raise
    except Exception as error:
        raise InternalError(f"under a functorch transform: {type(error).__name__}: {error}") from error


def _interpret(cap: Any, scope: Any, function: _Function, fn: Any, args: Any, kwargs: Any) -> Any:
    """The body of the transform: `fn` on the transform's wrappers, recorded in the scope."""
    if function.module is not None:
        unsupported("functorch", "a functorch transform that calls its function more than once")
    rec = cap.recorder
    with rec.resumed(scope):
        for i, t in enumerate(_tensors((args, kwargs))):
            scope.argument(t, f"arg{i}")
        out = cap.call(fn, args, kwargs)
        leaves, function.structure = pytree.tree_flatten(out)
        function.constants = [_TENSOR if isinstance(x, torch.Tensor) else x for x in leaves]
        scope.graph.output(tuple(rec.node_of(x) for x in leaves if isinstance(x, torch.Tensor)))
        function.module = fx.GraphModule(torch.nn.Module(), scope.graph)
    return out


def _node_function(name: str, transform: Any, function: _Function, fixed: list[Any], structure: Any) -> Any:
    """What the node calls: flat operands in, flat tuple of tensors out."""
    count = sum(x is _TENSOR for x in fixed)

    def call(*operands: torch.Tensor) -> tuple[Any, ...]:
        given = iter(operands[:count])
        args, kwargs = pytree.tree_unflatten([next(given) if x is _TENSOR else x for x in fixed], structure)
        out = transform(lambda *a, **k: function(a, k, operands[count:]))(*args, **kwargs)
        return tuple(_tensors(out))

    call.__name__ = call.__qualname__ = f"{name}_of_function"
    return call


def _record(rec: Any, call: Any, operands: tuple[Any, ...], results: list[Any]) -> list[Any]:
    """The node, and the results as values of the enclosing graph."""
    noted = iter(rec.note(call, operands, {}, tuple(x for x in results if isinstance(x, torch.Tensor)), allowed=True))
    return [next(noted) if isinstance(x, torch.Tensor) else x for x in results]
