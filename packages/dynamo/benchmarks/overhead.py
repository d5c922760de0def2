"""What a call costs before and after the graph: guards, binding, replacement code. Run: python packages/dynamo/benchmarks/overhead.py

Each case compiles with a backend whose graph returns a result made earlier, so that the time is the dispatch alone.
Processor time, least of several rounds, in microseconds. `words` are memory words compared, `live` what is read again at each call.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from lamina_dynamo import optimize
from torch import nn

ROUNDS, CALLS = 15, 400


class Params(nn.Module):
    """`n` parameters, one operation each."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.ps = nn.ParameterList(nn.Parameter(torch.zeros(4)) for _ in range(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for p in self.ps:
            x = x + p
        return x


class Nested(nn.Module):
    """`n` modules inside each other."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(4))
        self.sub = Nested(n - 1) if n else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.sub(x) * self.w if self.sub is not None else x * self.w


def mlp(layers: int) -> nn.Module:
    return nn.Sequential(*[m for _ in range(layers) for m in (nn.Linear(4, 4), nn.ReLU())])


def frozen_result(gm: Any, example_inputs: Any) -> Callable[..., Any]:
    """A backend: the first call runs the graph, later ones return its result."""
    made: list[Any] = []

    def run(*args: Any) -> Any:
        if not made:
            made.append(gm.forward(*args))
        return made[0]

    return run


def microseconds(call: Callable[[], Any]) -> float:
    call(), call()
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(CALLS):
            call()
        best = min(best, time.process_time() - start)
    return best / CALLS * 1e6


def cases() -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    x, row = torch.ones(4), torch.ones(1, 4)
    table = {f"k{i}": torch.ones(4) for i in range(20)}
    return {
        "one operation": (lambda t: t + 1, lambda f: f(x)),
        "keyword arguments": (lambda t, *, a=1, b=2: t + a + b, lambda f: f(t=x, b=3)),
        "dictionary of 20 tensors": (lambda d: d["k3"] + d["k7"], lambda f: f(table)),
        "new dictionary each call": (lambda d: d["k3"] + d["k7"], lambda f: f(dict(table))),
        "one module": (nn.Linear(4, 4), lambda f: f(row)),
        "20 nested modules": (Nested(20), lambda f: f(x)),
        "200 parameters": (Params(200), lambda f: f(x)),
        "100 layers": (mlp(100), lambda f: f(row)),
        "250 layers": (mlp(250), lambda f: f(row)),
    }


def main() -> None:
    print(f"{'case':28}{'us':>8}{'guards':>8}{'words':>8}{'live':>6}")
    with torch.no_grad():
        for name, (target, call) in cases().items():
            compiled = optimize(target, frozen_result)
            us = microseconds(lambda call=call, compiled=compiled: call(compiled))
            (stats,) = compiled.stats()
            print(f"{name:28}{us:8.2f}{stats['checks']:8}{stats['pinned_ops']:8}{stats['live_ops']:6}")


if __name__ == "__main__":
    main()
