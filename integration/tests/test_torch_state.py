"""PyTorch's state, hooks and modules made inside of compiled code, through the whole stack: results, gradients, and that nothing falls back."""

import pytest
import torch

import lamina

X = torch.linspace(-1, 1, 12).reshape(3, 4)
W = torch.linspace(-1, 1, 8).reshape(4, 2).requires_grad_()


def seeded_noise(x):
    a = torch.rand(3, 4) + x
    torch.manual_seed(3)
    b = torch.rand(3, 4) * x
    with torch.random.fork_rng():
        c = torch.nn.functional.dropout(x, 0.5)
    return a, b, c, torch.randn(4) + x


def inference_inside(x):
    with torch.inference_mode():
        y = (x @ W).relu() + 1
    return y, y.is_inference(), x.exp()


def another_default_dtype(x):
    torch.set_default_dtype(torch.float64)
    a = torch.arange(4) / 3 + torch.ones(4)
    torch.set_default_dtype(torch.float32)
    return x + a, torch.rand(2)


def gradients_only_inside(x):
    with torch.no_grad():
        y = x @ W
    with torch.enable_grad():
        z = (x @ W).tanh()
    return y, z


@pytest.mark.parametrize("program", [seeded_noise, inference_inside, another_default_dtype, gradients_only_inside])
def test_state_inside(program):
    lamina.counters.clear()
    fast = lamina.compile(program, fullgraph=True)
    for mode in (torch.enable_grad, torch.no_grad):
        for _ in range(2):
            with mode():
                torch.manual_seed(1)
                expected, state = program(X), torch.get_rng_state()
                torch.manual_seed(1)
                got = fast(X)
            assert torch.equal(torch.get_rng_state(), state)
            for a, b in zip(got, expected, strict=True):
                torch.testing.assert_close(a, b)
                assert type(a) is bool or (a.is_inference(), a.requires_grad) == (b.is_inference(), b.requires_grad)
    assert not lamina.counters["graph_breaks"] and lamina.counters["graphs"]["captured"] == 2
    assert all(k.startswith(("aten.rand", "aten.bernoulli", "lamina_rng.")) for k in lamina.counters["fallbacks"]), lamina.counters["fallbacks"]  # the stream is eager's


def train(call, model, opt, steps=3):
    """Losses and parameters of a few steps."""
    seen = []
    for i in range(steps):
        torch.manual_seed(i)
        opt.zero_grad()
        loss = call(X + i)
        loss.backward()
        opt.step()
        seen.append(loss.detach())
    return [*seen, *[p.detach() for p in model.parameters()]]


def head_made_inside(model):
    def call(x):
        head = torch.nn.Linear(8, 1)
        return head(model(x)).square().mean()

    return call


def hooked_result(model):
    def call(x):
        y = model(x)
        y.register_hook(lambda g: g * 2)
        return y

    return lambda wrap: (lambda f: lambda x: f(x).square().mean())(wrap(call))


@pytest.mark.parametrize("make", [lambda m: lambda wrap: wrap(head_made_inside(m)), hooked_result], ids=["head", "hook"])
def test_training_with_leaves_and_hooks_inside(make):
    results = []
    lamina.counters.clear()
    for wrap in (lambda f: f, lambda f: lamina.compile(f, fullgraph=True)):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh())
        results.append(train(make(model)(wrap), model, torch.optim.SGD(model.parameters(), lr=0.1)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    assert lamina.counters["graphs"]["captured"] == 1
