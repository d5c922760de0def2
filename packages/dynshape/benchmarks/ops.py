"""Processor time per operator on fakes, in microseconds, with concrete and with symbolic sizes.

`python benchmarks/ops.py [--profile name]`. Times include PyTorch's dispatcher (2 us) and the making of the wrapper (1.5 us concrete, 8 us symbolic).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from lamina_dynshape import FakeMode, ShapeEnv


def cost(function: Callable[[], object], rounds: int = 5, calls: int = 400) -> float:
    """Best processor time of one call, us."""
    function()
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(calls):
            function()
        best = min(best, time.process_time() - start)
    return best / calls * 1e6


def programs(mode: FakeMode, dims: tuple[int, ...]) -> dict[str, tuple[int, Callable[[], object]]]:
    """Name -> (ATen operators that reach the mode, call)."""
    x = mode.from_real(torch.randn(6, 7, 8), source="x", dynamic_dims=dims)
    image = mode.from_real(torch.randn(6, 3, 16, 16), source="i", dynamic_dims=dims[:1])
    w, kernel = mode.from_real(torch.randn(16, 8)), mode.from_real(torch.randn(4, 3, 3, 3))
    table, index = mode.from_real(torch.randn(50, 8)), mode.from_real(torch.zeros(6, 7, dtype=torch.long), source="n", dynamic_dims=dims)
    return {
        "relu": (1, lambda: x.relu()), "add": (1, lambda: x + x), "mul by a number": (1, lambda: x * 2.0), "add_": (1, lambda: x.add_(x)),
        "view": (1, lambda: x.view(-1, 8)), "transpose": (1, lambda: x.transpose(0, 1)), "slice": (1, lambda: x[:, 1:]),
        "select": (1, lambda: x[:, 0]), "expand": (1, lambda: x[:1].expand(x.shape[0], -1, -1)), "sum": (1, lambda: x.sum(-1)),
        "softmax": (1, lambda: x.softmax(-1)), "linear": (5, lambda: F.linear(x, w)), "layer_norm": (1, lambda: F.layer_norm(x, (8,))),
        "conv2d": (1, lambda: F.conv2d(image, kernel, padding=1)), "embedding": (1, lambda: F.embedding(index, table)),
        "cat": (1, lambda: torch.cat([x, x], 1)), "clone": (1, lambda: x.clone()), "to float64": (1, lambda: x.double()),
        "zeros": (1, lambda: torch.zeros(4, 5)), "transposed add": (1, lambda: x.mT + x.mT), "einsum": (6, lambda: torch.einsum("bik,bjk->bij", x, x)),
        "broadcast add": (1, lambda: x + w[0]), "where": (1, lambda: torch.where(x > 0, x, 0.0)),
    }


def main() -> None:
    concrete, symbolic = FakeMode(), FakeMode(ShapeEnv())
    left, right = programs(concrete, ()), programs(symbolic, (0, 1))
    if "--profile" in sys.argv:
        import cProfile

        name = sys.argv[-1]
        mode, table = (symbolic, right) if "--symbolic" in sys.argv else (concrete, left)
        with mode, cProfile.Profile() as profile:
            for _ in range(5000):
                table[name][1]()
        profile.print_stats("tottime")
        return
    print(f"{'us':20s} {'concrete':>9s} {'symbolic':>9s}")
    for name in left:
        with concrete:
            a = cost(left[name][1])
        with symbolic:
            b = cost(right[name][1])
        print(f"{name:20s} {a:9.1f} {b:9.1f}")


if __name__ == "__main__":
    main()
