"""Arguments to try each prim with: what a backend's table is checked against, next to the reference.

    for name, args in prim_samples():
        torch.testing.assert_close(mine(name, *args), PRIMS[name].overload(*args))
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from .pointwise import BINARY, COMPARISONS, DOMAINS, PREDICATES, UNARY

__all__ = ["prim_samples", "sample_tensor"]

_CPU = torch.device("cpu")


def sample_tensor(dtype: torch.dtype, shape: tuple[int, ...] = (3, 4), seed: int = 0) -> torch.Tensor:
    """Small positive values: in the domain of every prim (between 0 and 1 for floats, 1 to 4 for integers)."""
    g = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.rand(shape, generator=g) > 0.5
    if dtype.is_floating_point:
        return (torch.rand(shape, generator=g, dtype=torch.float64) * 0.9 + 0.05).to(dtype)
    return torch.randint(1, 5, shape, generator=g).to(dtype)


def prim_samples() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Pairs of a prim's name and arguments it takes; every prim has some, every pointwise one in each of its dtypes."""
    x, y = sample_tensor(torch.float32), sample_tensor(torch.float32, seed=1)
    for table in (UNARY, PREDICATES):
        for name, (_, domain, _doc) in table.items():
            for dtype in sorted(DOMAINS[domain], key=str):
                yield name, (sample_tensor(dtype),)
                yield name, (sample_tensor(dtype, (4, 3)).t(),)
                yield name, (sample_tensor(dtype, ()),)
    for table in (BINARY, COMPARISONS):
        for name, (_, domain, _doc) in table.items():
            for dtype in sorted(DOMAINS[domain], key=str):
                yield name, (sample_tensor(dtype), sample_tensor(dtype, seed=1))
                yield name, (sample_tensor(dtype, (0, 3)), sample_tensor(dtype, (0, 3)))
                yield f"{name}_scalar", (sample_tensor(dtype), 1 if not dtype.is_floating_point else 0.5)
    for name in ("rsub_scalar", "rdiv_scalar", "rpow_scalar"):
        yield name, (x, 2.5)
    i = torch.tensor([2, 0, 1])
    yield from [
        ("where", (x > y, x, y)), ("fma", (x, y, x)), ("convert", (x, torch.int64)), ("convert", (x, torch.bfloat16)), ("convert", (i, torch.bool)),
        ("bitcast", (x, torch.int32)), ("full", ([2, 3], 7, torch.int32, _CPU)), ("full", ([], 0.5, torch.bfloat16, _CPU)),
        ("iota", (5, 2, 3, torch.int64, _CPU)), ("iota", (0, 0, 1, torch.int32, _CPU)),
        ("expand", (x[:, :1], [3, 6])), ("reshape", (x.t(), [2, 6])), ("permute", (x, [1, 0])), ("slice", (x, 1, 1, 4, 2)), ("slice", (x, 0, 1, 1, 1)),
        ("flip", (x, [0, 1])), ("as_strided", (x.t(), [2, 3], [1, 4], 1)), ("cat", ([x, y, x[:1]], 0)), ("pad", (x, [1, 0], [0, 2], -1.0)),
        ("slice_scatter", (x, y[:, :2], 1, 0, 4, 2)), ("restride", (x, [3, 4], [1, 3])),
        *[(n, (x, dims, k)) for n in ("sum", "prod", "amax", "amin") for dims in ([0], [1], [0, 1]) for k in (False, True)],
        *[(n, (x > y, dims, k)) for n in ("any", "all") for dims in ([0], [0, 1]) for k in (False, True)],
        *[(n, (x, d, k)) for n in ("argmax", "argmin") for d in (0, 1) for k in (False, True)],
        ("var_mean", (x, [1], 1, False)), ("var_mean", (x, [0, 1], 0, True)), ("cumsum", (x, 1)), ("cumprod", (i, 0)),
        ("gather", (x, 0, torch.tensor([[1, 0, 2, 1]]))), ("index", (x, [None, i])), ("index", (torch.arange(60).reshape(3, 4, 5), [i, None, -i])),
        *[("scatter", (x, 0, torch.tensor([[1, 0, 2, 1]]), y, r)) for r in ("set", "add", "mul", "amax", "amin")],
        ("index_put", (x, [i], y, False)), ("index_put", (x, [i - 3], y, True)), ("index_select", (x, 1, i)),
        ("mm", (x, y.t())), ("bmm", (x[None], y.t()[None])),
        ("convolution", (torch.randn(2, 4, 9), torch.randn(6, 2, 3), torch.randn(6), [2], [1], [1], False, [0], 2)),
        ("convolution", (torch.randn(2, 4, 5, 5), torch.randn(4, 3, 3, 3), None, [2, 2], [1, 1], [1, 1], True, [1, 1], 1)),
    ]  # fmt: skip
