"""Small programs through every backend: results, gradients, mutation, aliasing, and what was counted."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lamina

BACKENDS = ("eager", "aot_eager", "inductor")


class Mlp(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.first = nn.Linear(8, width)
        self.second = nn.Linear(width, 4)

    def forward(self, x):
        return self.second(F.gelu(self.first(x)))


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1))

    def forward(self, x):
        return self.body(x).mean((2, 3))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x):
        b, s, d = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, s, 3, 4, d // 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(y.transpose(1, 2).reshape(b, s, d))


CASES = {
    "mlp": (Mlp, lambda: torch.randn(5, 8)),
    "convnet": (ConvNet, lambda: torch.randn(2, 3, 8, 8)),
    "attention": (Attention, lambda: torch.randn(2, 6, 16)),
    "embedding": (lambda: nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 3)), lambda: torch.randint(0, 20, (4, 7))),
}


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_inference(case, backend):
    make, inputs = CASES[case]
    model = make().eval()
    compiled = lamina.compile(model, backend=backend, fullgraph=True)
    with torch.no_grad():
        for _ in range(3):
            x = inputs()
            close(compiled(x), model(x))
    assert lamina.counters.total("graph_breaks") == 0 and lamina.counters.total("recompiles") == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_training_steps_follow_eager(case, backend):
    make, inputs = CASES[case]
    plain = make().train()
    model = copy.deepcopy(plain)
    compiled = lamina.compile(model, backend=backend)
    # SGD: Adam would turn the rounding of a gradient that is zero in exact arithmetic (a bias before a norm) into a full step
    steps = {id(m): torch.optim.SGD(m.parameters(), 0.05, momentum=0.9) for m in (plain, model)}
    for _ in range(4):
        x = inputs()
        losses = []
        for call, owner in ((plain, plain), (compiled, model)):
            steps[id(owner)].zero_grad()
            loss = call(x).pow(2).mean()
            loss.backward()
            steps[id(owner)].step()
            losses.append(loss.detach())
        close(losses[1], losses[0])
    for (name, a), b in zip(plain.state_dict().items(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_norm_updates_its_buffers(backend):
    plain = nn.BatchNorm1d(4).train()
    model = copy.deepcopy(plain)
    compiled = lamina.compile(model, backend=backend)
    for _ in range(3):
        x = torch.randn(6, 4) * 3 + 1
        close(compiled(x), plain(x))
    close(model.running_mean, plain.running_mean)
    close(model.running_var, plain.running_var)
    assert model.num_batches_tracked == 3
    compiled.eval()
    plain.eval()
    x = torch.randn(6, 4)
    close(compiled(x), plain(x))


class Seen(nn.Module):
    def __init__(self, memory):
        super().__init__()
        self.register_buffer("seen", memory)


def _apart():
    return Seen(torch.zeros(3)), Seen(torch.zeros(3))


def _one_buffer():
    memory = torch.zeros(3)
    return Seen(memory), Seen(memory)


def _overlapping_buffers():
    memory = torch.zeros(6)
    return Seen(memory[:3]), Seen(memory[1:4])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("calls", [(_apart, _one_buffer, _apart, _overlapping_buffers), (_one_buffer, _apart, _overlapping_buffers), (_overlapping_buffers, _one_buffer, _apart)])
def test_buffers_that_come_to_share_memory(backend, calls):
    def f(a, b):
        a.seen.add_(1)
        return b.seen * 2

    compiled = lamina.compile(f, backend=backend)
    for make in calls:
        a, b = make()
        want = f(*make())
        close(compiled(a, b), want)
        close(b.seen * 2, want)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offsets", [(0, 2, 3), (3, 0, 2)])
def test_as_strided_counts_from_where_the_input_begins(backend, offsets):
    def f(t):
        out = t.as_strided((2,), (1,)) * 2 + t.as_strided((2,), (1,), 1)
        t.as_strided((1,), (1,)).add_(5)
        return out + t[:2]

    compiled = lamina.compile(f, backend=backend)
    for k in offsets:
        ours, theirs = torch.arange(8.0)[k : k + 3], torch.arange(8.0)[k : k + 3]
        close(compiled(ours), f(theirs))
        close(ours, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_draws_from_eagers_stream(backend):
    f = lambda x: F.dropout(x, 0.5, training=True) * 2
    x = torch.ones(64)
    torch.manual_seed(3)
    expected = [f(x), f(x)]
    torch.manual_seed(3)
    compiled = lamina.compile(f, backend=backend)
    got = [compiled(x), compiled(x)]
    assert all(torch.equal(g, e) for g, e in zip(got, expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_mutation_and_aliasing_of_inputs(backend):
    def f(x, y):
        x.add_(1)
        y[0] = 5.0
        return x.view(-1), x, y * 2

    compiled = lamina.compile(f, backend=backend)
    for _ in range(2):
        a, b = torch.zeros(2, 3), torch.ones(4)
        a2, b2 = a.clone(), b.clone()
        expected, got = f(a, b), compiled(a2, b2)
        close(a2, a)
        close(b2, b)
        close(got, expected)
        assert got[1] is a2 and got[0].data_ptr() == a2.data_ptr()


@pytest.mark.parametrize("backend", BACKENDS)
def test_graph_break_print_and_data_dependent_branch(backend, capsys):
    def f(x):
        y = x.sin()
        lamina.graph_break()
        print("between")
        if y.sum() > 0:
            return y + 1
        return y - 1

    compiled = lamina.compile(f, backend=backend)
    for x in (torch.ones(3), -torch.ones(3), torch.ones(3)):
        close(compiled(x), x.sin() + (1 if x.sum() > 0 else -1))
    assert capsys.readouterr().out == "between\n" * 3
    assert lamina.counters.total("graph_breaks") >= 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_keyword_arguments_containers_and_closures(backend):
    scale = 3.0

    def f(x, *rest, bias=None, **more):
        out = {"sum": x * scale + sum(rest)}
        if bias is not None:
            out["biased"] = out["sum"] + bias
        return out, [more["k"] * 2], (x.shape[0], "text")

    compiled = lamina.compile(f, backend=backend)
    x = torch.randn(3)
    for _ in range(2):
        got, expected = (c(x, x, x, bias=x, k=x) for c in (compiled, f))
        close(got[0], expected[0])
        close(got[1], expected[1])
        assert got[2] == expected[2]


def test_decorator_with_and_without_arguments():
    @lamina.compile
    def f(x):
        return x + 1

    @lamina.compile(backend="eager", fullgraph=True)
    def g(x):
        return x + 2

    class Holder:
        @lamina.compile(backend="eager")
        def method(self, x):
            return x + self.k

        k = 5

    x = torch.zeros(2)
    assert f(x).sum() == 2 and g(x).sum() == 4 and Holder().method(x).sum() == 10
    assert f.__name__ == "f"


def test_backend_callable_gets_graph_and_inputs():
    seen = []

    def backend(gm, example_inputs):
        seen.append((gm, example_inputs))
        assert isinstance(gm, torch.fx.GraphModule)
        return gm.forward

    model = Mlp()
    compiled = lamina.compile(model, backend=backend)
    x = torch.randn(2, 8)
    close(compiled(x), model(x))
    compiled(x)
    assert len(seen) == 1
    gm, inputs = seen[0]
    roles = [n.meta["role"] for n in gm.graph.nodes if n.op == "placeholder"]
    assert roles.count("parameter") == 4 and roles.count("input") == 1 and len(inputs) == 5


def test_hooks_run_and_are_noticed():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    compiled = lamina.compile(model, backend="eager")
    x = torch.randn(2, 3)
    close(compiled(x), model(x))
    handle = model[0].register_forward_hook(lambda m, a, out: out * 10)
    close(compiled(x), model(x))
    handle.remove()
    close(compiled(x), model(x))


def test_train_and_eval_are_guarded():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(1.0))
    compiled = lamina.compile(model, backend="aot_eager")
    x = torch.randn(2, 3)
    compiled.train()
    assert compiled(x).abs().sum() == 0
    compiled.eval()
    close(compiled(x), model(x))
    assert compiled(x).abs().sum() > 0


def test_grad_mode_is_guarded():
    model = Mlp()
    compiled = lamina.compile(model)
    x = torch.randn(2, 8)
    with torch.no_grad():
        assert not compiled(x).requires_grad
    assert compiled(x).requires_grad
    with torch.inference_mode():
        close(compiled(x), model(x))


def test_explain_says_graphs_and_breaks():
    def f(x):
        x = x + 1
        lamina.graph_break()
        return x * 2

    said = lamina.explain(f)(torch.ones(2))
    assert (said.graph_count, said.graph_break_count) == (2, 1)
    assert len(said.break_reasons) == 1 and said.ops and said.guards
    assert len(str(said).splitlines()) <= 60


def test_disable_runs_eagerly_and_breaks():
    calls = []

    @lamina.disable
    def inner(x):
        calls.append(torch.is_tensor(x) and not lamina.is_compiling())
        return x * 2

    compiled = lamina.compile(lambda x: inner(x + 1) + 1, backend="eager")
    assert compiled(torch.ones(2)).sum() == 10 and calls == [True]


def test_allow_in_graph_records_one_node():
    def opaque(x, scale):
        return torch.stack([x, x * scale]).sum(0)

    lamina.allow_in_graph(opaque)
    targets = []

    def backend(gm, example_inputs):
        targets.extend(n.target for n in gm.graph.nodes if n.op.startswith("call_"))
        return gm.forward

    compiled = lamina.compile(lambda x: opaque(x + 1, 3.0) * 2, backend=backend, fullgraph=True)
    x = torch.randn(4)
    close(compiled(x), opaque(x + 1, 3.0) * 2)
    assert targets.count(opaque) == 1 and len(targets) == 3


def test_is_compiling_tells():
    compiled = lamina.compile(lambda x: x + (1 if lamina.is_compiling() or torch.compiler.is_compiling() else 0), backend="eager")
    assert compiled(torch.zeros(1)) == 1 and not lamina.is_compiling()


def test_compiled_module_inside_a_compiled_module():
    inner = lamina.compile(nn.Linear(3, 3), backend="eager")
    outer = nn.Sequential(inner, nn.ReLU())
    compiled = lamina.compile(outer, backend="eager")
    x = torch.randn(2, 3)
    close(compiled(x), outer(x))


def test_state_dict_round_trip():
    model = Mlp()
    compiled = lamina.compile(model, backend="eager")
    other = Mlp()
    other.load_state_dict(compiled.state_dict())
    x = torch.randn(2, 8)
    close(other(x), compiled(x))
    compiled.load_state_dict(Mlp().state_dict())
    close(compiled(x), model(x))


def test_options_reach_inductor(monkeypatch, tmp_path):
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))  # what comes from the cache generates no kernels

    def kernels(**options):
        lamina.reset()
        lamina.counters.clear()
        f = lambda x: ((x + 1).softmax(-1) * 2).sum(0)
        x = torch.randn(6, 40)
        close(lamina.compile(f, options=options or None)(x), f(x))
        return lamina.counters["kernels"]["calls"]

    assert 0 < kernels() < kernels(fusion=False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_check_on_values_raises_after_every_stage(backend):
    def f(x):
        return F.one_hot(x, 5).float() * 2

    compiled = lamina.compile(f, backend=backend, fullgraph=True)
    x = torch.tensor([[0, 4], [2, 1]])
    assert torch.equal(compiled(x), f(x))
    with pytest.raises(RuntimeError, match="Class values"):
        compiled(torch.tensor([[0, 5], [2, 1]]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_ops_on_lists_write_and_return_their_list(backend):
    def step(parameters, grads):
        scaled = torch._foreach_mul_(parameters, 0.5)
        torch._foreach_addcdiv_(scaled, grads, torch._foreach_add(torch._foreach_norm(grads), 1.0), [0.1, 0.2])
        return torch._foreach_maximum(scaled, grads), torch._foreach_max(scaled)

    def operands():
        torch.manual_seed(0)
        return [torch.randn(3, 4), torch.randn(5)], [torch.randn(3, 4), torch.randn(5)]

    (left, grads), (right, _) = operands(), operands()
    compiled = lamina.compile(step, backend=backend, fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(compiled(left, grads), step(right, grads))
        torch.testing.assert_close(left, right)


def extremes(x):
    y = torch.tanh(x * 1.1 + 0.3) * x
    return y.log_softmax(-1).max(-1), y.argmin(0), (x * 0.7 - y).median(), (x.exp() * y + x).argmax()


def marked_extremes(x):
    y = x * 1.3 + x.sin() * 0.1
    return (y == y.amax(-1, keepdim=True)).sum(-1), (y.sigmoid() * x + y) == (y.sigmoid() * x + y).amin(0)


@pytest.mark.parametrize("shape", [(3, 11), (5, 16), (4, 33), (64, 257)])
@pytest.mark.parametrize("program", [extremes, marked_extremes])
def test_extremes_of_computed_values_are_found(program, shape):
    """Loops that compute a value twice compute the same bits: the place of an extremum is found, comparisons with it hold."""
    x = torch.randn(shape)
    compiled = lamina.compile(program, fullgraph=True)
    for got, want in zip(torch.utils._pytree.tree_leaves(compiled(x)), torch.utils._pytree.tree_leaves(program(x))):
        close(got, want)


def test_gradient_of_an_extremum_of_computed_values():
    x = torch.randn(7, 19, requires_grad=True)
    program = lambda x: ((x * 1.7 + 0.2).exp() * x).amax(-1).sum()
    (want,) = torch.autograd.grad(program(x), x)
    (got,) = torch.autograd.grad(lamina.compile(program)(x), x)
    close(got, want)


@pytest.mark.parametrize("dim", [0, 1])
def test_gradient_of_the_deviation_of_equal_numbers(dim):
    """The deviation is exactly 0, where its gradient is masked."""
    x = (torch.randn(20, 1) * 1000).expand(20, 333).transpose(1, dim).clone().requires_grad_()
    program = lambda x: x.std(dim).sum()
    (want,) = torch.autograd.grad(program(x), x)
    for _ in range(2):
        (got,) = torch.autograd.grad(lamina.compile(program)(x), x)
        close(got, want)


def test_a_backward_pass_inside_the_function_runs_our_frames_as_they_are():
    """The break around `backward()` has the hook on while the compiled backward runs."""
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    twin = copy.deepcopy(model)

    def step(model, optimizer, x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    compiled = lamina.compile(step)
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (model, twin)]
    for _ in range(3):
        x, y = torch.randn(6, 4), torch.randint(0, 2, (6,))
        close(compiled(model, optimizers[0], x, y), step(twin, optimizers[1], x, y))
    for p, q in zip(model.parameters(), twin.parameters()):
        close(p, q)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("view", [lambda y: y, lambda y: y.t(), lambda y: y[1], lambda y: y[:, ::2]])
def test_values_that_are_computed_twice_share_no_memory(backend, view):
    """Common subexpressions are one value of the graph, but two tensors of the program."""
    for w in (torch.randn(4), torch.randn(4, requires_grad=True)):
        for program in (lambda x, w: (view((x * w).exp()), (x * w).exp()), lambda x, w: ((x * w).exp(), view((x * w).exp()))):
            a, b = lamina.compile(program, backend=backend)(torch.randn(3, 4), w)
            before = a.detach().clone()
            with torch.no_grad():
                b.mul_(3)
            assert torch.equal(a, before)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_what_is_computed_before_an_input_gets_a_history(backend):
    def program(x, w):
        before = x.clone()
        x.add_(w)
        return before, x * 2

    def run(fn):
        x, w = torch.ones(3), torch.full((3,), 2.0, requires_grad=True)
        before, after = fn(x, w)
        (before + after).sum().backward()
        return before.requires_grad, after.requires_grad, x.requires_grad, w.grad

    compiled = lamina.compile(program, backend=backend)
    for _ in range(2):
        assert run(compiled)[:3] == run(program)[:3] == (False, True, True)
        close(run(compiled)[3], run(program)[3])


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_view_made_after_a_break_without_gradients(backend):
    def program(x, w):
        with torch.no_grad():
            x.mul_(2)
            lamina.graph_break()
        return w[0]

    for _ in range(2):
        w = torch.ones(3, 2, requires_grad=True)
        lamina.compile(program, backend=backend)(torch.ones(2), w).sum().backward()
        close(w.grad, torch.tensor([[1.0, 1], [0, 0], [0, 0]]))


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", ["Adam", "AdamW", "Adamax", "Adagrad"])
def test_optimizers_compute_with_their_step_counts_in_double(name, foreach):
    """Eager makes Python's numbers of the counts, which are tensors in single precision."""
    outcomes = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model, x = nn.Linear(6, 5).double(), torch.randn(8, 6, dtype=torch.float64)
        opt = getattr(torch.optim, name)(model.parameters(), lr=0.05, foreach=foreach)

        def step(model=model, x=x, opt=opt):
            opt.zero_grad()
            model(x).square().mean().backward()
            opt.step()

        run = lamina.compile(step, backend="aot_eager") if compiled else step
        for _ in range(3):
            run()
        outcomes.append([*model.parameters(), *[v for s in opt.state.values() for v in s.values()]])
    torch.testing.assert_close(*outcomes, rtol=1e-13, atol=1e-13)
    assert lamina.counters.total("graph_breaks") == 0
