"""Wrapper subclasses in a joint graph: a functional tensor over a wrapper over fakes.

Between: calls on wrappers in a `torch` graph -> ATen calls on what is inside; gradients and results of compiled graphs -> the wrappers that eager gives.
Keeps:   autograd and functionalization work on the wrapper, as in eager; the class's `__torch_dispatch__` runs below both, and the tracer sees what
         it calls on plain fakes. A wrapper and the functional tensors of what is inside do not know of each other's writes: capture allows none.
         Wrappers come last among the inputs, and what is inside of them is among the plain ones: compiled graphs take those alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from lamina_dynshape import is_wrapper_class
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.errors import LaminaError, Unsupported
from lamina_primops.wrappers import Structure, inner_of, take_apart
from torch import Tensor, fx

from .functionalize import unwrap, wrap
from .signature import GraphSignature, Made, OutputKind

__all__ = ["Again", "Dressed", "assemble", "call_on_wrapper", "classes_code", "functional_wrapper", "open_gradients", "opened", "refuse_gradient", "split_inputs", "versions_of", "watched", "with_wrappers"]

_CODE = "tensor_subclass"


# ---- while tracing -------------------------------------------------------------------------------------------------------
def split_inputs(fakes: Sequence[Any]) -> tuple[list[Any], list[Any], list[tuple[int, ...]]]:
    """(plain inputs, wrappers, for each of these which of the plain inputs are inside)."""
    count = sum(isinstance(f, Tensor) and is_wrapper_class(type(f)) for f in fakes)
    plain, wrappers = list(fakes[: len(fakes) - count]), list(fakes[len(fakes) - count :])
    place = {id(f): i for i, f in enumerate(plain)}
    if any(not is_wrapper_class(type(w)) or any(id(x) not in place for x in take_apart(w)[1]) for w in wrappers):
        raise Unsupported("tensor subclass whose inner tensors are no inputs of the graph", code=_CODE)
    return plain, wrappers, [tuple([place[id(x)] for x in take_apart(w)[1]]) for w in wrappers]


def functional_wrapper(wrapper: Any, inner: Sequence[Any]) -> Tensor:
    """A functional leaf for a wrapper input around `inner`, what the tracer knows by plain fakes."""
    structure, _ = take_apart(wrapper)
    assert structure is not None
    return wrap(structure.build(iter(inner))).requires_grad_(wrapper.requires_grad)


def call_on_wrapper(node: fx.Node) -> Any:
    """What to call on functional tensors for a node that makes a wrapper or takes one apart; None for other nodes."""
    if node.op != "call_function":
        return None
    if node.target is inner_of:
        return lambda wrapper, name: wrap(getattr(unwrap(wrapper), name))
    if not hasattr(node.target, "wraps"):
        return None
    return lambda size, stride, *inner: wrap(node.target(size, stride, *map(unwrap, inner)))


class Dressed:
    """Functional tensors over wrappers that look to Python code of the program like those: of their class, with their attributes."""

    def __init__(self) -> None:
        self._inner: list[tuple[Tensor, str, Tensor, Tensor]] = []

    def up(self, arguments: Any) -> Any:
        """The arguments of a call of such code."""
        for t in arguments:
            if isinstance(t, (tuple, list)):
                self.up(t)
            elif isinstance(t, Tensor) and type(t) is Tensor and is_wrapper_class(type(value := unwrap(t))):
                t.__class__ = type(value)
                t.__dict__.update(value.__dict__)
                inner = [(t, name, wrap(x), x) for name, x in value.__dict__.items() if isinstance(x, Tensor)]
                t.__dict__.update({name: x for _, name, x, _ in inner})
                self._inner += inner
                self.up([x for _, _, x, _ in inner])
        return arguments

    def check(self) -> None:
        """The code wrote to none of the attributes."""
        if any(t.__dict__.get(name) is not x or unwrap(x) is not value for t, name, x, value in self._inner):
            raise Unsupported("write to an inner tensor of a tensor subclass in code that is not captured", code=_CODE)


@contextlib.contextmanager
def classes_code() -> Iterator[None]:
    """Code of a wrapper class may ask for what a functional tensor does not have: a reason to run the program eagerly."""
    try:
        with torch._C.DisableTorchFunctionSubclass():
            yield
    except LaminaError:
        raise
    except Exception as error:
        raise Unsupported("code of a tensor subclass, or with one, that cannot be traced", saw=f"{type(error).__name__}: {error}".partition("\n")[0], code=_CODE) from error


def opened(tensor: Tensor) -> tuple[Structure | None, list[Any]]:
    """How the present value of a functional tensor is put together at run time, and the fakes inside."""
    structure, parts = take_apart(unwrap(tensor))
    if structure is not None and not structure.is_static:
        raise Unsupported("result or gradient of a tensor subclass whose sizes are symbolic", saw=structure.cls.__qualname__, code=_CODE)
    return structure, parts


# ---- at run time ---------------------------------------------------------------------------------------------------------
def with_wrappers(call: Callable[..., Any], signature: GraphSignature) -> Callable[..., Any]:
    """A compiled graph of plain tensors as a callable of all inputs. Wrappers among its results come after its own, the first one last."""
    if not signature.wrappers and not signature.made:
        return call
    count, made = len(signature.roles) - len(signature.wrappers), signature.made[::-1]

    def run(*args: Any) -> Sequence[Any]:
        outs = call(*args[:count])
        return [*outs, *[m.build(outs) for m in made]] if made else outs

    return run


def assemble(backward: Callable[[list[Any]], Sequence[Any]], gradients: Sequence[Made]) -> Callable[[list[Any]], Sequence[Any]]:
    """A compiled backward with its results put together to gradients."""
    if all(m.structure is None for m in gradients):
        return backward

    def run(box: list[Any]) -> Sequence[Any]:
        found = backward(box)
        return [m.build(found) for m in gradients]

    return run


def open_gradients(expected: Sequence[Made], grads: Sequence[Any], empty: Callable[[int], Tensor] | None) -> list[Any] | None:
    """The tangents that gradients of outputs are made of; None where the backward was compiled for others.

    `empty(k)`: tangent `k` of any value, where zeros may stand for no gradient: gradients of plain inputs would have the class of the wrapper.
    """
    flat: list[Any] = []
    for made, grad in zip(expected, grads, strict=True):
        if made.structure is None:
            parts = [grad]
        elif grad is None and empty is None:
            return None
        else:
            if grad is None:
                grad = torch.zeros_like(made.structure.build(iter([empty(k) for k in made.places])))  # type: ignore[misc]
            structure, parts = take_apart(grad)
            if not made.structure.matches(structure):
                return None
        if any(x is not None and is_wrapper_class(type(x)) for x in parts):
            return None
        flat += parts
    return flat


def refuse_gradient(grads: Sequence[Any]) -> NoReturn:
    """The backward is compiled for other classes of gradients."""
    raise RuntimeError(
        f"lamina: the backward of a compiled graph was compiled for gradients of other classes than {', '.join(type(g).__qualname__ for g in grads)}: "
        "call the function uncompiled (lamina.disable), or have it return a value of that class"
    )


class Again:
    """Gradients by eager where the compiled backward does not fit: the captured graph runs once more."""

    def __init__(self, eager: Callable[..., Any], signature: GraphSignature, edges: Sequence[int]) -> None:
        place = {spec.index: position for position, spec in enumerate(signature.outputs) if spec.kind is OutputKind.FRESH}
        self.eager, self.edges = eager, edges
        self.places = [place.get(k) for k in signature.differentiable]
        self.is_possible = not (signature.rng or signature.input_mutations or signature.autocast or None in self.places)

    def gradients(self, args: Sequence[Any], versions: Sequence[int], grads: Sequence[Any]) -> Sequence[Any]:
        """Of the edges. `versions`: of the inputs, when the forward ran."""
        if not self.is_possible or versions_of(args) != list(versions):
            refuse_gradient(grads)
        counters["fallbacks"]["aot gradient of another class"] += 1
        with torch.enable_grad(), torch._C._DisableAutocast():
            inputs = [a.detach() if isinstance(a, Tensor) else a for a in args]
            leaves = [inputs[i].requires_grad_() for i in self.edges]
            outs = self.eager(*inputs)
            ends = [(outs[p], g) for p, g in zip(self.places, grads, strict=True) if g is not None]
            return torch.autograd.grad([o for o, _ in ends], leaves, [g for _, g in ends], allow_unused=True)


def versions_of(args: Sequence[Any]) -> list[int]:
    return [a._version for a in args if isinstance(a, Tensor)]


def watched(signature: GraphSignature) -> tuple[tuple[bool, int], ...]:
    """Wrappers around saved values, as (is an input, place): writes through a wrapper count for it, not for what is inside, so it is saved as well."""
    saved = {(s.is_input, s.index) for s in signature.saved_sources}
    first = len(signature.roles) - len(signature.wrappers)
    inputs = [(True, first + j) for j, inside in enumerate(signature.wrappers) if any((True, i) in saved for i in inside)]
    return (*inputs, *[(False, -1 - j) for j, m in enumerate(signature.made) if any((False, k) in saved for k in m.places)])
