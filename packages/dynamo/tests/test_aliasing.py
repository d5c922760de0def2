"""What the program writes through one path and reads through another: whether the two meet is part of what was relied on."""

import functools
import types

import pytest
import torch

from lamina_dynamo.convert import listening
from lamina_dynamo.guards import GuardKind
from lamina_dynamo.runtime import Options, compile_callable


class Box:
    def __init__(self, n=1):
        self.n = n


class Scale(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = 1.0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        return x * self.scale + self.seen


def append(a, b, x):
    a.append(x + 1)
    return x * len(b)


def put(a, b, x):
    a["k"] = 7
    return x * b["k"]


def add_to_set(a, b, x):
    a.add(5)
    return x * len(b)


def attribute(a, b, x):
    a.n = 5
    return x * b.n


def delete_attribute(a, b, x):
    del a.n
    return x * getattr(b, "n", 9)


def module_attribute(a, b, x):
    a.scale = 3.0
    return b(x)


def module_buffer(a, b, x):
    a.seen.add_(1)
    return b(x)


def nested(a, b, x):
    a[0].append(2)
    return x * len(b[0])


def tensor_attribute(a, b, x):
    a.tag = 4
    return x * getattr(b, "tag", 1)


def gradient(a, b, x):
    a.grad = x * 3
    return b.grad if b.grad is not None else x


def partial_keywords(a, b, x):
    a.keywords["n"] = 5
    return x * b().n


def tuple_of_tensors(a, b, x):
    return x + a[0] + 2 * b[0]


def bound_builtin(a, b, x):
    a(1)
    b(2)
    return x * len(a.__self__) + len(b.__self__)


def in_a_set(a, b, x):
    return x * len({a, b})


def in_a_list(a, b, x):
    return x * (a in [b]) + [a, b].index(b)


def as_keys(a, b, x):
    d = {a: 1}
    return x * d.setdefault(b, 2) + len(d)


def read_only(a, b, x):
    return x * a[0] + b[0]


MAKE = {
    append: lambda: [1, 2], put: lambda: {"k": 1}, add_to_set: lambda: {1}, attribute: Box, delete_attribute: Box, module_attribute: Scale, module_buffer: Scale,
    nested: lambda: [[1]], tensor_attribute: lambda: torch.ones(2), tuple_of_tensors: lambda: (torch.rand(2), 3), gradient: lambda: torch.nn.Parameter(torch.ones(2)), partial_keywords: lambda: functools.partial(Box, n=2), bound_builtin: lambda: [].append, in_a_set: Scale, in_a_list: Box, as_keys: Box, read_only: lambda: [torch.rand(2)],
}  # fmt: skip


def _check(fn, calls):
    """`calls`: makers of arguments, called once for eager and once for the compiled function."""
    graphs = []

    def backend(gm, examples):
        graphs.append(gm)
        return gm.forward

    compiled = compile_callable(fn, Options(backend))
    for make in calls:
        torch.manual_seed(0)
        want = fn(*make())
        torch.manual_seed(0)
        torch.testing.assert_close(compiled(*make()), want, rtol=0, atol=0)
    return graphs


@pytest.mark.parametrize("first", ["same", "different"])
@pytest.mark.parametrize("fn", list(MAKE), ids=lambda f: f.__name__)
def test_one_object_twice(fn, first):
    make = MAKE[fn]

    def same():
        v = make()
        return v, v, torch.ones(2)

    def different():
        return make(), make(), torch.ones(2)

    graphs = _check(fn, [same, different, same, different] if first == "same" else [different, same, different, same])
    assert len(graphs) <= 2


def _writer_and_reader(shared):
    n = 0

    def write():
        nonlocal n
        n += 1

    def read():
        return n

    a, b = types.CellType(1), types.CellType(1)
    return types.FunctionType(write.__code__, globals(), "write", None, (a,)), types.FunctionType(read.__code__, globals(), "read", None, (a if shared else b,)), torch.ones(2)


def write_then_read(write, read, x):
    write()
    return x * read()


def read_both(write, read, x):
    return x * read() + write.__closure__[0].cell_contents


@pytest.mark.parametrize("fn", [write_then_read, read_both])
@pytest.mark.parametrize("order", [(True, False, True), (False, True, False)])
def test_two_functions_share_a_cell_or_do_not(fn, order):
    assert len(_check(fn, [lambda s=s: _writer_and_reader(s) for s in order])) <= 2


def test_the_frames_own_cell_and_a_functions():
    n = 1

    def bump(other, x):
        nonlocal n
        n += 1
        return x * other()

    def mine():
        return n

    def twin():
        m = 1
        return lambda: m

    graphs = []
    compiled = compile_callable(bump, Options(lambda gm, examples: graphs.append(gm) or gm.forward))
    for others in ((twin(), mine), (mine, twin())):
        for other in others:
            n = 1
            want = bump(other, torch.ones(2))
            n = 1
            assert torch.equal(compiled(other, torch.ones(2)), want)


def test_a_cell_that_was_empty():
    def make(filled):
        if filled:
            k = 3

        def read(x):
            return x * k

        return read

    def call(read, x):
        try:
            return read(x)
        except NameError:
            return x - 1

    graphs = _check(call, [lambda f=f: (make(f), torch.ones(2)) for f in (False, True, False, True)])
    assert len(graphs) == 2


def test_modules_that_write_cost_one_guard():
    """Layers of one class that each set an attribute: apart by one statement, not by one for each pair."""
    class Layer(torch.nn.Module):
        def forward(self, x):
            self.last = x
            return x + 1

    net = torch.nn.Sequential(*[Layer() for _ in range(5)])
    compiled = compile_callable(net, Options(lambda gm, examples: gm.forward))
    seen = []
    with listening(seen.append):
        compiled(torch.ones(2))
    assert [len(g.expected) for g in seen[0].guards if g.kind is GuardKind.NO_ALIAS] == [4]


def test_keywords_of_a_partial_that_are_written_change_outside():
    def f(p, x):
        p.keywords["n"] = 5
        return x * p().n

    p = functools.partial(Box, n=2)
    compiled = compile_callable(f, Options(lambda gm, examples: gm.forward))
    assert torch.equal(compiled(p, torch.ones(2)), torch.full((2,), 5.0)) and p.keywords == {"n": 5}


def test_a_function_with_cells_is_compiled_once_for_all_functions_of_its_code():
    def make(k):
        def f(x):
            return x * k[0]

        return f

    graphs = []
    options = Options(lambda gm, examples: graphs.append(gm) or gm.forward)
    for _ in range(4):
        compiled = compile_callable(make([2]), options)
        assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 2.0))
    assert len(graphs) == 1


def test_a_break_in_a_frame_with_cells_is_compiled_once():
    def f(x, n):
        total = 0

        def add(v):
            nonlocal total
            total = total + v
            return v

        y = add(x) * 2
        torch._dynamo.graph_break()
        return add(y) + total + n

    graphs = []
    compiled = compile_callable(f, Options(lambda gm, examples: graphs.append(gm) or gm.forward))
    for _ in range(4):
        assert torch.equal(compiled(torch.ones(2), 1), f(torch.ones(2), 1))
    assert len(graphs) == 2
