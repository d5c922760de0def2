"""Numbers and sizes that depend on data: symbols of the graph, breaks where they must be decided, checks where they are relied upon."""

import lamina_dynamo
import pytest
import torch
from backends import BACKENDS
from lamina_dynamo import Unsupported
from lamina_dynshape.support.counters import counters


def branch(x, i):
    k = int(i.max())
    return x * 2 if k > 3 else x * 3


def checked(x, i):
    k = i.max().item()
    torch._check(k >= 2)
    return x * k if k >= 2 else x


def relies_on_equal_sizes(x, i):
    k = i.max().item()
    return torch.ones(k) + torch.ones(6), k == 6


def loop(x, i):
    for j in range(i.max().item()):
        x = x + j
    return x


def keyed(x, i):
    k = i.min().item()
    return x * {k: 2}[k], f"{k}"


def unpacked(x, i):
    a, b, c, d = i.tolist()
    return x * a + b * c - d


WHOLE = [
    lambda x, i: (x * x.sum().item(), x.mean().item()),
    lambda x, i: (x.new_zeros(i.max().item(), 3) + 1, i.max().item() + 1),
    lambda x, i: torch.arange(i.max().item()) * 2,
    lambda x, i: torch.nonzero(x > 0) * 2,
    lambda x, i: (x[x > 0].sum(), x[x > 0] + x[x > 0]),
    lambda x, i: torch.masked_select(x, x > 0).mean(),
    lambda x, i: torch.repeat_interleave(x, i, dim=0) * 2,
    lambda x, i: x / float(x.abs().max()),
    lambda x, i: torch.unique(i) + 1,
    lambda x, i: torch.unique_consecutive(i, return_inverse=True, return_counts=True),
    lambda x, i: torch.unique(x.round().t(), dim=1, return_counts=True),
    lambda x, i: (torch.bincount(i), torch.bincount(i, x[:, 0], minlength=9)),
    lambda x, i: x[x > 0].view(-1, 1).shape[0],
    lambda x, i: ((x > 9).any().item(), x + (x < 9).all().item()),
    lambda x, i: (torch.equal(i, i.abs()), x.allclose(x * i[0])),
    lambda x, i: x.narrow(0, i.argmin() - 4, 1) + torch.narrow(x, dim=1, start=i[0] % 2, length=2)[0].sum(),
    lambda x, i: torch.nn.functional.one_hot(i),
    lambda x, i: (torch.tensor_split(x, i[:2] - 3), x.tensor_split(i - i, dim=-1), torch.tensor_split(x, torch.tensor(2)), x.tensor_split(torch.tensor([1, 3]))),
    checked, relies_on_equal_sizes, unpacked,
]
BROKEN = [branch, loop, keyed]


@pytest.mark.parametrize("program", [*WHOLE, *BROKEN], ids=lambda p: p.__name__)
def test_what_depends_on_data(program):
    counters.clear()
    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward)
    for seed in range(3):
        torch.manual_seed(seed)
        x, i = torch.randn(4, 3), torch.randint(2, 7, (4,))
        got, expected = fast(x, i), program(x, i)
        if program is keyed:
            assert got[1] == expected[1]
            got, expected = got[0], expected[0]
        torch.testing.assert_close(got, expected)
    assert bool(sum(counters["graph_breaks"].values())) == (program in BROKEN)
    assert counters["graphs"]["captured"] >= 1


def test_a_check_that_fails_raises():
    def program(x, i):
        k = i.max().item()
        torch._check(k < 6, lambda: "too large")
        return x * k

    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, fullgraph=True)
    assert torch.equal(fast(torch.ones(2), torch.tensor([3])), torch.ones(2) * 3)
    with pytest.raises(RuntimeError, match="too large"):
        fast(torch.ones(2), torch.tensor([7]))


CHECKS = {
    torch._check_index: IndexError, torch._check_value: ValueError, torch._check_type: TypeError, torch._check_not_implemented: NotImplementedError,
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_a_check_of_another_kind_raises_its_exception(check):
    def program(x, i):
        k = i.max().item()
        check(k < 6, lambda: "too large")
        return x * k if k < 6 else x

    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, fullgraph=True)
    assert torch.equal(fast(torch.ones(2), torch.tensor([3])), torch.ones(2) * 3)
    with pytest.raises(CHECKS[check], match="too large"):
        fast(torch.ones(2), torch.tensor([7]))


def test_a_check_of_a_tensor():
    def program(x):
        torch._check_tensor_all(x > 0, lambda: "not positive")
        return x.log()

    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, fullgraph=True)
    assert torch.equal(fast(torch.ones(2)), torch.zeros(2))
    with pytest.raises(RuntimeError, match="not positive"):
        fast(-torch.ones(2))


def test_a_check_of_a_size_is_a_guard():
    def program(x):
        torch._check(x.shape[0] < 6)
        torch._check_index(x.shape[0] > 1)
        return x * 2

    counters.clear()
    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, fullgraph=True, dynamic=True)
    for n in (3, 5, 4):
        assert torch.equal(fast(torch.ones(n)), torch.ones(n) * 2)
    with pytest.raises(RuntimeError):
        fast(torch.ones(9))
    assert counters["graphs"]["captured"] == 1


def test_a_size_that_turns_out_otherwise_runs_the_program():
    fast = lamina_dynamo.optimize(relies_on_equal_sizes, lambda gm, inputs: gm.forward, fullgraph=True)
    for k in (6, 1):
        result, equal = fast(torch.ones(1), torch.tensor([k]))
        assert result.shape == (6,) and equal == (k == 6)


def test_a_backend_without_them_gets_broken_graphs():
    def backend(gm, inputs):
        if any("item" in str(n.target) for n in gm.graph.nodes):
            raise Unsupported("a number that depends on data", code="unbacked")
        return gm.forward

    counters.clear()
    fast = lamina_dynamo.optimize(lambda x: (x + 1) * (x + 1).sum().item(), backend)
    assert torch.equal(fast(torch.ones(2)), torch.full((2,), 8.0))
    assert counters["graph_breaks"]["data-dependent-value"] == 1
    assert counters["graphs"]["captured"] == 3


def test_real_numbers_and_conditions_of_sizes_keep_their_value():
    graphs = []
    fast = lamina_dynamo.optimize(lambda x: (x * (x.shape[0] / 2), x.shape[0] / 4, x.shape[0] > 3), lambda gm, e: (graphs.append(gm), gm.forward)[1], fullgraph=True, dynamic=True)
    for n in (5, 7):
        got = fast(torch.ones(n))
        assert torch.equal(got[0], torch.full((n,), n / 2)) and got[1:] == (n / 4, True)
    assert len(graphs) <= 2


def test_constants_are_evaluated_whatever_their_size():
    def program(x):
        mask = torch.triu(torch.full((64, 64), float("-inf")), diagonal=1)
        return x + 1 if bool((mask == mask.clone()).all()) else x

    counters.clear()
    fast = lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, fullgraph=True)
    assert torch.equal(fast(torch.ones(2)), torch.full((2,), 2.0)) and counters["graphs"]["captured"] == 1


def half(x):
    return torch.div(x.shape[1], 2, rounding_mode="trunc") - 1


SIZES_IN_TENSORS = {
    "new_zeros": lambda x: x.new_zeros((2, half(x) + 1, 3)),
    "reshape": lambda x: x.reshape(2, half(x) + 1, -1),
    "unflatten": lambda x: x.unflatten(1, (half(x) + 1, -1)),
    "narrow": lambda x: x.narrow(1, 0, half(x)),
    "slice": lambda x: x[:, : half(x)] + torch.zeros(1, half(x), 1),
    "index": lambda x: x[:, half(x)],
    "unfold": lambda x: x.unfold(1, half(x), 1),
    "backwards": lambda x: x.sum() * torch.div(-x.shape[1] - 1, 3, rounding_mode="trunc") + torch.arange(torch.div(-x.shape[1], -3, rounding_mode="trunc")),
}


@pytest.mark.parametrize("name", SIZES_IN_TENSORS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_sizes_that_come_in_tensors_are_the_numbers_they_were_computed_from(name, dynamic):
    fn, graphs = SIZES_IN_TENSORS[name], []

    def backend(gm, example_inputs):
        graphs.append(gm)
        return gm.forward

    fast = lamina_dynamo.optimize(fn, backend, dynamic=dynamic, fullgraph=True)
    for length in (8, 12):
        x = torch.randn(2, length, 2)
        torch.testing.assert_close(fast(x), fn(x))
    held = [n.meta["val"] for gm in graphs for n in gm.graph.nodes]
    assert not [v for v in held if isinstance(v, torch.SymInt) and str(v).lstrip("-").startswith("u")]


def test_a_view_of_a_constant_that_was_written_is_no_constant():
    def program(x):
        base = torch.zeros(2)
        first = base[0]
        base.add_(1)
        return x + 1 if bool(first) else x

    assert torch.equal(lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward)(torch.ones(2)), torch.full((2,), 2.0))


def selects(x, i):
    return x[i], x[i, :1], x[:, i, None], x[..., i], x[None, i, ..., i], x[i, torch.tensor([0, 1])], x[torch.tensor([0, 2]), i]


def selects_to_write(x, i):
    y = x.clone()
    y[i, i] = 3
    y[:, i] = y[i]
    y[..., i] += 1
    y[i] = torch.arange(4.0)
    row = y[i]
    row.add_(1)
    return y, row


def selects_in_a_loop(x, i):
    order = x[:, 0].argsort()
    return torch.stack([x[order[k], :2].sum() for k in range(3)]), x[i : i + 2]


@pytest.mark.parametrize("fn", [selects, selects_to_write, selects_in_a_loop])
def test_an_integer_in_a_tensor_selects(fn):
    compiled = lamina_dynamo.optimize(fn, lambda gm, examples: gm.forward, fullgraph=True)
    x = torch.randn(4, 4)
    for i in (2, 0, 1):
        torch.testing.assert_close(compiled(x, torch.tensor(i)), fn(x, torch.tensor(i)))
    if fn is not selects_in_a_loop:
        with pytest.raises(IndexError):
            compiled(x, torch.tensor(7))


def decomposed(x):
    try:
        return torch.linalg.cholesky(x), "ok"
    except torch.linalg.LinAlgError as error:
        return x * 2, type(error).__name__


def counted_and_decomposed(x, seen):
    seen.add_(1)
    out = decomposed(x)
    seen.mul_(3)
    return out


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
def test_what_an_operator_raises_for_some_data_comes_to_the_handler(backend):
    """A graph that writes nothing gives way to the original; in one that writes, the operator runs between two graphs."""
    eye, bad = torch.eye(3), -torch.eye(3)
    lamina_dynamo.reset()
    counters.clear()
    compiled = lamina_dynamo.optimize(decomposed, backend)
    for x in (eye, bad, eye):
        got, want = compiled(x), decomposed(x)
        assert got[1] == want[1] and torch.equal(got[0], want[0])
    assert counters["graphs"].total() == 1 and counters["graph_breaks"]["operator-error"] == 1
    compiled, seen, expected = lamina_dynamo.optimize(counted_and_decomposed, backend), torch.ones(2), torch.ones(2)
    for x in (eye, bad, eye):
        got, want = compiled(x, seen), counted_and_decomposed(x, expected)
        assert got[1] == want[1] and torch.equal(got[0], want[0]) and torch.equal(seen, expected)
    with pytest.raises(Unsupported, match="an operator that may raise"):
        lamina_dynamo.optimize(counted_and_decomposed, backend, fullgraph=True)(eye, seen)
