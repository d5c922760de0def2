"""Seeded random prim programs: compiled code against the reference interpreter and eager."""

import random

import pytest
import torch
import torch.nn.functional as F
from loops_support import check

UNARY = [torch.exp, torch.tanh, torch.sigmoid, torch.neg, torch.abs, F.relu, F.gelu, lambda x: x * 0.5 + 1, lambda x: torch.where(x > 0, x, x * 0.1)]
BINARY = [torch.add, torch.sub, torch.mul, torch.maximum, torch.minimum, lambda a, b: a / (b.abs() + 1)]


def step(rng: random.Random, pool: list[torch.Tensor]) -> tuple:
    """One random op on random members of the pool, as a replayable description."""
    kind = rng.choice(["unary", "unary", "binary", "binary", "reduce", "keep", "softmax", "permute", "reshape", "cat", "slice", "norm"])
    return kind, rng.random(), rng.random(), rng.random()


def pick(pool, r, shape=None, ndim=None):
    found = [t for t in pool if (shape is None or t.shape == shape) and (ndim is None or t.ndim >= ndim)]
    return found[int(r * len(found))] if found else None


def apply(pool: list[torch.Tensor], op: tuple) -> None:
    kind, r1, r2, r3 = op
    x = pick(pool, r1, ndim=2)
    d = int(r2 * x.ndim)
    if kind == "unary":
        out = UNARY[int(r2 * len(UNARY))](x)
    elif kind == "binary":
        out = BINARY[int(r2 * len(BINARY))](x, pick(pool, r3, shape=x.shape))
    elif kind == "reduce":
        out = x - [x.sum(d, keepdim=True), x.amax(d, keepdim=True), x.mean(d, keepdim=True), x.var(d, keepdim=True, unbiased=False)][int(r3 * 4)]
    elif kind == "keep":
        out = (x * 2).sum(d, keepdim=True).expand_as(x) * 0.1
    elif kind == "softmax":
        out = torch.softmax(x, d)
    elif kind == "permute":
        out = x.transpose(0, x.ndim - 1)
    elif kind == "reshape":
        out = x.reshape(x.shape[0], -1) if x.ndim > 2 else x.reshape(x.shape[0], x.shape[1], 1) * 1.5
    elif kind == "cat":
        out = torch.cat([x, pick(pool, r3, shape=x.shape)], d).narrow(d, int(r3 * x.shape[d]), x.shape[d])
    elif kind == "slice":
        out = x.flip(d)
    else:
        out = F.layer_norm(x, x.shape[-1:])
    pool.append(out)


@pytest.mark.parametrize("seed", range(40))
def test_random_program(seed):
    rng = random.Random(seed)
    shape = rng.choice([(4, 6, 8), (17, 33), (3, 5, 7), (2, 64, 16), (40, 130)])
    inputs = [torch.randn(shape) for _ in range(2)]
    ops = [step(rng, inputs) for _ in range(rng.randint(4, 14))]
    keep = [rng.random() for _ in range(2)]

    def program(*xs):
        pool = list(xs)
        for op in ops:
            apply(pool, op)
        return (pool[-1], *[pool[int(k * len(pool))] * 1.0 for k in keep])

    check(program, *inputs, tol=2e-4)
