"""Symbolic sizes through trace, partition and run time: one compilation serves several sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from lamina_aotgrad import aot_function, run_graph
from lamina_dynshape import FakeMode, ShapeEnv
from torch import Tensor


def compile_dynamic(fn, inputs, dims):
    """`fn(size, *tensors)` with the dimensions `dims` (tensor -> dim) symbolic and equal; compiled graphs by kind."""
    mode = FakeMode(ShapeEnv())
    fakes = [mode.from_real(t, source=f"L['a{i}']", dynamic_dims={dims[i]} if i in dims else ()) for i, t in enumerate(inputs)]
    size = fakes[0].shape[dims[0]]
    assert isinstance(size, torch.SymInt)
    graphs = {}

    def compiler(gm, fake_inputs, *, kind, signature):
        graphs[kind] = gm
        return run_graph(gm, fake_inputs, kind=kind, signature=signature)

    return aot_function(fn, [size, *fakes], fw_compiler=compiler), graphs


@pytest.fixture
def check(gradients_of):
    return lambda *a, **k: compare(gradients_of, *a, **k)


def compare(gradients, fn, make, dims, sizes=(5, 7, 3)):
    compiled, graphs = compile_dynamic(fn, make(sizes[0]), dims)
    for n in sizes:
        torch.manual_seed(n)
        ours = make(n)
        torch.manual_seed(n)
        theirs = make(n)
        mine, eager = compiled(n, *ours), fn(n, *theirs)
        for a, b in zip(mine, eager, strict=True):
            assert not isinstance(a, Tensor) or (a.stride() == b.stride() and a.requires_grad == b.requires_grad)
            torch.testing.assert_close(a, b)
        for a, b in zip(gradients(ours, mine), gradients(theirs, eager), strict=True):
            torch.testing.assert_close(a, b)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)
    return graphs


def P(*size):
    return torch.randn(*size, requires_grad=True)


def test_pointwise_and_matmul(check):
    check(lambda n, x, w: (F.gelu(x @ w).sum(0), x.mean()), lambda n: [P(n, 4), P(4, 6)], {0: 0})


def test_reshape_with_the_size(check):
    check(lambda n, x: (x.view(n * 2, 2).exp(), x.reshape(-1).sin(), n * 2), lambda n: [P(n, 4)], {0: 0})


def test_views_of_inputs_and_outputs(check):
    def f(n, x):
        y = x * 2
        return x.view(n * 2, 2), x[: n - 1], y, y.view(-1)

    check(f, lambda n: [P(n, 4)], {0: 0})


def test_views_of_one_memory_neither_of_which_leads_to_the_other(check):
    """Parts of what a matrix product of more than two dimensions gives: the memory is that of a smaller one."""

    def f(n, x, w):
        with torch.no_grad():
            a, b = (x @ w).split([2, 4], -1)
            return a.transpose(1, 2), b.transpose(1, 2)

    check(f, lambda n: [torch.randn(n, 3, 5), torch.randn(5, 6)], {0: 0})


def test_attention(check):
    def f(n, q, k, v):
        return (F.scaled_dot_product_attention(q, k, v, is_causal=True),)

    check(f, lambda n: [P(2, 2, n, 4), P(2, 2, n, 4), P(2, 2, n, 4)], {0: 2, 1: 2, 2: 2})


def test_the_engine_does_not_keep_sizes_from_becoming_one(check):
    mode = FakeMode(ShapeEnv())
    x = mode.from_real(P(2, 3, 9, 9), source="L['x']", dynamic_dims={2, 3})
    aot_function(lambda x: (F.max_pool2d(x, 3, 2).square(),), [x], fw_compiler=run_graph)
    assert not [g for g in mode.shape_env.guards if "!=" in str(g.expr)]
    check(lambda n, x: (F.max_pool2d(x, 3, 2).square() * 2,), lambda n: [P(2, 3, n, 9)], {0: 2}, sizes=(9, 3, 4))


@pytest.mark.skipif(torch.torch_version.TorchVersion(torch.__version__) < "2.12", reason="the C++ of torch 2.11's attention by plain operators calls a matmul of plain sizes")
def test_attention_by_plain_operators_leaves_its_width_open():
    mode = FakeMode(ShapeEnv())
    q = mode.from_real(P(5, 4, 3, 2), source="L['q']", dynamic_dims={0})
    aot_function(lambda q: (F.scaled_dot_product_attention(q.T, q.T, q.T),), [q], fw_compiler=run_graph)  # scales by q.shape[0] ** -0.25
    assert not mode.shape_env.guards


def test_written_input(check):
    def f(n, x):
        x.add_(1)
        return (x.view(2 * n, 2) * n,)

    check(f, lambda n: [torch.randn(n, 4)], {0: 0})


def test_a_written_part_of_one_element_keeps_its_size_open():
    def fn(x):
        y = x.clone()
        y[1:-1] -= 0.5 * (x[2:] - x[:-2])
        return (y,)

    mode = FakeMode(ShapeEnv())
    aot_function(fn, [mode.from_real(torch.randn(3, 4), source="L['x']", dynamic_dims={0})], fw_compiler=run_graph)
    assert not mode.shape_env.guards


def windows(n, x):
    y = x * 2
    return y, y.as_strided((n - 1, 2, 4), (4, 4, 1)).sin(), y.as_strided((4, n - 1), (1, 4), 4)


def test_windows_have_gradients_at_any_size(check):
    check(lambda n, x: tuple(t + 1 for t in windows(n, x)), lambda n: [torch.randn(n, 4, requires_grad=True)], {0: 0})
    check(lambda n, x: (windows(n, x.t())[1],), lambda n: [torch.randn(4, n, requires_grad=True)], {0: 1})


def test_a_window_of_written_memory_has_a_gradient(check):
    def fn(n, x):
        y = x * 2
        window = y.as_strided((n - 1, 2, 4), (4, 4, 1))
        y.mul_(3)
        return y + 1, window.sin()

    check(fn, lambda n: [torch.randn(n, 4, requires_grad=True)], {0: 0}, sizes=(5,))

    def written(n, x):
        y = x * 2
        y.as_strided((n, 2), (4, 1)).mul_(3)
        return (y.cos(),)

    check(written, lambda n: [torch.randn(n, 4, requires_grad=True)], {0: 0}, sizes=(5,))


def test_dropped_gradient_has_the_size_of_the_call():
    compiled, _ = compile_dynamic(lambda n, x: (x.exp(), x.sin()), [P(5, 2)], {0: 0})
    x = P(9, 2)
    compiled(9, x)[0].sum().backward()
    torch.testing.assert_close(x.grad, x.detach().exp())


def test_sizes_are_saved_as_numbers(check):
    graphs = check(lambda n, x: (x.sum(0).expand(n, 3).sin(),), lambda n: [P(n, 3)], {0: 0})
    saved = [h.meta["val"] for h in graphs["backward"].graph.nodes if h.op == "placeholder" and h.name.startswith("saved")]
    assert any(isinstance(v, torch.SymInt) for v in saved)
    assert all(tuple(v.shape) == (3,) for v in saved if isinstance(v, Tensor)), "the expanded value is recomputed from its base"


def test_sizes_that_only_the_running_program_knows_have_a_backward():
    mode = FakeMode(ShapeEnv(), allow_unbacked=True)
    x = torch.tensor([1.0, -2.0, 3.0, 4.0], requires_grad=True)
    fn = lambda x: x[x > 0].exp().sin()
    compiled = aot_function(fn, [mode.from_real(x)], fw_compiler=run_graph)
    (ours,), eager = compiled(x), fn(x)
    torch.testing.assert_close(ours, eager)
    seed = torch.arange(3.0)
    torch.testing.assert_close(torch.autograd.grad(ours, x, seed), torch.autograd.grad(eager, x, seed))


def test_a_backward_with_symbolic_sizes_asks_before_the_guards_are_taken():
    mode = FakeMode(ShapeEnv())
    x = torch.randn(6, 4, requires_grad=True)
    fake = mode.from_real(x, source="L['x']", dynamic_dims={0})
    kinds = []

    def compiler(gm, fake_inputs, *, kind, signature):
        kinds.append(kind)
        if kind == "backward":  # a question that the facts do not answer
            assert bool(fake.shape[0] % 2 == 0)
        return run_graph(gm, fake_inputs, kind=kind, signature=signature)

    aot_function(lambda x: (x.sin().sum(),), [fake], fw_compiler=compiler)
    assert kinds == ["forward", "backward"]
    assert "s0%2 == 0" in map(str, mode.shape_env.guards)


def test_numbers_of_the_running_program_are_saved_for_the_backward():
    """A saved view that starts where data says: its offset is told to the backward's compiler."""
    seen = []

    def compiler(gm, inputs, *, kind, signature):
        seen.append((kind, [type(n.meta["val"]).__name__ for n in gm.graph.nodes if n.op == "placeholder"]))
        return gm.forward

    mode = FakeMode(ShapeEnv())
    mode.allow_unbacked = True
    w, i = torch.randn(4, 3, requires_grad=True), torch.tensor(2)
    fakes = [mode.from_real(w), mode.from_real(i)]

    def f(w, i):
        row = torch.select(w, 0, i.item())
        return (row * row.exp(),)

    compiled = aot_function(f, fakes, fw_compiler=compiler)
    (out,) = compiled(w, i)
    (got,) = torch.autograd.grad(out.sum(), w)
    (want,) = torch.autograd.grad(f(w, i)[0].sum(), w)
    torch.testing.assert_close(got, want)
    assert ("backward", True) in [(kind, "SymInt" in names) for kind, names in seen]
