"""`__torch_function__`: tensor subclasses, other objects, modes. Results, classes, gradients, effects and graph breaks against eager."""

import functools

import lamina_dynamo
import pytest
import torch
from lamina_dynamo.convert import Converted, listening
from lamina_dynshape.support.counters import counters
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function


class Plain(torch.Tensor):
    """No overrides of its own."""


class Logging(torch.Tensor):
    """Remembers what was called on it."""

    calls: list = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.calls.append((func.__name__, tuple(t.__name__ for t in types)))
        return super().__torch_function__(func, types, args, kwargs or {})


class Metadata(torch.Tensor):
    """Carries an attribute from operands to results."""

    @staticmethod
    def __new__(cls, data, metadata=None):
        return torch.Tensor._make_subclass(cls, data, data.requires_grad) if metadata is None else data.as_subclass(cls)

    def __init__(self, data, metadata=None):
        self.metadata = metadata

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        found = [a.metadata for a in args if isinstance(a, cls) and hasattr(a, "metadata")]
        plain = [a.as_subclass(torch.Tensor) if isinstance(a, cls) else a for a in args]
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*plain, **(kwargs or {}))
        if not isinstance(out, torch.Tensor):
            return out
        out = out.as_subclass(cls)
        out.metadata = found[0] if found else None
        return out

    def described(self):
        return f"{self.metadata} {tuple(self.shape)}"

    @property
    def twice(self):
        return self * 2


class Unit(torch.Tensor):
    """Overrides operators in Python, and one function by a table."""

    handled = {torch.mean: lambda x, *a: torch.sum(x, *a) * 0 + 7}

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in cls.handled:
            return cls.handled[func](*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    def __getitem__(self, i):
        return super().__getitem__(i) + 100

    def __radd__(self, other):
        return ("radd", super().__radd__(other))


class Scalar:
    """No tensor."""

    def __init__(self, value):
        self.value = value
        self.seen = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        for a in args:
            if isinstance(a, Scalar):
                a.seen += 1
        return func(*[a.value if isinstance(a, Scalar) else a for a in args], **(kwargs or {}))


class Refuses:
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return NotImplemented


class Counting(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


class SinForCos(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.cos:
            return torch.sin(*args)
        return func(*args, **(kwargs or {}))


class Doubling(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return out * 2 if func in (torch.sin, torch.Tensor.sin) else out


def own_api(x, y):
    if has_torch_function((x, y)):
        return handle_torch_function(own_api, (x, y), x, y)
    return x * y


def operators(x):
    return (x + 1).sin() @ x.t(), 1 - x, x.shape, x[0], [t.relu() for t in x.split(1)], x.sum(0).max(0)


def layers(x):
    return torch.nn.functional.layer_norm(torch.nn.functional.linear(x, torch.ones(3, 3)), (3,))


def mixed(x):
    return torch.cat([x, torch.ones(1, 3)]), torch.ones(2, 3).add(x), torch.ones(2, 3).add_(x), x.new_ones(2), torch.stack((x, x))


def in_place(x):
    y = x.clone()
    z = y.add_(1)
    return z is y, y, type(y).__name__, y.mul_(2)


def questions(x):
    return isinstance(x, torch.Tensor), isinstance(x, type(x)), type(x).__name__, x.__class__ is type(x), torch.is_tensor(x), len(x), x.dim(), isinstance(x.as_subclass(torch.Tensor), Plain)


def changes_class(x):
    return x.as_subclass(Plain), x.as_subclass(torch.Tensor), x.as_subclass(Plain).as_subclass(Logging) + 1


def without_subclass(x):
    with torch._C.DisableTorchFunctionSubclass():
        y = x + 1
    with torch._C.DisableTorchFunction():
        z = x.sin()
    return y, z, x * 2


def attributes(x):
    x.note = "seen"
    y = x + 1
    y.kept = [1, 2]
    return y, x.note


def custom_function(x):
    return own_api(x, 2.0), own_api(torch.ones(2), 3)


TENSOR_PROGRAMS = [operators, layers, mixed, in_place, questions, changes_class, without_subclass, attributes, custom_function]


def run(fn, *args):
    Logging.calls.clear()
    out = fn(*args)
    return out, list(Logging.calls), [getattr(a, "__dict__", {}) for a in args]


def assert_same(got, want):
    assert type(got) is type(want)
    if isinstance(want, torch.Tensor):
        with torch._C.DisableTorchFunctionSubclass():
            torch.testing.assert_close(got.as_subclass(torch.Tensor), want.as_subclass(torch.Tensor), rtol=0, atol=0)
        assert_same(dict(got.__dict__), dict(want.__dict__))
    elif isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for g, w in zip(got, want):
            assert_same(g, w)
    elif isinstance(want, dict):
        assert list(got) == list(want)
        assert_same(list(got.values()), list(want.values()))
    else:
        assert got == want


def compiled(program, **options):
    counters.clear()
    return lamina_dynamo.optimize(program, lambda gm, inputs: gm.forward, **options)


def follows_eager(program, make, breaks=0):
    """Results, calls of overrides and attributes, at both calls; -> the number of conversions."""
    fast, events = compiled(program), []
    with listening(events.append):
        for _ in range(2):
            assert_same(run(fast, *make()), run(program, *make()))
    assert sum(not isinstance(e, Converted) or e.break_reason is not None for e in events) == breaks, [str(e.break_reason) if isinstance(e, Converted) else str(e) for e in events]
    return len(events)


@pytest.mark.parametrize("cls", [Plain, Logging])
@pytest.mark.parametrize("program", TENSOR_PROGRAMS, ids=lambda p: p.__name__)
def test_subclass_of_tensor(program, cls):
    assert follows_eager(program, lambda: (torch.arange(6.0).reshape(2, 3).as_subclass(cls),)) == 1


def test_metadata_goes_along():
    def program(x):
        y = Metadata(x, "inside")
        z = (y + 1).sin()
        return z, z.metadata, z.described(), z.twice, y

    assert follows_eager(program, lambda: (torch.arange(3.0),)) == 1
    assert follows_eager(lambda x: (x * 3, x.described(), x.twice), lambda: (Metadata(torch.arange(3.0), "outside"),)) == 1


def test_methods_of_the_subclass():
    def program(x):
        return x[0], torch.ones(2) + x, torch.mean(x), x.sum()

    assert follows_eager(program, lambda: (torch.arange(2.0).as_subclass(Unit),)) == 1


def test_numbers():
    def program(x):
        return x.sum().item() * 2, float(x[0]) + 1, int(x[1]), len(x)

    assert follows_eager(program, lambda: (torch.arange(2.0).as_subclass(Plain),)) == 1


def test_called_where_overrides_are_off():
    fast = compiled(lambda x: x + 1)
    make = lambda: torch.ones(2).as_subclass(Logging)
    for context, cls in ((torch._C.DisableTorchFunction, torch.Tensor), (torch._C.DisableTorchFunctionSubclass, torch.Tensor), (torch.no_grad, Logging)):
        with context():
            assert type(fast(make())) is cls
    assert counters["graphs"]["captured"] == 2 and not counters["graph_breaks"]


def test_a_guard_on_the_class():
    fast = compiled(lambda x: x + 1)
    for cls in (Plain, torch.Tensor, Logging, Plain):
        assert type(fast(torch.ones(2).as_subclass(cls))) is cls
    assert counters["graphs"]["captured"] == 3


def test_gradients():
    def loss(x, w):
        return ((x * w).sin() + (x.as_subclass(torch.Tensor) if isinstance(x, Plain) else x)).sum()

    def gradients(fn):
        x = torch.arange(3.0).as_subclass(Plain).requires_grad_()
        w = torch.arange(3.0, requires_grad=True)
        out = fn(x, w)
        out.backward()
        return out.detach(), x.grad, w.grad

    fast = compiled(loss)
    for got, want in zip(gradients(fast), gradients(loss), strict=True):
        torch.testing.assert_close(got.as_subclass(torch.Tensor), want.as_subclass(torch.Tensor))
    assert not counters["graph_breaks"] and counters["graphs"]["captured"] == 1


def test_sizes_that_change():
    def program(x):
        return x.reshape(-1) * x.shape[0], x.size(1)

    fast = compiled(program)
    for n in (3, 4, 5, 6):
        make = lambda n=n: (torch.ones(n, 2).as_subclass(Logging),)
        assert_same(run(fast, *make()), run(program, *make()))
    assert counters["graphs"]["captured"] == 2


def test_an_input_is_written():
    def program(x):
        x.add_(1)
        x[0] = 5
        return x

    fast = compiled(program)
    x = torch.ones(3).as_subclass(Plain)
    assert fast(x) is x
    assert_same(x, torch.tensor([5.0, 2.0, 2.0]).as_subclass(Plain))


def test_the_overrides_run_at_every_call():
    x = torch.ones(2).as_subclass(Logging)
    fast = compiled(lambda x: x + 1)
    for _ in range(3):
        Logging.calls.clear()
        fast(x)
        assert [name for name, _ in Logging.calls] == ["add"]


def test_a_break_in_the_middle():
    def program(x):
        y = x + 1
        lamina_dynamo.graph_break()
        return y * 2, type(y).__name__

    follows_eager(program, lambda: (torch.ones(2).as_subclass(Logging),), breaks=1)


def test_a_break_inside_of_a_torch_function():
    class Prints(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            lamina_dynamo.graph_break()
            return super().__torch_function__(func, types, args, kwargs)

    fast = compiled(lambda x: x * 2 + 1)
    assert_same(fast(torch.ones(2).as_subclass(Prints)), torch.full((2,), 3.0).as_subclass(Prints))
    assert counters["graph_breaks"]["graph-break"]


def test_objects_that_are_no_tensors():
    def program(x, s):
        return torch.add(x, s), torch.mul(s, x), x + s, s.seen

    def make():
        return torch.ones(2), Scalar(3.0)

    assert follows_eager(program, make) == 1


def test_nothing_implements_it():
    def program(x, r):
        try:
            return torch.add(x, r)
        except TypeError as e:
            return str(e)

    follows_eager(program, lambda: (torch.ones(2), Refuses()), breaks=1)
    assert counters["graph_breaks"]["operator-error"]


def with_a_mode(x):
    with Counting() as mode:
        y = torch.sin(x) + 1
        z = torch.nn.functional.layer_norm(y, (3,))
    return y.cos(), z, mode.names


def with_two_modes(x):
    with Doubling(), SinForCos():
        a = torch.cos(x)
        with Counting() as inner:
            b = x.sin()
    return a, b, inner.names, torch.cos(x)


def with_a_mode_and_no_overrides(x):
    with Counting() as mode:
        with torch._C.DisableTorchFunction():
            y = x + 1
        z = x + 2
    return y, z, mode.names


def mode_as_a_decorator(x):
    mode = Counting()

    def inner(y):
        with mode:
            return y * 2

    return inner(x) + inner(x), mode.names


@pytest.mark.parametrize("cls", [torch.Tensor, Logging])
@pytest.mark.parametrize("program", [with_a_mode, with_two_modes, with_a_mode_and_no_overrides, mode_as_a_decorator], ids=lambda p: p.__name__)
def test_modes(program, cls):
    assert follows_eager(program, lambda: (torch.arange(6.0).reshape(2, 3).as_subclass(cls),)) == 1


def test_a_break_inside_of_a_mode_goes_in_front_of_it():
    def program(x):
        y = x + 1
        with Counting() as mode:
            z = y.sin()
            lamina_dynamo.graph_break()
            z = z.cos()
        return z * 2, mode.names

    fast = compiled(program)
    for _ in range(2):
        assert_same(fast(torch.ones(2)), program(torch.ones(2)))
    assert counters["graph_breaks"]["dispatch-state"]
    assert torch._C._len_torch_function_stack() == 0


def test_a_break_where_overrides_are_off():
    def program(x):
        with torch._C.DisableTorchFunctionSubclass():
            y = x + 1
            lamina_dynamo.graph_break()
            y = y * 2
        return y, x + 1

    fast = compiled(program)
    for _ in range(2):
        assert_same(run(fast, torch.ones(2).as_subclass(Logging)), run(program, torch.ones(2).as_subclass(Logging)))
    assert counters["graph_breaks"]["dispatch-state"] and torch._C._is_torch_function_enabled()


def test_a_wrapper_subclass_still_breaks_with_a_reason():
    class Wrapper(torch.Tensor):
        @staticmethod
        def __new__(cls, a):
            return torch.Tensor._make_wrapper_subclass(cls, a.shape, dtype=a.dtype)

        def __init__(self, a):
            self.a = a

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            return func(*[a.a if isinstance(a, Wrapper) else a for a in args], **(kwargs or {}))

    fast = compiled(lambda x: x + 1)
    assert torch.equal(fast(Wrapper(torch.ones(2))), torch.full((2,), 2.0))
    assert counters["graph_breaks"]["tensor-subclass"]


def test_functools_wraps_of_a_handler():
    table = {}

    def implements(fn):
        def register(own):
            functools.update_wrapper(own, fn)
            table[fn] = own
            return own

        return register

    class Diagonal:
        def __init__(self, n, value):
            self.n, self.value = n, value

        def tensor(self):
            return self.value * torch.eye(self.n)

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            if func not in table or not all(issubclass(t, (torch.Tensor, cls)) for t in types):
                return NotImplemented
            return table[func](*args, **(kwargs or {}))

    @implements(torch.mean)
    def mean(d):
        return torch.as_tensor(d.value / d.n)

    @implements(torch.mm)
    def mm(a, b):
        return a.tensor() @ b if isinstance(a, Diagonal) else a @ b.tensor()

    def program(d, x):
        return torch.mean(d), torch.mm(d, x), torch.mm(x, d)

    assert follows_eager(program, lambda: (Diagonal(3, 2.0), torch.arange(9.0).reshape(3, 3))) == 1
