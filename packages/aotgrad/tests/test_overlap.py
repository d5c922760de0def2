"""Inputs that share memory while one is written: compiled with a synthetic base, for each way of sharing that comes."""

from __future__ import annotations

import pytest
import torch
from lamina_aotgrad import aot_function, run_graph
from lamina_dynshape.support.counters import counters


def program(x, y):
    x.add_(1)
    z = y * 2
    y.mul_(3)
    return z + x.sum(), y[:1], x, z.sum()


def apart():
    return [torch.arange(12.0).view(3, 4), torch.ones(2, 4)]


def inside():
    base = torch.arange(12.0).view(3, 4)
    return [base, base[1:]]


def crossing():
    base = torch.arange(24.0).view(6, 4)
    return [base[2:5], base[1:3]]


def beside():
    base = torch.arange(24.0).view(6, 4)
    return [base[:3], base[3:5]]


WAYS = [apart, inside, crossing, beside]


@pytest.mark.parametrize("first", WAYS)
def test_each_way_of_sharing_is_compiled_once(first, observe_all):
    compiled = []

    def compiler(gm, fakes, *, kind, signature):
        compiled.append(kind)
        return gm.forward

    f = aot_function(program, first(), fw_compiler=compiler)
    for make in (*WAYS, *WAYS):
        inputs, eager_inputs = make(), make()
        outputs, eager_outputs = f(*inputs), program(*eager_inputs)
        for mine, eager in zip((*outputs, *inputs), (*eager_outputs, *eager_inputs), strict=True):
            torch.testing.assert_close(mine, eager)
        mine, eager = observe_all(inputs, outputs), observe_all(eager_inputs, eager_outputs)
        assert mine == eager
    assert len(compiled) == 4 and not counters["fallbacks"]


@pytest.mark.parametrize("grads", [(True, False), (False, True)])
def test_a_leaf_and_a_detached_alias_that_is_written(same, grads):
    def write(x, y, w):
        with torch.no_grad():
            (y if grads[0] else x).mul_(2)
        return (x * w).sum() + (y * w).sum(), x.view(-1)

    def make():
        leaf = torch.arange(6.0).view(2, 3).requires_grad_()
        pair = [leaf, leaf.detach()] if grads[0] else [leaf.detach(), leaf]
        return [*pair, torch.ones(3, requires_grad=True)]

    same(write, make)


def test_a_parameter_and_its_data(same):
    def step(p, data, g):
        data.add_(g, alpha=-0.1)
        return ((p * g).sum(),)

    def make():
        p = torch.ones(4, requires_grad=True)
        return [p, p.detach()[1:], torch.arange(4.0)[1:].clone()]

    same(lambda p, d, g: step(p[1:], d, g), make)


def test_too_many_ways_run_eagerly():
    f = aot_function(lambda x, y: (x.add_(1).sum() + y.sum(),), [torch.zeros(2), torch.zeros(2)], fw_compiler=run_graph)
    for offset in range(10):
        base = torch.zeros(20)
        assert f(base[offset : offset + 2], base[offset + 1 : offset + 3])[0] == 3
    assert counters["fallbacks"]["aot aliased_inputs"] == 3


def test_a_differentiable_write_to_a_member_runs_eagerly(observe_all):
    def write(x, y):
        y.mul_(2)
        return (x.sum() + y.sum(),)

    base = torch.ones(4, requires_grad=True) * 1
    f = aot_function(write, [torch.ones(4, requires_grad=True) * 1, torch.ones(2, requires_grad=True) * 1], fw_compiler=run_graph)
    assert f(base, base[:2])[0] == 10
    assert counters["fallbacks"]["aot aliased_inputs"] == 1
