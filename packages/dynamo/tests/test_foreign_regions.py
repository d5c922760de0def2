"""What runs between graphs: NumPy, functorch transforms, checkpointed functions, containers that contain themselves."""

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from lamina_dynamo import Unsupported, optimize


def eager_backend(gm, example_inputs):
    return gm.forward


def test_a_method_of_a_tensor_survives_a_break():
    def f(x):
        return torch.from_numpy(np.sin((x * 2).numpy())) + 1

    c = optimize(f, eager_backend)
    for x in (torch.ones(3), torch.full((3,), 2.0)):  # the array's values are not baked in
        torch.testing.assert_close(c(x), f(x))


def test_transforms_run_eagerly_and_leave_no_level_behind():
    def f(x):
        return torch.func.vmap(lambda t: t.sin())(x + 1), torch.func.grad(lambda t: (t**2).sum())(x)

    c = optimize(f, eager_backend)
    x = torch.randn(3, 2)
    for _ in range(2):
        torch.testing.assert_close(c(x), f(x))
    assert not torch._C._are_functorch_transforms_active()
    torch.rand(2)  # refused inside a vmap level


def test_a_compiled_function_called_under_a_transform():
    c = optimize(lambda t: t.sin() * 2, eager_backend)
    x = torch.randn(3, 2)
    torch.testing.assert_close(torch.func.vmap(c)(x), x.sin() * 2)
    torch.testing.assert_close(c(x), x.sin() * 2)


def test_a_checkpointed_function_saves_the_same_both_times():
    linear = torch.nn.Linear(3, 3)

    def f(x):
        return checkpoint(lambda t: linear(t).relu(), x, use_reentrant=False) + 1

    c = optimize(f, eager_backend)
    x = torch.randn(2, 3, requires_grad=True)
    for _ in range(2):
        (want,) = torch.autograd.grad(f(x).sum(), x)
        (got,) = torch.autograd.grad(c(x).sum(), x)
        torch.testing.assert_close(got, want)


def test_text_of_a_container_that_contains_itself():
    def f(x, d):
        return x + len(f"{d}")

    d = {}
    d["self"] = d
    x = torch.ones(2)
    torch.testing.assert_close(optimize(f, eager_backend)(x, d), f(x, d))


def test_one_hot_with_a_number_of_classes_is_captured_and_still_checks_its_values():
    def f(x):
        return torch.nn.functional.one_hot(x, 5).float() * 2

    c = optimize(f, eager_backend, fullgraph=True)
    x = torch.tensor([[0, 4], [2, 1]])
    for _ in range(2):
        assert torch.equal(c(x), f(x))
    for wrong in (5, -1):
        with pytest.raises(RuntimeError):
            c(torch.tensor([[0, wrong], [2, 1]]))


def test_a_tensor_of_the_program_may_take_another_shape_of_its_memory():
    def f(x):
        y = x * 2
        z = y[1]
        y.resize_(2, 2).add_(1)
        return y, z

    c = optimize(f, eager_backend, fullgraph=True)
    x = torch.randn(3, 2)
    for got, expected in zip(c(x), f(x), strict=True):
        assert torch.equal(got, expected)
    for program in (lambda x: x.resize_(2), lambda x: (x * 2).resize_(9), lambda x: (x * 2)[1].resize_(1), lambda x: (x * 2).t().resize_(2)):
        with pytest.raises(Unsupported, match="changing a tensor's storage"):
            optimize(program, eager_backend, fullgraph=True)(torch.randn(3, 2))
