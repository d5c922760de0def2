"""A compiled module is the original module in everything but its call."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import lamina
from lamina.module import CompiledModule, compile_module


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.register_buffer("seen", torch.zeros(()))
        self.scale = 2.0

    def forward(self, x):
        return self.fc(x) * self.scale

    def describe(self):
        return f"net of scale {self.scale}"


def compiled(net):
    return compile_module(net, net.__call__, compiled)


def test_keys_parameters_and_names_are_the_originals():
    net = Net()
    c = compiled(net)
    assert list(c.state_dict()) == list(net.state_dict()) == ["seen", "fc.weight", "fc.bias"]
    assert [id(p) for p in c.parameters()] == [id(p) for p in net.parameters()]
    assert [n for n, _ in c.named_modules()] == ["", "fc"]
    assert isinstance(c, Net) and isinstance(c, CompiledModule) and type(c).__name__ == "Net"
    assert repr(c) == repr(net) and c._orig_mod is net


def test_attributes_are_shared_both_ways():
    net = Net()
    c = compiled(net)
    c.scale = 5.0
    assert net.scale == 5.0 and c.describe() == "net of scale 5.0"
    net.extra = nn.Linear(1, 1)
    assert "extra.weight" in c.state_dict()
    del c.extra
    assert not hasattr(net, "extra")
    c.fc.weight = nn.Parameter(torch.ones(2, 3))
    assert net.fc.weight.sum() == 6
    c.eval()
    assert not net.training and not net.fc.training
    c.train()
    assert net.training
    c.double()
    assert net.fc.weight.dtype == torch.float64
    with pytest.raises(AttributeError):
        c.nothing


def test_call_goes_to_the_compiled_callable_and_hooks_are_the_originals():
    net, calls = Net(), []
    c = compiled(net)
    c.register_forward_hook(lambda m, a, out: calls.append(m) or out + 1)
    x = torch.ones(1, 3)
    assert torch.equal(c(x), net(x)) and len(calls) == 2
    c.load_state_dict(net.state_dict())
    c.zero_grad()
    assert torch.equal(nn.Sequential(c)(x), net(x))


def test_pickle_is_refused_and_copies_are_compiled():
    c = compiled(Net())
    with pytest.raises(lamina.exc.UserError, match="_orig_mod"):
        pickle.dumps(c)
    other = copy.deepcopy(c)
    assert isinstance(other, CompiledModule) and isinstance(other, Net)
    other.fc.weight.data.zero_()
    assert c.fc.weight.abs().sum() > 0 and other(torch.ones(1, 3)).shape == (1, 2)


def test_layers_compiled_one_by_one_share_a_graph():
    from lamina import counters

    layers = [torch.nn.Linear(3, 3) for _ in range(3)]
    x = torch.randn(2, 3)
    before = counters.snapshot().get("graphs", {}).get("captured", 0)
    for layer in layers:
        assert torch.equal(lamina.compile(layer, backend="eager")(x), layer(x))
    assert counters.snapshot()["graphs"]["captured"] - before == 1
