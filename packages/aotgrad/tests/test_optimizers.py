"""Fused optimizer steps through functionalization: plain operators, states written in place as eager's kernels write them."""

from __future__ import annotations

import pytest
import torch
from lamina_aotgrad import aot_function, run_graph, trace_joint
from lamina_dynshape import FakeMode

aten = torch.ops.aten
ADAM = {"lr": 0.01, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1, "eps": 1e-8, "amsgrad": False, "maximize": False}
SGD = {"weight_decay": 0.1, "momentum": 0.9, "lr": 0.1, "dampening": 0.1, "nesterov": False, "maximize": False, "is_first_step": False}
ADAGRAD = {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "eps": 1e-6, "maximize": False}
# overload, states per parameter that are given, whether steps are counted, numbers
CASES = {
    "adam": (aten._fused_adam_.default, 2, 3, True, ADAM), "adam amsgrad": (aten._fused_adam_.default, 3, 3, True, {**ADAM, "amsgrad": True}),
    "adam maximize": (aten._fused_adam_.default, 2, 3, True, {**ADAM, "maximize": True}),
    "adam tensor lr": (aten._fused_adam_.tensor_lr, 2, 3, True, {**ADAM, "lr": torch.tensor(0.01)}), "adamw": (aten._fused_adamw_.default, 2, 3, True, ADAM),
    "adamw maximize": (aten._fused_adamw_.default, 2, 3, True, {**ADAM, "maximize": True}),
    "sgd": (aten._fused_sgd_.default, 1, 1, False, SGD), "sgd first": (aten._fused_sgd_.default, 1, 1, False, {**SGD, "is_first_step": True}),
    "sgd nesterov": (aten._fused_sgd_.default, 1, 1, False, {**SGD, "nesterov": True, "maximize": True}),
    "sgd plain": (aten._fused_sgd_.default, 0, 1, False, {**SGD, "momentum": 0.0}), "adagrad": (aten._fused_adagrad_.default, 1, 1, True, ADAGRAD),
}  # fmt: skip


def _step(overload, given, states, counted, numbers, **extra):
    """The step as a function of a flat list: parameters, gradients, states, step counts."""

    def run(*flat):
        columns = [list(flat[2 * i : 2 * i + 2]) for i in range(len(flat) // 2)]
        lists = [*columns[: 2 + given], *[[]] * (states - given), *(columns[2 + given :] if counted else [])]
        overload(*lists, **numbers, **extra)

    return run


def _operands(given, counted, dtype):
    g = torch.Generator().manual_seed(3)
    lists = [[torch.randn(s, generator=g).to(dtype) for s in ((3, 4), (5,))] for _ in range(2)]
    states = [[torch.rand(s, generator=g).to(dtype) for s in ((3, 4), (5,))] for _ in range(given)]
    return [t for part in (*lists, *states, *([[torch.tensor(3.0), torch.tensor(3.0)]] if counted else [])) for t in part]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_step_is_eagers(name, dtype):
    overload, given, states, counted, numbers = CASES[name]
    run = _step(overload, given, states, counted, numbers)
    expected, got = _operands(given, counted, dtype), _operands(given, counted, dtype)
    aot_function(run, got, fw_compiler=run_graph)(*got)
    run(*expected)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("found_inf", [0.0, 1.0])
@pytest.mark.parametrize("name", ["adam", "sgd", "adagrad"])
def test_scaled_gradients_and_infinities(name, found_inf):
    overload, given, states, counted, numbers = CASES[name]
    extra = {"grad_scale": torch.tensor(4.0), "found_inf": torch.tensor(found_inf)}
    run = _step(overload, given, states, counted, numbers, **extra)
    expected, got = _operands(given, counted, torch.float32), _operands(given, counted, torch.float32)
    aot_function(run, got, fw_compiler=run_graph)(*got)
    run(*expected)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_no_fused_op_is_left_in_the_graph():
    overload, given, states, counted, numbers = CASES["adam"]
    mode = FakeMode()
    joint = trace_joint(_step(overload, given, states, counted, numbers), [mode.from_real(t) for t in _operands(given, counted, torch.float32)])
    assert not [n for n in joint.graph_module.graph.nodes if "fused" in str(n.target)]
