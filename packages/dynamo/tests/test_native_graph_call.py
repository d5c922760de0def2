"""The call of a graph from native code: what it is called with, what becomes of its result, what is kept alive meanwhile."""

import gc
import weakref

import pytest
import torch

from lamina_dynamo import optimize
from lamina_dynamo.guards import Guard, GuardKind
from lamina_dynamo.native import CompiledFunction, Entry, compile_guards
from lamina_dynamo.source import GlobalSource, LocalSource

held_value = "supplied"


def entry(code_of, **call):
    program = compile_guards([Guard(LocalSource("x"), GuardKind.TYPE, int)], ("x", "y"), supplied=(GlobalSource("held_value"),))
    return Entry(program, code_of.__code__, ("constant", "for the graph"), **call)


def original(x, y):
    return "original"


def compiled(e):
    c = CompiledFunction(original, None)
    c.cache.add(e)
    return c


def test_inputs_from_slots_supplied_values_and_constants():
    def code(x, y, constant, outs):
        return x, y, constant, outs

    call = {"graph": lambda *a: a, "inputs": (1, 2, 0, 4, 3, 1), "code_supplied": 0, "code_constants": 1}
    assert compiled(entry(code, **call))(1, 2) == (1, 2, "constant", (2, "supplied", 1, "for the graph", "constant", 2))


def test_a_result_is_returned_without_the_code():
    def code(x, y, outs):
        (a, b) = outs
        return ("by the code", b)

    returns = {"inputs": (0, 1), "code_supplied": 0, "code_constants": 0, "outputs": 2, "result": 1}
    assert compiled(entry(code, graph=lambda x, y: (x, y), **returns))(1, 2) == 2
    assert compiled(entry(code, graph=lambda x, y: [x, y], **returns))(1, 2) == ("by the code", 2)  # not what a graph returns, as Python takes it
    with pytest.raises(ValueError, match="values to unpack"):
        compiled(entry(code, graph=lambda x, y: (x,), **returns))(1, 2)


@pytest.mark.parametrize("wrong", [{"inputs": (5,)}, {"inputs": (-1,)}, {"inputs": ("0",)}, {"code_supplied": 2}, {"code_constants": 3}, {"graph": None}])
def test_entries_check_the_call(wrong):
    def code(x, y, outs):
        return outs

    with pytest.raises((ValueError, TypeError)):
        entry(code, **({"graph": max, "inputs": (0,), "code_supplied": 0, "code_constants": 0} | wrong))


def test_what_is_supplied_lives_until_the_code_has_run():
    """Guards remember without owning; the graph below takes the last reference away while it runs."""

    class Value:
        pass

    def code(x, y, value, outs):
        return value.mark

    def graph(value):
        global held_value
        held_value = None
        gc.collect()
        value = None
        return ()

    global held_value
    try:
        for _ in range(3):  # by the full check, then by what is remembered
            held_value = Value()
            held_value.mark = "alive"
            dead = weakref.ref(held_value)
            c = compiled(entry(code, graph=graph, inputs=(2,), code_constants=0))
            keep = held_value
            assert c(1, 2) == "alive"
            held_value = keep
            del keep
            assert c(1, 2) == "alive"
            assert dead() is None
    finally:
        held_value = "supplied"


@pytest.mark.parametrize("calls", [1, 5])
def test_a_graph_that_raises(calls):
    def fail(*_):
        raise KeyError("in the graph")

    x = torch.ones(2)
    f = optimize(lambda t: t + 1, lambda gm, ex: fail)
    for _ in range(calls):
        with pytest.raises(KeyError, match="in the graph"):
            f(x)


def test_a_graph_that_calls_its_own_compiled_function():
    depth = [0]

    def backend(gm, example_inputs):
        def run(*args):
            if depth[0] < 3:
                depth[0] += 1
                f(torch.zeros(2))
            return gm.forward(*args)

        return run

    f = optimize(lambda t: t + 1, backend)
    assert torch.equal(f(torch.ones(2)), torch.full((2,), 2.0))
    assert depth[0] == 3


def test_many_parameters_in_any_order():
    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.ps = torch.nn.ParameterList(torch.nn.Parameter(torch.full((1,), float(2**i))) for i in range(40))

        def forward(self, x):
            out = x
            for p in reversed(list(self.ps)):
                out = out * 0.5 + p
            return out

    model = Sum()
    fast = optimize(model, lambda gm, ex: gm.forward)
    with torch.no_grad():
        for i in range(4):
            assert torch.equal(fast(torch.ones(1)), model(torch.ones(1)))
            model.ps[i] = torch.nn.Parameter(torch.randn(1))
