"""Nothing stays behind: objects alive after many lives of compiled callables, of every kind that leaves something around."""

import gc
import linecache
import types
import weakref

import pytest
import torch

from lamina_dynamo import disable, graph_break, optimize
from lamina_dynamo.bytecode import ByCode

X = torch.ones(2, 4)


def graph_itself(gm, example_inputs):
    return gm.forward


@disable
def foreign(x):
    return x


def whole():
    bias = torch.ones(4)
    return lambda x: x * 2 + bias


def module():
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())


def breaks():
    def f(x):
        y = x + 1
        graph_break()
        return {"y": y * 2}

    return f


def breaks_with_cells_in_a_loop():
    scale = torch.ones(4)

    def f(x):
        for i in range(2):
            x = foreign(x * scale)
            scale.mul_(1.0)
        return (lambda: x + i)()

    return f


def calls_a_compiled_one():
    inner = optimize(module(), graph_itself)
    return lambda x: inner(x) + 1


def raises():
    def f(x):
        if x.shape[0] == 2:
            raise KeyError("as eager")
        return x

    return f


@pytest.mark.parametrize("make", [whole, module, breaks, breaks_with_cells_in_a_loop, calls_a_compiled_one, raises])
def test_lives_leave_nothing(make):
    refs = []

    def life():
        target = make()
        if isinstance(target, types.FunctionType):  # code of its own, as `exec` would make
            target = types.FunctionType(target.__code__.replace(), target.__globals__, "f", None, target.__closure__)
            refs.append(weakref.ref(target.__code__))
        refs.append(weakref.ref(target))
        fast = optimize(target, graph_itself)
        for _ in range(3):
            try:
                fast(X)
            except KeyError:
                pass
        refs.append(weakref.ref(fast))

    def alive():
        gc.collect()
        return len(gc.get_objects()), len(linecache.cache)

    [life() for _ in range(5)]
    refs.clear()
    before = alive()
    [life() for _ in range(10)]
    objects, lines = alive()
    assert lines == before[1]
    assert [r() for r in refs] == [None] * len(refs)
    refs.clear()
    assert alive()[0] - before[0] < 10  # not one per life


def test_what_is_known_of_code_goes_with_it():
    known = ByCode()
    one, two = (compile("x = 1", "f", "exec").replace(co_firstlineno=1) for _ in range(2))
    assert one == two and known.put(one, "one") == "one"
    assert known.get(one) == "one" and known.get(two) is None
    del one
    assert len(known) == 0


def test_a_compiled_function_is_captured_in_another():
    graphs = []

    def backend(gm, example_inputs):
        graphs.append(gm)
        return gm.forward

    inner = optimize(lambda x: x * 3, backend)
    outer = optimize(lambda x: inner(x) + inner(x + 1), backend, fullgraph=True)
    assert torch.equal(outer(X), X * 3 + (X + 1) * 3) and len(graphs) == 1
    assert torch.equal(inner(X), X * 3) and torch.equal(outer(X), X * 9 - X * 3 + 3) and len(graphs) == 2


# ---- entries that several callables use ------------------------------------------------------------------------------------
def counting():
    graphs = []

    def backend(gm, example_inputs):
        graphs.append(gm)
        return gm.forward

    return graphs, backend


def test_identical_layers_share_one_graph():
    graphs, backend = counting()
    layers = [torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()) for _ in range(4)]
    other = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh())
    fast = [optimize(m, backend) for m in (*layers, other)]
    for _ in range(2):
        for m, f in zip((*layers, other), fast, strict=True):
            assert torch.equal(f(X), m(X))
    assert len(graphs) == 2
    layers[2].eval(), layers[2][0].register_forward_hook(lambda m, a, out: out + 1)
    assert torch.equal(fast[2](X), layers[2](X)) and torch.equal(fast[3](X), layers[3](X)) and len(graphs) == 3


class Breaking(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.randn(4))

    def forward(self, x):
        y = x * self.w
        graph_break()
        return y + self.w


def test_a_shared_entry_outlives_the_callable_that_made_it():
    """The code after a break belongs to the options under which it was made."""
    _, backend = counting()
    for target, again in ((Breaking(), Breaking()), (f := breaks(), f)):
        first, second = optimize(target, backend), optimize(again, backend)
        want = again(X)
        first(X), second(X)
        del first
        gc.collect()
        for _ in range(2):
            got = second(X)
            assert torch.equal(*(v["y"] if isinstance(v, dict) else v for v in (got, want)))
