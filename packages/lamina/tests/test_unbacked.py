"""Sizes and numbers that depend on data, whole through our own compiler: values and gradients against eager, one graph, no break."""

import pytest
import torch

import lamina
from lamina import counters


def number_as_operand(x, n):
    y = (x * 2).exp()
    return (y / y.sum().item()).sin().sum() * int(n[0].item())


def number_as_fill(x, n):
    return (torch.full((3,), x.detach().sum().item()) + x[0]).cos()


def mask_selects(x, n):
    y = x[x > 0]
    return (y.sin() * y).sum(), y.shape[0] * 2


def nonzero_indexes(x, n):
    i = (x > 0).nonzero()
    return x[i[:, 0]].pow(2).sum(), i + 1


def sizes_from_a_tensor(x, n):
    return sum(t.cos().sum() for t in torch.split(x, n.tolist()))


def bounded_slice(x, n):
    k = n[0].item()
    torch._check(k >= 0)
    torch._check(k <= x.shape[0])
    return x[:k].sin() + k


def unique_values(x, n):
    return torch.unique(x.detach().round()).float().exp() + x.sum()


PROGRAMS = [number_as_operand, number_as_fill, mask_selects, nonzero_indexes, sizes_from_a_tensor, bounded_slice, unique_values]


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_whole_and_equal(program, grad):
    lamina.reset()
    counters.clear()
    fast = lamina.compile(program, fullgraph=True)
    for first in (4, 7):  # other sizes at the second call, the same graph
        values = torch.randn(10)
        x, y = (values.clone().requires_grad_(grad) for _ in range(2))
        n = torch.tensor([first, 10 - first])
        got, expected = fast(x, n), program(y, n)
        torch.testing.assert_close(got, expected)
        if grad:
            for v, of in ((got, x), (expected, y)):
                (v[0] if isinstance(v, tuple) else v).sum().backward()
            torch.testing.assert_close(x.grad, y.grad)
    assert counters["graphs"]["captured"] == 1 and not counters["graph_breaks"] and not counters["recompiles"]
