"""Legacy constructors of tensors: one graph, and eager's values, dtypes and errors."""

import lamina_dynamo
import pytest
import torch
from backends import BACKENDS
from lamina_dynshape.support.counters import counters

PROGRAMS = {
    "int": lambda x: torch.IntTensor([1, 2, 3]) + x.int().sum(),
    "sizes": lambda x: torch.FloatTensor(2, 3).fill_(1) + x,
    "size": lambda x: torch.DoubleTensor(x.size()).fill_(1) + x,
    "index": lambda x: x[torch.LongTensor([0, 1])],
    "range": lambda x: x[:, torch.LongTensor(range(2))],
    "nested": lambda x: torch.LongTensor([[0, 1], [1, 2]]) * x.sum(),
    "default": lambda x: x + torch.Tensor([1, 2, 3]),
    "tuple_is_data": lambda x: torch.Tensor((2, 3)) * x.sum(),
    "default_sizes": lambda x: x + torch.Tensor(2, 3).zero_(),
    "of_a_tensor": lambda x: torch.Tensor(x) * 2,
    "of_integers": lambda x: torch.Tensor(x.long()).dtype is torch.int64 and x * 2,
    "nothing": lambda x: torch.Tensor().numel() + x,
    "new_data": lambda x: x.new([1, 2, 3]) + x,
    "new_sizes": lambda x: x.new(2, 3).zero_() + x,
    "new_size": lambda x: x.new(x.size()).zero_() + x,
    "new_tensor": lambda x: x.new(x) + x,
    "bool": lambda x: x * torch.BoolTensor([True, False, True]),
    "half": lambda x: x * torch.HalfTensor([1, 0, 3]),
    "size_as_number": lambda x: x + torch.FloatTensor([x.size(0), 2, 3]),
    "scalars": lambda x: torch.Tensor([x.detach()[0, 0], 2.0, x.size(1)]) * x,
    "tensor_of_scalars": lambda x: torch.tensor([x.detach()[0, 0], x.detach().double().sum(), 1]) * x,
    "tensor_of_flags": lambda x: torch.tensor([x[0, 0] > 0, True, False]) * x,
    "type": lambda x: x.type(torch.LongTensor) + x,
    "type_name": lambda x: x.type("torch.DoubleTensor") + len(x.type()),
}  # fmt: skip


@pytest.mark.parametrize("backend", sorted(BACKENDS))
@pytest.mark.parametrize("name", PROGRAMS)
def test_legacy_constructors(name, backend):
    program = PROGRAMS[name]
    counters.clear()
    fast = lamina_dynamo.optimize(program, BACKENDS[backend])
    for rows in (2, 2, 4):
        if rows == 4 and name in ("sizes", "default_sizes", "new_sizes"):
            continue
        outcomes = []
        for f in (program, fast):
            x = torch.linspace(-1, 2, 3 * rows).reshape(rows, 3).requires_grad_()
            out = f(x)
            if out.requires_grad:
                (out * out).sum().backward()
            outcomes.append([out, x.grad])
        torch.testing.assert_close(*outcomes)
    assert not counters["graph_breaks"], counters["graph_breaks"]


@pytest.mark.parametrize("data", [(2.5,), (torch.ones(2),), ([[1], [2, 3]],), ([300],)])
def test_what_is_no_argument_is_eagers_error(data):
    def program(x):
        return torch.ByteTensor(*data) + x

    x = torch.ones(())
    with pytest.raises((TypeError, ValueError, RuntimeError)) as expected:
        program(x)
    with pytest.raises(expected.type) as got:
        lamina_dynamo.optimize(program, BACKENDS["eager"])(x)
    assert str(got.value) == str(expected.value)


def test_draws_from_constants_are_no_constants():
    def program(x):
        return x * torch._standard_gamma(torch.ones(())).item() + torch.binomial(torch.full((), 1e6), torch.full((), 0.5)).item()

    fast = lamina_dynamo.optimize(program, BACKENDS["eager"])
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = program(torch.ones(2))
        torch.manual_seed(seed)
        assert torch.equal(fast(torch.ones(2)), expected)
