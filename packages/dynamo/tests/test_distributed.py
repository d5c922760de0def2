"""DistributedDataParallel over one process (gloo): a clean break around it, the module inside in one graph, eager's results, gradients and buffers."""

import lamina_dynamo
import pytest
import torch
import torch.distributed as dist
from backends import BACKENDS
from lamina_dynshape.support.counters import counters
from torch import nn

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without torch.distributed")


@pytest.fixture(autouse=True, scope="module")
def one_process():
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, x):
        return self.layers(x)


def train(make, wrap):
    torch.manual_seed(0)
    model = make()
    ddp = nn.parallel.DistributedDataParallel(model)
    call = wrap(ddp)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    for i in range(4):
        x = torch.linspace(-1, 1, 20).reshape(5, 4) * (i + 1)
        if i == 2:
            with ddp.no_sync():
                call(x).sum().backward()
            continue
        y = call(x)
        y.sum().backward()
        seen += [y.detach(), *[p.grad.clone() for p in model.parameters()]]
        opt.step()
        opt.zero_grad()
    with torch.no_grad():
        seen.append(call(torch.ones(5, 4)))
    return seen + [t.clone() for t in model.state_dict().values()]


@pytest.mark.parametrize("make", [Net, lambda: Net().layers], ids=["own", "sequential"])
@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_wrapped_module(make, backend):
    counters.clear()
    expected = train(make, lambda ddp: ddp)
    got = train(make, lambda ddp: lamina_dynamo.optimize(ddp, BACKENDS[backend]))
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b)
    assert set(counters["graph_breaks"]) == {"distributed"} and counters["graphs"]["captured"] == 2  # with and without gradients


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_step_around_a_wrapped_module(backend):
    def step(ddp):
        return lambda x: ddp(x).square() + dist.get_world_size()

    counters.clear()
    expected = train(Net, step)
    got = train(Net, lambda ddp: lamina_dynamo.optimize(step(ddp), BACKENDS[backend]))
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b)
    assert set(counters["graph_breaks"]) == {"distributed"} and counters["graphs"]["captured"] == 4


def test_a_collective_is_a_break():
    def program(x):
        y = x + 1
        dist.all_reduce(y)
        return y * 2

    counters.clear()
    fast = lamina_dynamo.optimize(program, BACKENDS["eager"])
    for _ in range(2):
        assert torch.equal(fast(torch.ones(2)), program(torch.ones(2)))
    assert counters["graph_breaks"] == {"distributed": 1} and counters["graphs"]["captured"] == 2
