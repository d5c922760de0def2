"""Calls and compilations by the hundred thousand: does resident memory stay flat? Run: python tools/soak.py [calls] [cycles]

Between: nothing; it uses the public interface only. Exit status 1 where memory grows.
Two loops, each measured after a warm-up: `calls` of compiled functions and a module (hits only), and `cycles` of create, compile,
call, delete. Growth is the slope of resident memory over the second half, in bytes per iteration.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lamina_dynamo import optimize

CALLS, CYCLES = 1_000_000, 10_000
CALL_LIMIT, CYCLE_LIMIT = 0.5, 100.0  # bytes per iteration that count as noise: a page now and then
SAMPLES, WARM_UP = 40, 500


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def slope(run: Callable[[int], None], total: int) -> float:
    """Bytes per iteration that resident memory grows by, over the second half of `total` iterations: least squares."""
    step = max(total // SAMPLES, 1)
    run(max(step, WARM_UP))  # pools and tables reach their size
    points = []
    for i in range(SAMPLES):
        run(step)
        gc.collect()
        points.append(((i + 1) * step, resident()))
    late = points[SAMPLES // 2 :]
    x0, y0 = (sum(axis) / len(late) for axis in zip(*late, strict=True))
    return sum((x - x0) * (y - y0) for x, y in late) / sum((x - x0) ** 2 for x, _ in late)


def graph_itself(gm: Any, example_inputs: Any) -> Any:
    return gm.forward


class Block(nn.Module):
    """Parameters, a hook, nesting, a container: what guards go through."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.scale = nn.Parameter(torch.ones(width))
        self.sizes = {"width": width}

    def forward(self, x: torch.Tensor, *, shift: float = 0.5) -> torch.Tensor:
        return self.layers(x) * self.scale + shift * self.sizes["width"]


def many_calls() -> Callable[[int], None]:
    """Calls that hit, in turn: a module, a function of changing sizes, a function that breaks in the middle."""
    model = optimize(Block(), graph_itself)
    sizes = optimize(lambda x: x * x.shape[0], graph_itself)

    def breaks(x: torch.Tensor) -> dict[str, Any]:
        y = x + 1
        print(end="")
        return {"y": y * 2, "n": x.shape[0]}

    broken = optimize(breaks, graph_itself)
    inputs = [torch.ones(n, 4) for n in range(2, 7)]

    def run(n: int) -> None:
        with torch.no_grad():
            for i in range(n):
                x = inputs[i % 5]
                (model, sizes, broken)[i % 3](x)

    return run


def many_lives() -> Callable[[int], None]:
    """Create a module and a closure, compile both, call them twice, drop them."""

    def life(i: int) -> None:
        model, bias = Block(), torch.full((4,), float(i))
        fast = optimize(model, graph_itself)

        def closure(x: torch.Tensor) -> torch.Tensor:
            return fast(x) + bias

        outer, x = optimize(closure, graph_itself), torch.ones(2, 4)
        with torch.no_grad():
            fast(x), outer(x), outer(x)

    def run(n: int) -> None:
        for i in range(n):
            life(i)

    return run


def main(arguments: list[str]) -> int:
    calls, cycles = (int(a) for a in [*arguments, *map(str, (CALLS, CYCLES)[len(arguments) :])][:2])
    failed = False
    for name, make, total, limit in (("calls", many_calls, calls, CALL_LIMIT), ("cycles", many_lives, cycles, CYCLE_LIMIT)):
        start = time.process_time()
        grows = slope(make(), total)
        failed |= grows > limit
        print(f"{total} {name}: {grows:+.3f} bytes each (limit {limit}), resident {resident() / 2**20:.0f} MB, {time.process_time() - start:.0f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
