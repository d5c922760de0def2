"""Sizes and numbers that depend on data, whole through our own compiler: values and gradients against eager, one graph, no break."""

import pytest
import torch
import torch.nn.functional as F

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


def truths(x, n):
    return x.sin().sum(), torch.equal(x, x + n[0]), x.allclose(x + 1e-9), x.equal(x[:3])


def asserted_equality(x, n):
    if torch.equal(x * n[0], n[0] * x):
        return x.exp()
    raise ValueError("not equal")


def part_from_a_tensor(x, n):
    return x.narrow(0, n[0] - 8, 1).exp() * torch.narrow(x, -1, n[1], length=2)


def classes_of_the_data(x, n):
    return F.one_hot(n) * x[0]


def variances_are_checked(x, n):
    return F.gaussian_nll_loss(x, x.detach().cos(), x.detach().abs())


def lengths_in_a_tensor(x, n):
    return F.ctc_loss(x.view(5, 1, 2).log_softmax(2), torch.ones(1, 2, dtype=torch.int64), torch.tensor([5]), n[:1] // 3)


def lengths_in_a_list(x, n):
    return F.ctc_loss(x.view(5, 1, 2).log_softmax(2), torch.ones(2, dtype=torch.int64), (5,), [2])


def scalar_filled(x, n):
    return torch.index_fill(x.sum(), 0, n[:1] * 0, x[0]).sin()


def counted(x, n):
    k = n[0].item()
    return torch.arange(k, 10, 2) * 2, torch.arange(k).sum() + x.sum(), torch.arange(k, 0, -3) + 1


def combined(x, n):
    return torch.combinations(x[:5], 3).prod(1), torch.combinations(x[:2], with_replacement=True)


PROGRAMS = [
    number_as_operand, number_as_fill, mask_selects, nonzero_indexes, sizes_from_a_tensor, bounded_slice, unique_values, truths, asserted_equality,
    part_from_a_tensor, classes_of_the_data, variances_are_checked, lengths_in_a_tensor, lengths_in_a_list, scalar_filled, counted, combined,
]  # fmt: skip


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
                next(t for t in (v if isinstance(v, tuple) else (v,)) if isinstance(t, torch.Tensor) and t.requires_grad).sum().backward()
            torch.testing.assert_close(x.grad, y.grad)
    assert counters["graphs"]["captured"] == 1 and not counters["graph_breaks"] and not counters["recompiles"]


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_a_momentum_that_depends_on_data(backend):
    """Batch norm's cumulative average: one over the number of batches, which is a tensor."""
    ours, eager = (torch.nn.BatchNorm1d(4, momentum=None) for _ in range(2))
    fast = lamina.compile(ours, backend=backend, fullgraph=True)
    counters.clear()
    for _ in range(3):
        x = torch.randn(6, 4)
        torch.testing.assert_close(fast(x), eager(x))
    torch.testing.assert_close(dict(ours.named_buffers()), dict(eager.named_buffers()))
    assert counters["graphs"]["captured"] == 1


def test_what_fails_for_its_values_raises_as_eager_does():
    fast = lamina.compile(part_from_a_tensor, fullgraph=True)
    fast(torch.randn(10), torch.tensor([4, 3]))
    for program in (part_from_a_tensor, fast):
        with pytest.raises(RuntimeError, match="exceeds dimension size"):
            program(torch.randn(10), torch.tensor([4, 9]))
