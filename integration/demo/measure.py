"""One row of the demo: build a model, compile it, check it against eager and float64, time both in turn."""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

import lamina
from integration import models
from integration.compare import compare

__all__ = ["Case", "Row", "run_case"]

MIN_ROUNDS = 5
MAX_ROUNDS = 40


@dataclass(frozen=True)
class Case:
    """A model and what is done with it: "inference" or "training"."""

    model: str
    kind: str


@dataclass
class Row:
    """What was measured. Times are medians in milliseconds; `ratio` is eager's over ours."""

    case: Case
    state: str = "waiting"
    times_ms: dict[str, float] = field(default_factory=dict)
    compile_s: dict[str, float] = field(default_factory=dict)
    graphs: int | None = None
    breaks: int | None = None
    verdict: str = ""

    def ratio(self, name: str = "lamina") -> float | None:
        return self.times_ms["eager"] / self.times_ms[name] if name in self.times_ms and "eager" in self.times_ms else None


class _Subject:
    """One implementation's copy of the model, and one step of it."""

    def __init__(self, name: str, built: models.Built, call: Callable[..., Any], kind: str) -> None:
        self.name, self.built, self.call, self.kind = name, built, call, kind

    def step(self) -> Any:
        """Inference: the output. Training: forward, loss, backward; the loss."""
        if self.kind == "inference":
            with torch.no_grad():
                return self.built(self.call)
        self.built.module.zero_grad(set_to_none=True)
        loss = (self.built.loss or models.default_loss)(self.built(self.call))
        loss.backward()
        return loss

    def result(self) -> dict[str, Any]:
        """All that is compared after one step: output or loss, gradients, buffers."""
        out: dict[str, Any] = {"out": self.step()}
        if self.kind == "training":
            module = self.built.module
            out["grad"] = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
            out["buffer"] = dict(module.named_buffers())
        return _snapshot(out)


def _snapshot(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {k: _snapshot(v) for k, v in value.items()}
    return copy.copy(value)


def _double(built: models.Built) -> models.Built:
    def cast(value: Any) -> Any:
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    built.module.double()
    return models.Built(built.module, tuple(map(cast, built.args)), {k: cast(v) for k, v in built.kwargs.items()}, built.loss)


def run_case(case: Case, *, peer: bool, seconds: float, progress: Callable[[Row], None]) -> Row:
    """Measure one row; an error of an implementation is its verdict, not the end of the demo."""
    row = Row(case)

    def say(state: str) -> None:
        row.state = state
        progress(row)

    train = case.kind == "training"
    say("building")
    subjects = {}
    eager = models.build(case.model, train=train)
    subjects["eager"] = _Subject("eager", eager, eager.module, case.kind)
    say("eager")
    exact_built = _double(models.build(case.model, train=train))
    exact = _Subject("float64", exact_built, exact_built.module, case.kind).result()
    wanted = subjects["eager"].result()
    compilers: dict[str, Callable[[Any], Any]] = {"lamina": lamina.compile}
    if peer:
        compilers["torch.compile"] = torch.compile
    for name, compiler in compilers.items():
        say(f"compiling: {name}")
        built = models.build(case.model, train=train)
        subject = _Subject(name, built, compiler(built.module), case.kind)
        before = lamina.counters.snapshot()
        start = time.perf_counter()
        try:
            got = subject.result()
        except Exception as error:
            row.verdict = _join(row.verdict, f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:120])
            continue
        row.compile_s[name] = time.perf_counter() - start
        said = compare(got, wanted, exact)
        if name == "lamina":
            row.graphs, row.breaks = (_grown(before, group) for group in ("graphs", "graph_breaks"))
            row.verdict = _join(row.verdict, said or "correct")
        elif said:
            row.verdict = _join(row.verdict, f"{name} WRONG: {said}")
        subjects[name] = subject
    say("timing")
    row.times_ms = _interleaved(subjects, seconds)
    say("done")
    return row


def _join(first: str, second: str) -> str:
    return f"{first}; {second}" if first else second


def _grown(before: dict[str, dict[str, int]], group: str) -> int:
    return lamina.counters.total(group) - sum(before.get(group, {}).values())


def _interleaved(subjects: dict[str, _Subject], seconds: float) -> dict[str, float]:
    """Median milliseconds of a step of each, called in turn so that a busy machine hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    for subject in subjects.values():
        subject.step()
    gc.collect()
    begin = time.perf_counter()
    order = list(subjects.items())
    for round_ in range(MAX_ROUNDS):
        for index in range(len(order)):
            name, subject = order[(round_ + index) % len(order)]
            start = time.perf_counter()
            subject.step()
            taken[name].append(time.perf_counter() - start)
        if round_ + 1 >= MIN_ROUNDS and time.perf_counter() - begin > seconds * len(subjects):
            break
    return {name: statistics.median(times) * 1e3 for name, times in taken.items()}
