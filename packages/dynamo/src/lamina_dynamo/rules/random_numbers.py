"""Rules for the random numbers of Python's `random` and of NumPy: which calls are drawn for the frame (`draws.py`), and what bounds their results.

A generator that the frame makes from a seed always gives the same numbers: it simply runs. One that is seeded by the system breaks the graph.
"""

from __future__ import annotations

import random
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..calls import rule
from ..control import native, unsupported
from ..draws import BELOW_ONE, GENERATORS, record
from ..source import ConstantSource

__all__ = ["ask"]

_PYTHON = frozenset({
    "random", "uniform", "triangular", "randint", "randrange", "getrandbits", "choice", "choices", "sample", "shuffle", "gauss", "normalvariate", "lognormvariate", "betavariate",
    "expovariate", "gammavariate", "vonmisesvariate", "paretovariate", "weibullvariate", "seed",
})  # fmt: skip
_DISTRIBUTIONS = frozenset({
    "beta", "binomial", "chisquare", "dirichlet", "exponential", "f", "gamma", "geometric", "gumbel", "hypergeometric", "laplace", "logistic", "lognormal", "logseries", "multinomial",
    "multivariate_normal", "negative_binomial", "noncentral_chisquare", "noncentral_f", "normal", "pareto", "poisson", "power", "rayleigh", "standard_cauchy", "standard_exponential",
    "standard_gamma", "standard_normal", "standard_t", "triangular", "uniform", "vonmises", "wald", "weibull", "zipf", "choice", "permutation", "random", "shuffle",
})  # fmt: skip
_OF_CLASS = {
    random.Random: _PYTHON, np.random.RandomState: _DISTRIBUTIONS | {"rand", "randn", "randint", "random_sample", "random_integers", "seed", "tomaxint"},
    np.random.Generator: _DISTRIBUTIONS | {"integers"},
}  # fmt: skip
_OF_POPULATION = frozenset({"choice", "choices", "sample", "shuffle"})


def ask(cap: Any, generator: Any, name: str, args: Any, kwargs: Any) -> Any:
    """`generator.name(*args, **kwargs)`."""
    if id(generator) in cap.own:
        return native(getattr(generator, name), *[cap.concrete(a) for a in args], **{k: cap.concrete(v) for k, v in kwargs.items()})
    if name not in _OF_CLASS.get(type(generator), ()):
        unsupported("random", "a method of a random generator that is not modelled", saw=f"{type(generator).__qualname__}.{name}")
    if name == "seed" and (not args or args[0] is None):
        unsupported("random", "a seed that the system chooses")
    if name in _OF_POPULATION and args and type(args[0]) in (list, tuple):
        _refuse_objects(args[0])
    if name == "shuffle":
        return _shuffle(cap, generator, *args, **kwargs)
    return record(cap, generator, _method(name), args, kwargs, _bounds(generator, name, args, kwargs))


def _method(name: str) -> Callable[..., Any]:
    def call(generator: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(generator, name)(*args, **kwargs)

    return call


def _refuse_objects(population: Any) -> None:
    """What is chosen must be a number of one type, whatever is drawn."""
    kinds = {int if type(x) is torch.SymInt else float if type(x) is torch.SymFloat else type(x) for x in population}
    if kinds != {int} and kinds != {float}:
        unsupported("random", "a random choice between objects", hint="choose between tensors by torch.where or an index, or choose outside of the compiled function")


def _shuffle(cap: Any, generator: Any, items: Any, **kwargs: Any) -> None:
    if type(items) is not list or kwargs:
        unsupported("random", "shuffling what is no list", saw=type(items).__name__)
    items[:] = record(cap, generator, _shuffled, (list(items),), {}, _span(items))


def _shuffled(generator: Any, items: list[Any]) -> list[Any]:
    generator.shuffle(items)
    return items


# ---- bounds --------------------------------------------------------------------------------------------------------------
def _bounds(generator: Any, name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The least and the greatest number that a call can give, None where that is not said."""
    if name in ("random", "random_sample", "rand") and not kwargs:
        return 0.0, BELOW_ONE
    if name == "randint":
        return (_between if isinstance(generator, random.Random) else _half_open)(*args, **kwargs)
    return _BOUNDS[name](*args, **kwargs) if name in _BOUNDS else (None, None)


def _span(population: Any) -> tuple[Any, Any]:
    if type(population) is range or isinstance(population, (list, tuple)) and all(type(x) is int for x in population):
        return (min(population), max(population)) if population else (None, None)
    return None, None


def _between(a: Any, b: Any) -> tuple[Any, Any]:
    return a, b


def _python_range(start: Any, stop: Any = None, step: Any = 1) -> tuple[Any, Any]:
    if stop is None:
        start, stop = 0, start
    return (start, stop - 1) if type(step) is int and step > 0 else (None, None)


def _half_open(low: Any, high: Any = None, size: Any = None, dtype: Any = None, endpoint: bool = False) -> tuple[Any, Any]:
    if size is not None:
        return None, None
    low, high = (0, low) if high is None else (low, high)
    return low, high if endpoint else high - 1


def _uniform(a: Any = 0.0, b: Any = 1.0, size: Any = None, **names: Any) -> tuple[Any, Any]:
    a, b = names.get("low", a), names.get("high", b)
    return (min(a, b), max(a, b)) if all(type(x) in (int, float) for x in (a, b)) else (None, None)


def _chosen(population: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    return (0, population - 1) if isinstance(population, (int, torch.SymInt)) else _span(population)


_BOUNDS: dict[str, Any] = {
    "randrange": _python_range, "getrandbits": lambda k: (0, (1 << k) - 1 if type(k) is int else None), "choice": _chosen, "choices": _chosen, "sample": _chosen,
    "integers": _half_open, "uniform": _uniform,
}  # fmt: skip


# ---- who is called ---------------------------------------------------------------------------------------------------------
def _methods() -> None:
    """Methods written in Python or Cython are called with their generator in front."""

    def asked(name: str) -> Any:
        return lambda cap, args, kwargs: ask(cap, args[0], name, args[1:], kwargs)

    for cls in GENERATORS:
        for name, method in vars(cls).items():
            if type(method) is types.FunctionType or type(method).__name__ == "cython_function_or_method":
                if not name.startswith("_"):
                    rule(method)(asked(name))


_methods()


@rule(np.random.seed)
def seed(cap: Any, args: Any, kwargs: Any) -> None:
    """Of the generator that NumPy's functions share."""
    shared = np.random.mtrand._rand
    if id(shared) not in cap.lifted:
        cap.lift(shared, ConstantSource(shared))
    ask(cap, shared, "seed", args or tuple(kwargs.values()), {})


def _made_by(make: Any) -> None:
    @rule(make)
    def run(cap: Any, args: Any, kwargs: Any) -> Any:
        """A generator made in the frame."""
        seed = [*args, *kwargs.values(), None][0]
        if not isinstance(seed, (int, str, bytes)):
            unsupported("random", "a random generator whose seed is no constant", saw=type(seed).__name__)
        made = native(make, *args, **kwargs)
        cap.own[id(made)] = made
        cap.created[id(made)] = (made, cap.step)
        return made


for _make in (random.Random, np.random.RandomState, np.random.default_rng):
    _made_by(_make)
