"""Hooks on tensors and modules set by compiled programs: what they see in the backward, gradients, and the breaks that they cost."""

import lamina_dynamo
import pytest
import torch
from backends import BACKENDS
from lamina_dynshape.support.counters import counters
from torch import nn


@pytest.fixture(params=sorted(BACKENDS))
def backend(request):
    return BACKENDS[request.param]


class Case:
    """Weights, an input that is no leaf, and what hooks saw."""

    def __init__(self):
        torch.manual_seed(0)
        self.w = nn.Parameter(torch.randn(4, 4))
        self.leaf = torch.randn(3, 4, requires_grad=True)
        self.x = self.leaf * 1
        self.seen = []

    def save(self, name, scale=None):
        def hook(grad):
            self.seen.append((name, grad.detach().clone()))
            return None if scale is None else grad * scale

        return hook


def outcome(case, result):
    out = result[0] if isinstance(result, tuple) else result
    out.sum().backward()
    grads = [t.grad.clone() for t in (case.w, case.leaf) if t.grad is not None]
    retained = [t.grad for t in (result if isinstance(result, tuple) else ()) if isinstance(t, torch.Tensor) and t.retains_grad]
    return [out.detach(), *grads, *retained, *[g for _, g in case.seen]], [n for n, _ in case.seen]


def check(program, backend, breaks):
    counters.clear()
    fast = lamina_dynamo.optimize(program, backend)
    for _ in range(2):
        cases = Case(), Case()
        (expected, names), (got, got_names) = [outcome(c, f(c, c.x, c.w)) for c, f in zip(cases, (program, fast))]
        assert names == got_names
        assert len(expected) == len(got)
        for a, b in zip(expected, got):
            torch.testing.assert_close(a, b)
    assert sum(counters["graph_breaks"].values()) == breaks, counters["graph_breaks"]
    assert set(counters["graph_breaks"]) <= {"tensor-hook", "rebuild"}  # a handle that leaves the frame


def on_parameter(c, x, w):
    w.register_hook(c.save("w", 2.0))
    return (x @ w).tanh()


def on_parameter_after_its_use(c, x, w):
    y = (x @ w).tanh()
    h = w.register_hook(c.save("w"))
    return y, h


def on_input_that_is_no_leaf(c, x, w):
    x.register_hook(c.save("x", 3.0))
    return x @ w + x


def on_the_result(c, x, w):
    y = (x @ w).tanh()
    y.register_hook(c.save("y", 0.5))
    return y


def on_a_result_with_a_detached_use(c, x, w):
    y = (x @ w).tanh()
    y.register_hook(c.save("y", 0.5))
    return y, y.detach().mean()


def on_an_intermediate(c, x, w):
    y = (x @ w).tanh()
    y.register_hook(c.save("y", 0.5))
    return (y @ w).sin()


def on_an_intermediate_used_before(c, x, w):
    y = (x @ w).tanh()
    z = y @ w
    y.register_hook(c.save("y", 0.5))
    return z + y


def two_in_order(c, x, w):
    w.register_hook(c.save("first", 2.0))
    w.register_hook(c.save("second"))
    return x @ w


def removed(c, x, w):
    h = w.register_hook(c.save("no"))
    y = x @ w
    h.remove()
    return y


def as_context(c, x, w):
    with x.register_hook(c.save("no")):
        y = x @ w
    return y


def removed_outside(c, x, w):
    return (x @ w), w.register_hook(c.save("no"))


def closure_over_the_frame(c, x, w):
    scale = x.detach().abs().mean()
    y = x @ w
    y.register_hook(lambda g: g * scale)
    return y


def in_a_helper(c, x, w):
    def watch(t, name):
        t.register_hook(c.save(name))
        return t

    return watch(x @ w, "y")


def retained_result(c, x, w):
    y = (x @ w).tanh()
    y.retain_grad()
    return y, y


def retained_intermediate(c, x, w):
    y = (x @ w).tanh()
    y.retain_grad()
    return (y * y).sum(), y


def retained_input(c, x, w):
    x.retain_grad()
    w.retain_grad()
    return x @ w, x


def after_accumulation(c, x, w):
    w.register_post_accumulate_grad_hook(lambda p: c.seen.append(("w", p.grad.clone())))
    return x @ w


def on_no_gradient(c, x, w):
    try:
        x.detach().register_hook(c.save("no"))
    except RuntimeError:
        return x @ w


def input_written_after(c, x, w):
    x.register_hook(c.save("x"))
    x.mul_(2)
    return x @ w


# Hooks that only compute with tensors: in the graph.
def scaled_intermediate(c, x, w):
    y = (x @ w).tanh()
    y.register_hook(lambda g: g * 2 + 1)
    return y * y + y


def clipped_intermediate_used_before(c, x, w):
    y = x @ w
    z = y.sin()
    y.register_hook(lambda g: g.clamp(-0.5, 0.5))
    return z + y


def two_in_the_graph(c, x, w):
    y = x @ w
    y.register_hook(lambda g: g * 3)
    y.register_hook(torch.sin)
    return y.exp()


def with_a_tensor_of_the_frame(c, x, w):
    scale = x.detach().abs().mean()
    y = x @ w
    y.register_hook(lambda g: g * scale + w.detach().sum())
    return y * y


def tensor_written_later(c, x, w):
    scale = torch.ones(4)
    y = x @ w
    y.register_hook(lambda g: g * scale)
    scale.mul_(3)
    return y * y


def value_written_in_place(c, x, w):
    y = x @ w
    y.register_hook(lambda g: g * 5)
    y.mul_(2)
    y.register_hook(lambda g: g + 1)
    return y * y


def gives_nothing(c, x, w):
    y = x @ w
    y.register_hook(lambda g: None)
    return y * y


def removed_again(c, x, w):
    y = x @ w
    h = y.register_hook(lambda g: g * 7)
    z = y * y
    h.remove()
    return z


def gradient_taken_inside(c, x, w):
    y = x @ w
    y.register_hook(lambda g: g * 7)
    (g,) = torch.autograd.grad((y * y).sum(), w, retain_graph=True)
    return g.sum() + y * y


class Scale:
    def __init__(self, by):
        self.by = by

    def __call__(self, g):
        return g * self.by


def object_as_hook(c, x, w):
    y = x @ w
    y.register_hook(Scale(3))
    return y * y


# What autograd would run later is not what was captured, or has effects.
def cell_written_later(c, x, w):
    scale = 2.0
    y = x @ w
    y.register_hook(lambda g: g * scale)
    scale = 5.0
    return y * y


def object_written_later(c, x, w):
    s = Scale(2)
    y = x @ w
    y.register_hook(s)
    s.by = 5
    return y * y


def list_of_the_frame(c, x, w):
    seen = []
    y = x @ w
    y.register_hook(lambda g: seen.append(1))
    z = y * y
    return z, seen


def counts(c, x, w):
    n = 0

    def hook(g):
        nonlocal n
        n += 1
        return g * n

    y = x @ w
    y.register_hook(hook)
    y.register_hook(hook)
    return y * y


def value_also_returned(c, x, w):
    y = x @ w
    y.register_hook(lambda g: g * 2)
    return y * y, y


def handle_kept(c, x, w):
    y = x @ w
    h = y.register_hook(lambda g: g * 2)
    return y * y, h


PROGRAMS = [
    (scaled_intermediate, 0), (clipped_intermediate_used_before, 0), (two_in_the_graph, 0), (with_a_tensor_of_the_frame, 0), (tensor_written_later, 0), (value_written_in_place, 0), (gives_nothing, 0),
    (removed_again, 0), (gradient_taken_inside, 0), (object_as_hook, 0), (cell_written_later, 1), (object_written_later, 1), (list_of_the_frame, 1), (counts, 1), (value_also_returned, 1), (handle_kept, 1),
    (on_parameter, 0), (on_parameter_after_its_use, 0), (on_input_that_is_no_leaf, 0), (on_the_result, 0), (on_a_result_with_a_detached_use, 0), (on_an_intermediate, 1), (on_an_intermediate_used_before, 1),
    (two_in_order, 0), (on_no_gradient, 0), (removed, 0), (as_context, 0), (removed_outside, 0), (closure_over_the_frame, 0), (in_a_helper, 0), (retained_result, 0), (retained_intermediate, 1), (retained_input, 0),
    (after_accumulation, 0), (input_written_after, 1),
]  # fmt: skip


@pytest.mark.parametrize("program, breaks", PROGRAMS)
def test_hooks_on_tensors(program, breaks, backend):
    check(program, backend, breaks)


FACTOR = 2.0


def by_a_global(g):
    return g * FACTOR


def on_another_object(s, x):
    y = x * 2
    y.register_hook(lambda g: g * s.by)
    return y * y


def on_the_object(s, x):
    y = x * 2
    y.register_hook(s)
    return y * y


def on_a_global(s, x):
    y = x * 2
    y.register_hook(lambda g: by_a_global(g))
    return y * y


@pytest.mark.parametrize("program", [on_another_object, on_the_object, on_a_global])
def test_what_changes_between_the_call_and_the_backward_is_seen(program, backend, monkeypatch):
    fast = lamina_dynamo.optimize(program, backend)
    for _ in range(2):
        grads = []
        for f in (program, fast):
            monkeypatch.setitem(globals(), "FACTOR", 2.0)
            s, x = Scale(3.0), torch.arange(3.0).requires_grad_()
            out = f(s, x)
            s.by = 7.0
            monkeypatch.setitem(globals(), "FACTOR", 5.0)
            out.sum().backward()
            grads.append(x.grad)
        torch.testing.assert_close(*grads)


def test_a_gradient_of_another_dtype_is_an_error_as_in_eager(backend):
    def program(x):
        y = x * 2
        y.register_hook(lambda g: g.double())
        return y * y

    for f in (program, lamina_dynamo.optimize(program, backend)):
        with pytest.raises(RuntimeError, match="has changed the type of value"):
            f(torch.ones(3, requires_grad=True)).sum().backward()


def test_a_hook_asks_for_gradients_off_and_draws_random_numbers(backend):
    def program(x):
        y = x * 2
        y.register_hook(lambda g: g * torch.rand_like(g) if not torch.is_grad_enabled() else g)
        return y * y

    grads = []
    for f in (program, lamina_dynamo.optimize(program, backend, fullgraph=True)):
        x = torch.arange(3.0).requires_grad_()
        out = f(x).sum()
        torch.manual_seed(3)
        out.backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


def test_the_handle_removes_the_real_hook(backend):
    fast = lamina_dynamo.optimize(removed_outside, backend)
    for _ in range(2):
        c = Case()
        y, h = fast(c, c.x, c.w)
        assert type(h) is torch.utils.hooks.RemovableHandle
        h.remove()
        y.sum().backward()
        assert c.seen == []


def test_gradients_inside_next_to_hooks_are_a_break(backend):
    def program(c, x, w):
        w.register_hook(c.save("w", 2.0))
        y = (x.detach() @ w).sum()
        (g,) = torch.autograd.grad(y, w)
        return g

    counters.clear()
    fast = lamina_dynamo.optimize(program, backend)
    a, b = Case(), Case()
    torch.testing.assert_close(program(a, a.x, a.w), fast(b, b.x, b.w))
    assert len(a.seen) == len(b.seen) == 1 and counters["graph_breaks"] == {"tensor-hook": 1}


def test_gradients_of_an_input_with_hooks_are_a_break(backend):
    def program(x, w):
        return torch.autograd.grad((x @ w).sum(), w)[0]

    counters.clear()
    c = Case()
    c.w.register_hook(c.save("w", 2.0))
    fast = lamina_dynamo.optimize(program, backend)
    torch.testing.assert_close(program(c.x.detach(), c.w), fast(c.x.detach(), c.w))
    assert len(c.seen) == 2 and counters["graph_breaks"] == {"tensor-hook": 1}


def test_hooks_on_saved_tensors_are_a_break(backend):
    packed = []

    def program(x, w):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t) or t, lambda t: t):
            y = (x @ w).exp()
        return y.sum()

    counters.clear()
    fast = lamina_dynamo.optimize(program, backend)
    grads = []
    for f in (program, fast):
        packed.clear()
        c = Case()
        f(c.x, c.w).backward()
        grads.append((c.w.grad, len(packed)))
    torch.testing.assert_close(*[g for g, _ in grads])
    assert all(type(t) in (torch.Tensor, nn.Parameter) for t in packed) and grads[0][1] > 0 and grads[1][1] > 0
    assert set(counters["graph_breaks"]) == {"tensor-hook"}


# ---- hooks of modules ----------------------------------------------------------------------------------------------------
def hooked(kind, seen):
    torch.manual_seed(0)
    m = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    if kind == "full":
        m[1].register_full_backward_hook(lambda module, gi, go: seen.append(go[0].clone()) or (gi[0] * 2,))
    elif kind == "pre":
        m[2].register_full_backward_pre_hook(lambda module, go: (go[0] * 3,))
    elif kind == "old":
        m[1].register_backward_hook(lambda module, gi, go: seen.append(go[0].clone()))
    else:
        m.register_full_backward_hook(lambda module, gi, go: seen.append(go[0].clone()))
    return m


@pytest.mark.parametrize("kind", ["full", "pre", "old", "root"])
@pytest.mark.filterwarnings("ignore")
def test_backward_hooks_of_modules(kind, backend):
    results = []
    for compiled in (False, True):
        seen = []
        m = hooked(kind, seen)
        lamina_dynamo.reset()  # modules that are alike share entries
        counters.clear()
        f = lamina_dynamo.optimize(m, backend) if compiled else m
        for _ in range(2):
            x = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
            f(x).sum().backward()
        results.append([*[p.grad for p in m.parameters()], x.grad, *seen])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    # What follows inside of the container: the rest of its loop, and inputs that the hook's identity function made.
    assert {"tensor-hook"} <= set(counters["graph_breaks"]) <= {"tensor-hook", "foreign-iterator", "input_is_a_view_that_requires_grad_of_a_base_that_does_not"}


@pytest.mark.parametrize("kind", ["full", "pre", "old", "root"])
@pytest.mark.filterwarnings("ignore")
def test_backward_hooks_without_gradients_are_no_break(kind, backend):
    m = hooked(kind, [])
    counters.clear()
    fast = lamina_dynamo.optimize(m, backend)
    x = torch.ones(3, 4)
    with torch.no_grad():
        for _ in range(2):
            assert torch.equal(fast(x), m(x))
    assert not counters["graph_breaks"] and counters["graphs"]["captured"] == 1


# ---- hooks of modules that the frame registers and removes -----------------------------------------------------------------
def features(m, x):
    found = []
    h = m[0].register_forward_hook(lambda module, args, out: found.append(out))
    y = m(x)
    h.remove()
    return y, found[0], len(found)


def another_input(m, x):
    h = m[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    y = m(x)
    h.remove()
    return y + m(x)


def as_a_context(m, x):
    with m[2].register_forward_hook(lambda module, args, kwargs, out: out * 3, with_kwargs=True):
        y = m(x)
    return y + m(x)


def in_front_of_another(m, x):
    a = m[1].register_forward_hook(lambda module, args, out: out * 3)
    b = m[1].register_forward_hook(lambda module, args, out: out + 1, prepend=True)
    y = m(x)
    a.remove()
    z = m(x)
    b.remove()
    return y, z


def on_every_layer(m, x):
    seen = {}
    handles = [layer.register_forward_hook(lambda module, args, out, n=n: seen.__setitem__(n, out)) for n, layer in m.named_modules() if not list(layer.children())]
    y = m(x)
    for h in handles:
        h.remove()
    return y, list(seen) == ["0", "1", "2"], sum(v.sum() for v in seen.values())


def stays(m, x):
    m[0].register_forward_hook(lambda module, args, out: out * 2)
    return m(x)


@pytest.mark.parametrize("program, breaks", [(features, 0), (another_input, 0), (as_a_context, 0), (in_front_of_another, 0), (on_every_layer, 0), (stays, 0)])
def test_hooks_of_modules_in_the_frame(program, breaks, backend):
    counters.clear()
    lamina_dynamo.reset()
    models = [hooked("none", []) for _ in range(2)]
    for m in models:
        m._backward_hooks.clear()
    fast = lamina_dynamo.optimize(program, backend)
    for _ in range(1 if program is stays else 2):
        outcomes = []
        for m, f in zip(models, (program, fast)):
            m.zero_grad()
            x = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
            out = f(m, x)
            first = out[0] if isinstance(out, tuple) else out
            (first.sum() + (out[1].sum() if isinstance(out, tuple) and isinstance(out[1], torch.Tensor) else 0)).backward()
            outcomes.append([out, [p.grad for p in m.parameters()], x.grad, [len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in m]])
        torch.testing.assert_close(*outcomes)
    assert sum(counters["graph_breaks"].values()) == breaks, counters["graph_breaks"]
