"""Leaves that compiled programs make (parameters, modules, copies, `requires_grad_`): identity, memory, gradients that the outside takes, graphs."""

import copy

import lamina_dynamo
import pytest
import torch
from backends import BACKENDS
from lamina_dynshape.support.counters import counters
from torch import nn


@pytest.fixture(params=sorted(BACKENDS))
def backend(request):
    return BACKENDS[request.param]


def tensors(v):
    if isinstance(v, torch.Tensor):
        yield v
    elif isinstance(v, nn.Module):
        yield from tensors(list(v._parameters.values()))
        yield from tensors(list(v._buffers.values()))
        yield from tensors(list(v._modules.values()))
        assert not any(isinstance(x, torch.Tensor) for x in v.__dict__.values())
    elif isinstance(v, (tuple, list)):
        for x in v:
            yield from tensors(x)


def outcome(f, make):
    """What a call gives, and the gradients that arrive at every leaf when its first result is differentiated."""
    torch.manual_seed(0)
    args = make()
    out = f(*args)
    found = list(tensors(out))
    if found[0].requires_grad:
        found[0].sum().backward()
    seen = []
    for t in (*found, *tensors(args)):
        seen.append((t.detach().clone(), type(t), t.requires_grad, t.is_leaf, t.stride(), t.grad.clone() if t.is_leaf and t.grad is not None else None))
    memory = [t.untyped_storage().data_ptr() for t in (*found, *tensors(args))]
    return seen, [memory.index(m) for m in memory], torch.get_rng_state()


def assert_same(a, b):
    if isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b)
    elif isinstance(a, (tuple, list)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same(x, y)
    else:
        assert a == b


def check(program, make, backend, breaks=0):
    counters.clear()
    fast = lamina_dynamo.optimize(program, backend)
    for _ in range(2):
        assert_same(outcome(program, make), outcome(fast, make))
    assert sum(counters["graph_breaks"].values()) == breaks, counters["graph_breaks"]
    if not breaks:
        assert counters["graphs"]["captured"] == 1


def x_w():
    return torch.randn(3, 4), torch.randn(4, 4, requires_grad=True)


# ---- tensors -------------------------------------------------------------------------------------------------------------
def factory(x, w):
    a = torch.ones(3, 4, requires_grad=True)
    return (a * x) @ w, a


def told_to(x, w):
    a = (x * 2).requires_grad_()
    return (a @ w).sum(), a


def over_an_input(x, w):
    a = x.detach().requires_grad_()
    return (a @ w).sum(), a


def over_a_part_of_an_input(x, w):
    a = x[1:, ::2].detach().requires_grad_()
    return (a * a).sum(), a


def not_seen(x, w):
    a = torch.ones(3, 4, requires_grad=True)
    return a * x


def only_returned(x, w):
    return torch.zeros(2, requires_grad=True), x.t().clone().requires_grad_()


def attack(x, w):
    a = x.clone().requires_grad_(True)
    for _ in range(2):
        (g,) = torch.autograd.grad((a @ w).tanh().sum(), a)
        a = (a + 0.1 * g.sign()).detach().requires_grad_(True)
    return (a @ w).sum(), a


def backward_inside(x, w):
    a = x.clone().requires_grad_(True)
    (a @ w).sum().backward()
    return a.detach(), a


def memory_is_seen(x, w):
    y = x * 2
    a = y.detach().requires_grad_()
    return (a * a).sum() + y.sum(), a, y


def frozen(x, w):
    w.requires_grad_(False)
    return (x @ w).sum(), w


def frozen_and_thawed(x, w):
    y = x @ w
    w.requires_grad_(False)
    z = x @ w
    w.requires_grad = True
    return y + z


def turned_on(x, w):
    x.requires_grad_()
    return (x @ w).sum()


def turned_on_and_off(x, w):
    x.requires_grad = True
    (g,) = torch.autograd.grad((x @ w).sum(), x)
    x.requires_grad = False
    return g


def data_assigned(x, w):
    y = x * 2
    with torch.no_grad():
        x.data = y
        w.data = w.data * 0.5
        w.add_(1)
    return (x @ w.detach()).sum(), x, w, y


def data_assigned_and_used(x, w):
    w.data = w * 2 + 1
    return (x @ w).sum()


def data_swapped(x, w):
    y = w.detach().clone()
    w.data = y
    y.mul_(3)
    return (x @ y).sum(), w, y


TENSORS = [
    (data_assigned, 0), (data_assigned_and_used, 1), (data_swapped, 0),
    (factory, 0), (told_to, 0), (over_an_input, 0), (over_a_part_of_an_input, 0), (not_seen, 0), (only_returned, 0), (attack, 0), (backward_inside, 0), (memory_is_seen, 1),
    (frozen, 0), (frozen_and_thawed, 0), (turned_on, 1), (turned_on_and_off, 1),
]  # fmt: skip


@pytest.mark.parametrize("program, breaks", TENSORS)
def test_tensors(program, breaks, backend):
    check(program, x_w, backend, breaks)


def test_a_leaf_is_another_one_at_each_call(backend):
    fast = lamina_dynamo.optimize(only_returned, backend)
    (a, _), (b, _) = fast(*x_w()), fast(*x_w())
    a.data.fill_(1)
    assert a is not b and b.sum() == 0


def test_leaves_of_sizes_that_change(backend):
    def program(x):
        a = torch.ones(x.shape[0], requires_grad=True)
        return (a * x).sum(), a

    counters.clear()
    fast = lamina_dynamo.optimize(program, backend)
    for n in (3, 4, 5, 3):
        assert_same(outcome(program, lambda n=n: (torch.arange(float(n)),)), outcome(fast, lambda n=n: (torch.arange(float(n)),)))
    assert not counters["graph_breaks"]


# ---- parameters and modules ----------------------------------------------------------------------------------------------
def parameter(x, w):
    p = nn.Parameter(torch.full((4, 4), 2.0))
    return x @ p @ w, p


def parameter_without_gradients(x, w):
    p = nn.Parameter(x.abs(), requires_grad=False)
    return p @ w, p


def parameter_over_an_input(x, w):
    p = nn.Parameter(x)
    return p @ w, p


def linear(x, w):
    m = nn.Linear(4, 2)
    return m(x @ w)


def network(x, w):
    m = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1, bias=False))
    return m(x @ w), m


def in_a_loop(x, w):
    ms = []
    for _ in range(2):
        ms.append(nn.Linear(4, 4))
        x = ms[-1](x).relu()
    return x, ms


def trained_inside(x, w):
    m = nn.Linear(4, 1)
    opt = torch.optim.SGD(m.parameters(), lr=0.1)
    for _ in range(2):
        opt.zero_grad()
        m(x).square().mean().backward()
        opt.step()
    return m(x).detach(), m


def buffer(x, w):
    b = nn.Buffer(x * 2)
    return b @ w, isinstance(b, nn.Buffer), b.persistent


@pytest.mark.parametrize("program", [parameter, parameter_without_gradients, parameter_over_an_input, linear, network, in_a_loop, trained_inside, buffer])
def test_parameters(program, backend):
    check(program, x_w, backend)


# ---- copies --------------------------------------------------------------------------------------------------------------
class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.register_buffer("n", torch.tensor(0))
        self.names = {"x": [1, (2, self.a)]}

    def forward(self, x):
        self.n += 1
        return self.b(self.a(x))


def copies_a_module(m, x):
    k = copy.deepcopy(m)
    with torch.no_grad():
        for p in k.parameters():
            p.mul_(2)
    return k(x), k, k.b.weight is k.a.weight, k.names["x"][1][1] is k.a


def copies_shallowly(m, x):
    k = copy.copy(m)
    k.extra = 1
    return k(x), k, hasattr(m, "extra"), k.a is m.a


def average(m, x):
    k = copy.deepcopy(m).eval().requires_grad_(False)
    with torch.no_grad():
        for p, q in zip(k.parameters(), m.parameters()):
            p.mul_(0.9).add_(q, alpha=0.1)
    return m(x), k(x), k


def module_and_input():
    return Shared(), torch.randn(3, 4)


@pytest.mark.parametrize("program", [copies_a_module, copies_shallowly, average])
def test_copies_of_modules(program, backend):
    check(program, module_and_input, backend)


def copies_tensors(x, w):
    a, b = copy.deepcopy([x, w])
    a.add_(1)
    return a @ b, b, copy.copy(x)


def copies_a_gradient(x, w):
    k = copy.deepcopy(w)
    return k * 2, k, k.grad


@pytest.mark.parametrize("program", [copies_tensors, copies_a_gradient])
def test_copies_of_tensors(program, backend):
    def make():
        x, w = x_w()
        w.grad = torch.ones_like(w)
        return x, w

    check(program, make, backend)


class Node:
    def __init__(self, name, parent=None):
        self.name, self.parent, self.children = name, parent, []

    def __deepcopy__(self, memo):
        new = Node(self.name)
        memo[id(self)] = new
        new.parent, new.children = copy.deepcopy(self.parent, memo), copy.deepcopy(self.children, memo)
        return new


def test_the_memo_of_deepcopy(backend):
    root = Node("root")
    root.children += [Node("a", root), Node("b", root)]

    def program(x):
        new = copy.deepcopy(root)
        return x + 1, [c.parent is new for c in new.children], new is root, [c.name for c in new.children]

    counters.clear()
    fast = lamina_dynamo.optimize(program, backend)
    assert fast(torch.ones(1))[1:] == program(torch.ones(1))[1:] and not counters["graph_breaks"]


# ---- modules that change themselves ------------------------------------------------------------------------------------
class MakesItsWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = None

    def forward(self, x):
        if self.w is None:
            self.w = nn.Parameter(torch.full(x.shape[-1:], 2.0))
        return x * self.w


class Registers(nn.Module):
    def forward(self, x):
        if not hasattr(self, "l"):
            self.add_module("l", nn.Linear(4, 4))
            self.register_parameter("p", nn.Parameter(torch.ones(4)))
        self.register_buffer("mean", x.mean(0).detach())
        return self.l(x) * self.p - self.mean


@pytest.mark.parametrize("cls", [MakesItsWeight, Registers])
def test_modules_that_make_their_members(cls, backend):
    counters.clear()
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        m = cls()
        f = lamina_dynamo.optimize(m, backend) if compiled else m
        outs = []
        for i in range(3):
            torch.manual_seed(i)
            y = f(torch.randn(3, 4))
            y.sum().backward()
            outs.append(y.detach())
        results.append([outs, [(n, p.detach(), p.grad) for n, p in m.named_parameters()], list(m.named_buffers()), sorted(m.__dict__)])
    assert_same(*results)
    assert not counters["graph_breaks"] and counters["graphs"]["captured"] == 2


@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(2)), lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), nn.LazyConv1d(2, 2), nn.LazyBatchNorm1d())])
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_lazy_modules(make, backend):
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        m = make()
        counters.clear()
        f = lamina_dynamo.optimize(m, backend, fullgraph=True) if compiled else m
        outs = [f(torch.linspace(-1, 1, 12).reshape(3, 4)).detach() for _ in range(3)]
        results.append([outs, list(m.state_dict().items())])
    assert_same(*results)
    assert counters["graph_breaks"] == {"lazy-module": 1} and counters["graphs"]["captured"] == 1
