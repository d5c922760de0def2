"""One entry of PyTorch's operator or module database, compiled and compared with eager. `opdb.py` runs many of these in worker processes.

Outcomes, from best to worst:
    pass         compiled whole, equal to eager: results, inputs afterwards, gradients, strides, state after three steps of SGD (modules)
    unsupported  equal to eager, but some of it ran eagerly: a graph break or a backend that refused, with the reason
    strides      equal values in another layout
    error        raises where eager does not
    wrong        differs from eager, and float64 says that eager is the more accurate of the two
Random operators are compared as well: the stream on the CPU is eager's.
"""

from __future__ import annotations

import dataclasses
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["OUTCOMES", "Row", "Result", "check_entry", "entries", "lowered_as"]

OUTCOMES = ("pass", "unsupported", "strides", "error", "wrong", "timeout", "crash")
UNDEFINED_VALUES = frozenset({"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"})
WIDER = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64, torch.complex64: torch.complex128}
SGD_STEPS = 3
_OVERLOAD = re.compile(r"[\w.]+\.\w+(: |$)")  # what was counted is a call: `overload` or `overload: reason`


@dataclasses.dataclass
class Result:
    """What one entry gave in one dtype: the worst of its samples."""

    entry: str
    dtype: str
    outcome: str = "pass"
    reason: str = ""
    samples: int = 0
    fallbacks: dict[str, int] = dataclasses.field(default_factory=dict)
    """ATen calls kept by the inductor, `overload: reason`."""


@dataclasses.dataclass
class Row:
    """An entry in a dtype: `cases()` makes functions of (compile) -> flat list of values."""

    name: str
    dtype: torch.dtype
    cases: Callable[[int], Iterator[Callable[..., list[Any]]]]


# --------------------------------------------------------------------------------------------------------------------------
# programs: what is run in eager, in float64 and compiled
# --------------------------------------------------------------------------------------------------------------------------


def _copy(value: Any, dtype: torch.dtype | None) -> Any:
    """A fresh leaf with the same strides; converted when `dtype` is given and the value is inexact."""
    if isinstance(value, torch.dtype):
        return WIDER.get(value, value) if dtype is not None else value
    if not isinstance(value, Tensor):
        return value
    with torch.no_grad():
        if value.layout is not torch.strided:
            copy = value.detach().clone()
        else:
            copy = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
            copy = copy.copy_(value.detach()) if value.numel() and 0 not in value.stride() else value.detach().clone()
        if dtype is not None and copy.dtype in WIDER:
            copy = copy.to(WIDER[copy.dtype])
    return copy.requires_grad_(value.requires_grad)


def _weights(t: Tensor) -> Tensor:
    """A gradient that tells the elements apart."""
    return torch.linspace(0.5, 1.5, t.numel(), dtype=torch.float64).reshape(t.shape).to(t.dtype)


def _backward(values: list[Any]) -> None:
    ends = [t for t in values if isinstance(t, Tensor) and t.requires_grad]
    if ends:
        torch.autograd.backward(ends, [_weights(t.detach()) if t.layout is torch.strided else torch.ones_like(t) for t in ends])


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _operator_case(op: Any, sample: Any, values: bool) -> Callable[..., list[Any]]:
    leaves, spec = pytree.tree_flatten(((sample.input, *sample.args), sample.kwargs))

    def run(compile_: Callable[..., Any], wide: torch.dtype | None = None) -> list[Any]:
        call = op.op
        filled = [_copy(leaf, wide) for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(filled, spec)
        fn = compile_(lambda *args, **kwargs: call(*args, **kwargs))
        torch.manual_seed(0)
        outputs = pytree.tree_leaves(fn(*args, **kwargs))
        if not values:
            return [(t.shape, t.dtype, t.stride()) if isinstance(t, Tensor) else t for t in outputs]
        _backward(outputs)
        tensors = [t for t in filled if isinstance(t, Tensor)]
        return [_detached(v) for v in outputs] + [t.detach() for t in tensors] + [t.grad if t.is_leaf else None for t in tensors]

    return run


def _module_case(info: Any, sample: Any, training: bool, dtype: torch.dtype) -> Callable[..., list[Any]]:
    torch.manual_seed(0)
    given = sample.constructor_input
    state = info.module_cls(*given.args, **given.kwargs).to(dtype).state_dict()

    def run(compile_: Callable[..., Any], wide: torch.dtype | None = None) -> list[Any]:
        module = info.module_cls(*given.args, **given.kwargs).to(dtype)
        module.load_state_dict(state)
        module = module.train(training).to(wide or dtype)
        forward = sample.forward_input
        args, kwargs = pytree.tree_map(lambda v: _copy(v, wide), (forward.args, forward.kwargs))
        tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        parameters = list(module.parameters())
        optimizer = torch.optim.SGD(parameters, lr=0.01) if parameters else None
        fn = compile_(module)
        found: list[Any] = []
        torch.manual_seed(0)
        for _ in range(SGD_STEPS):
            outputs = pytree.tree_leaves(fn(*args, **kwargs))
            _backward(outputs)
            found += [_detached(v) for v in outputs] + [_copy(p.grad, None) for p in [*parameters, *(t for t in tensors if t.is_leaf)]]
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()
        return found + [v.detach() for v in module.state_dict().values() if isinstance(v, Tensor)]

    return run


# --------------------------------------------------------------------------------------------------------------------------
# comparison
# --------------------------------------------------------------------------------------------------------------------------


def _difference(got: Any, expected: Any) -> str:
    """Empty, or what differs; strides aside."""
    if not isinstance(expected, Tensor):
        same = type(got) is type(expected) and (got == expected or (isinstance(expected, (float, complex)) and got != got and expected != expected))
        if isinstance(expected, float) and isinstance(got, float) and not same:
            same = math.isclose(got, expected, rel_tol=1e-6)
        return "" if same else f"{str(got)[:60]} instead of {str(expected)[:60]}"
    if not isinstance(got, Tensor):
        return f"{type(got).__name__} instead of a tensor"
    try:
        torch.testing.assert_close(got, expected, equal_nan=True, check_stride=False)
    except AssertionError as error:
        return str(error).replace("\n", " ")[:160]
    return ""


def _as_accurate(got: Any, eager: Any, exact: Any) -> bool:
    """Whether our rounding error, measured against float64, is of the size of eager's."""
    if not all(isinstance(t, Tensor) and t.layout is torch.strided for t in (got, eager, exact)) or got.dtype != eager.dtype or got.shape != eager.shape != exact.shape:
        return False
    if eager.dtype not in WIDER or got.shape != exact.shape:
        return False
    overflown = torch.isfinite(exact) & ~torch.isfinite(eager) & torch.isfinite(got)  # in eager only: ours must be right
    if _difference(got[overflown], exact[overflown].to(got.dtype)):
        return False
    usable = torch.isfinite(exact) & torch.isfinite(eager)
    lost = ~usable & ~overflown
    if not torch.equal(got[lost].nan_to_num(7), eager[lost].nan_to_num(7)):
        return False
    if not usable.any():
        return bool(overflown.any())
    ours, theirs = ((t[usable].to(exact.dtype) - exact[usable]).abs().max().item() for t in (got, eager))
    place = torch.finfo(eager.dtype).eps * exact[usable].abs().max().item()
    return bool(ours <= 2 * theirs or ours <= place)


def _strides_differ(got: Any, expected: Any) -> bool:
    if not isinstance(expected, Tensor) or expected.layout is not torch.strided or not expected.numel():
        return False
    return any(s != t and n > 1 for s, t, n in zip(got.stride(), expected.stride(), expected.shape, strict=True))


def compare(got: list[Any], eager: list[Any], exact: Callable[[], list[Any]]) -> tuple[str, str]:
    """(outcome, reason); `exact` runs the program in float64 and may raise."""
    if len(got) != len(eager):
        return "wrong", f"{len(got)} values, eager gives {len(eager)}"
    precise: list[Any] | None = None
    for k, (g, e) in enumerate(zip(got, eager, strict=True)):
        if not (said := _difference(g, e)):
            continue
        if precise is None:
            try:
                precise = exact()
            except Exception:
                precise = []
        if len(precise) != len(eager) or not _as_accurate(g, e, precise[k]):
            return "wrong", f"value {k} of {len(eager)}: {said}"
    for k, (g, e) in enumerate(zip(got, eager, strict=True)):
        if _strides_differ(g, e):
            return "strides", f"value {k} of {len(eager)}: {g.stride()} instead of {e.stride()}, size {tuple(e.shape)}"
    return "pass", ""


# --------------------------------------------------------------------------------------------------------------------------
# one case, one entry
# --------------------------------------------------------------------------------------------------------------------------


def _ours(backend: str, dynamic: bool, fullgraph: bool = False) -> Callable[..., Any]:
    import lamina

    lamina.reset()
    return lambda fn: lamina.compile(fn, backend=backend, fullgraph=fullgraph, dynamic=dynamic)


def _peers(backend: str, dynamic: bool) -> Callable[..., Any]:
    torch.compiler.reset()
    return lambda fn: torch.compile(fn, backend=backend, dynamic=dynamic)


def _what_ran_eagerly(case: Callable[..., list[Any]], backend: str, dynamic: bool) -> tuple[str, Counter]:
    """(reason why something ran eagerly, or empty; calls that the backend kept) of the run just made."""
    import lamina

    calls = {k: n for k, n in lamina.counters["fallbacks"].items() if _OVERLOAD.match(k)}
    refused = [k for k in lamina.counters["fallbacks"] if k not in calls]
    kept = Counter({k: n for k, n in calls.items() if ": " in k})
    if lamina.counters["graph_breaks"] or lamina.counters["frames"].get("eager"):
        try:
            case(_ours(backend, dynamic, fullgraph=True))
        except lamina.exc.Unsupported as error:
            return f"break: {error.what}" + (f" ({error.saw})" if error.saw else ""), kept
        except Exception as error:
            return f"break: {type(error).__name__} {error}".split("\n")[0][:160], kept
        return "break: not with fullgraph=True", kept
    return (f"backend: {refused[0]}" if refused else ""), kept


def check_case(case: Callable[..., list[Any]], backend: str, impl: str, dynamic: bool = False) -> tuple[str, str, Counter] | None:
    """(outcome, reason, kept calls), None when eager does not run it either."""
    import lamina

    try:
        eager = case(lambda fn: fn)
        draws = not torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(0).get_state())  # float64 would draw other numbers
    except Exception:
        return None
    lamina.counters.clear()
    try:
        got = case((_ours if impl == "lamina" else _peers)(backend, dynamic))
    except TimeoutError:
        raise
    except Exception as error:
        return "error", f"{type(error).__name__}: {error}".replace("\n", " ")[:240], Counter()
    outcome, reason = compare(got, eager, lambda: [] if draws else case(lambda fn: fn, torch.float64))
    if impl != "lamina":
        return outcome, reason, Counter()
    eagerly, kept = _what_ran_eagerly(case, backend, dynamic)
    return (outcome, reason, kept) if outcome != "pass" or not eagerly else ("unsupported", eagerly, kept)


def lowered_as(fallbacks: dict[str, int]) -> str:
    """How far an entry is lowered: `prims` only, with `aten` calls that are kept by decision, or with `fallback` calls for want of a decomposition."""
    missing = any(key.partition(": ")[2].startswith(("no decomposition", "decomposition does not", "complex or quantized", "no lowering")) for key in fallbacks)
    return "fallback" if missing else "aten" if fallbacks else "prims"


def check_entry(row: Row, backend: str, impl: str, samples: int, dynamic: bool = False) -> Result:
    """The worst outcome over the first `samples` samples that eager runs."""
    result = Result(row.name, str(row.dtype)[6:])
    for case in row.cases(samples):
        checked = check_case(case, backend, impl, dynamic)
        if checked is None:
            continue
        result.samples += 1
        outcome, reason, kept = checked
        for name, n in kept.items():
            result.fallbacks[name] = result.fallbacks.get(name, 0) + n
        if OUTCOMES.index(outcome) > OUTCOMES.index(result.outcome):
            result.outcome, result.reason = outcome, f"#{result.samples - 1} {reason}"
    return result


# --------------------------------------------------------------------------------------------------------------------------
# the databases
# --------------------------------------------------------------------------------------------------------------------------


def _seed() -> None:
    import numpy

    torch.manual_seed(0)
    random.seed(0)
    numpy.random.seed(0)


def _operator_row(op: Any, dtype: torch.dtype) -> Row:
    def cases(limit: int) -> Iterator[Callable[..., list[Any]]]:
        _seed()
        gradients = op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
        for sample in list(islice(op.sample_inputs("cpu", dtype, requires_grad=gradients), limit)):
            yield _operator_case(op, sample, op.name not in UNDEFINED_VALUES)

    return Row(op.formatted_name, dtype, cases)


def _module_row(info: Any, dtype: torch.dtype) -> Row:
    def cases(limit: int) -> Iterator[Callable[..., list[Any]]]:
        for training in (True, False):
            _seed()
            given = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training)
            for sample in islice(given, limit):
                yield _module_case(info, sample, training, dtype)

    return Row(info.formatted_name, dtype, cases)


def entries(what: str, dtypes: list[torch.dtype]) -> list[Row]:
    """All rows of `ops` or `modules` that support the dtypes, in the order of the database."""
    if what == "modules":
        from torch.testing._internal.common_modules import module_db

        return [_module_row(info, dtype) for info in module_db for dtype in dtypes if dtype in info.dtypes]
    from torch.testing._internal import common_methods_invocations

    # Many entries seed the generator inside the call, which no compiler may take into a graph; runs seed it before the call instead.
    common_methods_invocations.wrapper_set_seed = lambda op, *args, **kwargs: op(*args, **kwargs)
    return [_operator_row(op, dtype) for op in common_methods_invocations.op_db for dtype in dtypes if dtype in op.supported_dtypes("cpu")]
