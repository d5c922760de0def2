"""What programs do with autograd around and inside of compiled functions: autocast, hooks, custom functions, complex numbers, threads.

A case is a program that takes `compile`; it runs once eagerly and once compiled, and everything it returns must be equal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

import lamina

BACKENDS = ["aot_eager", "inductor"]
Compile = Callable[[Any], Any]


def _leaf(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*size, dtype=dtype, requires_grad=True)


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def _grads(module: nn.Module) -> list[Any]:
    return [p.grad for p in module.parameters()]


# -- autocast ---------------------------------------------------------------------------------------------------------
def autocast_around(compile: Compile) -> list[Any]:
    net, x = _net(), _leaf(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = compile(net)(x)
    out.float().sum().backward()
    return [out, x.grad, *_grads(net)]


def autocast_around_forward_and_backward(compile: Compile) -> list[Any]:
    net, x = _net(), _leaf(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = compile(net)(x)
        out.float().sum().backward()
    return [out, x.grad, *_grads(net)]


def autocast_inside(compile: Compile) -> list[Any]:
    net, x = _net(), _leaf(5, 4)

    def fn(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = net(x)
            with torch.autocast("cpu", enabled=False):
                z = y.float() @ y.float().t()
        return z + 1

    out = compile(fn)(x)
    out.sum().backward()
    return [out, x.grad, *_grads(net)]


def autocast_on_and_off(compile: Compile) -> list[Any]:
    net, x = _net(), _leaf(5, 4)
    compiled, outs = compile(net), []
    for enabled in (True, False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outs.append(compiled(x))
    sum(o.float().sum() for o in outs).backward()
    return [*outs, x.grad, *_grads(net)]


# -- hooks ------------------------------------------------------------------------------------------------------------
def tensor_hook_on_an_input(compile: Compile) -> list[Any]:
    x, seen = _leaf(3, 4), []
    x.register_hook(lambda g: seen.append(g.clone()) or g * 2)
    compile(lambda x: x.sin() * 2)(x).sum().backward()
    return [x.grad, *seen]


def tensor_hook_on_an_output(compile: Compile) -> list[Any]:
    x, seen = _leaf(3, 4), []
    out = compile(lambda x: x.sin() * 2)(x)
    out.register_hook(lambda g: seen.append(g.clone()) or g * 3)
    out.retain_grad()
    out.sum().backward()
    return [x.grad, out.grad, *seen]


def tensor_hook_inside(compile: Compile) -> list[Any]:
    x, seen = _leaf(3, 4), []

    def fn(x: Tensor) -> Tensor:
        y = x.sin()
        y.register_hook(lambda g: g * 3)
        return y * y

    compile(fn)(x).sum().backward()
    return [x.grad, *seen]


def tensor_hook_inside_with_effect(compile: Compile) -> list[Any]:
    x, seen = _leaf(3, 4), []

    def hook(g: Tensor) -> None:
        seen.append(g.clone())

    def fn(x: Tensor) -> Tensor:
        y = x.sin()
        y.register_hook(hook)
        return y * y

    compiled = compile(fn)
    for _ in range(2):
        compiled(x).sum().backward()
    return [x.grad, *seen]


def retain_grad_inside(compile: Compile) -> list[Any]:
    x = _leaf(3, 4)

    def fn(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.sin()
        y.retain_grad()
        return y, y * y

    y, out = compile(fn)(x)
    out.sum().backward()
    return [x.grad, y.grad]


def forward_hooks(compile: Compile) -> list[Any]:
    net, x, seen = _net(), _leaf(5, 4), []
    net[0].register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    net[0].register_forward_hook(lambda m, args, out: out + 1)
    net.register_forward_hook(lambda m, args, out: seen.append(out.detach().clone()))
    compiled = compile(net)
    out = compiled(x)
    compiled(x)
    out.sum().backward()
    return [out, x.grad, *seen, *_grads(net)]


def full_backward_hook(compile: Compile) -> list[Any]:
    net, x, seen = _net(), _leaf(5, 4), []
    net[1].register_full_backward_hook(lambda m, gi, go: seen.append(go[0].clone()) or (gi[0] * 2,))
    out = compile(net)(x)
    out.sum().backward()
    return [out, x.grad, *seen, *_grads(net)]


def full_backward_hook_of_the_root(compile: Compile) -> list[Any]:
    net, x, seen = _net(), _leaf(5, 4), []
    net.register_full_backward_hook(lambda m, gi, go: seen.append(gi[0].clone()))
    net.register_full_backward_pre_hook(lambda m, go: (go[0] * 2,))
    out = compile(net)(x)
    out.sum().backward()
    return [out, x.grad, *seen, *_grads(net)]


def hook_on_a_node_inside(compile: Compile) -> list[Any]:
    x, seen = _leaf(3, 4), []

    def fn(x: Tensor) -> Tensor:
        y = x.sin()
        y.grad_fn.register_hook(lambda gi, go: seen.append(go[0].clone()) or (gi[0] * 3,))
        return y * y

    compile(fn)(x).sum().backward()
    return [x.grad, *seen]


def post_accumulate_grad_hook(compile: Compile) -> list[Any]:
    net, x, seen = _net(), _leaf(5, 4), []

    def step(p: Tensor) -> None:
        seen.append(p.grad.clone())
        with torch.no_grad():
            p -= 0.1 * p.grad
        p.grad = None

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(step)
    compiled = compile(net)
    for _ in range(3):
        compiled(x).square().sum().backward()
    return [x.grad, *sorted(seen, key=lambda t: (t.numel(), t.sum().item())), *net.parameters()]


# -- custom functions -------------------------------------------------------------------------------------------------
class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, k: float) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.k = k
        return x * w * k

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        x, w = ctx.saved_tensors
        return (g * w * ctx.k * 5 if ctx.needs_input_grad[0] else None), (g * x if ctx.needs_input_grad[1] else None), None


class WithSetup(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.exp(), x > 0

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        ctx.save_for_backward(output[0])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, _mask: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return g * y * 2


class Dirty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 7


class Optional(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        return x * 2, y * 3

    @staticmethod
    def backward(ctx: Any, a: Tensor | None, b: Tensor | None) -> tuple[Any, ...]:
        return (None if a is None else a * 11), (None if b is None else b * 13)


def function_that_saves(compile: Compile) -> list[Any]:
    x, w = _leaf(3, 4), _leaf(3, 4)
    compile(lambda x, w: Scale.apply(x.sin(), w, 2.0) + 1)(x, w).sum().backward()
    return [x.grad, w.grad]


def function_with_an_input_without_gradient(compile: Compile) -> list[Any]:
    x, w = _leaf(3, 4), torch.randn(3, 4)
    compile(lambda x, w: Scale.apply(x, w, 2.0) + 1)(x, w).sum().backward()
    return [x.grad]


def function_with_setup_context(compile: Compile) -> list[Any]:
    x = _leaf(3, 4)

    def fn(x: Tensor) -> tuple[Tensor, Tensor]:
        y, mask = WithSetup.apply(x)
        return torch.where(mask, y, y * 2), mask

    y, mask = compile(fn)(x)
    y.sum().backward()
    return [y, mask, x.grad]


def function_that_marks_dirty(compile: Compile) -> list[Any]:
    x = _leaf(3, 4)

    def fn(x: Tensor) -> Tensor:
        y = x.sin()
        z = Dirty.apply(y)
        return z + y

    out = compile(fn)(x)
    out.sum().backward()
    return [out, x.grad]


def function_that_dirties_an_input(compile: Compile) -> list[Any]:
    x = _leaf(3, 4)
    y = x * 1
    out = compile(lambda y: Dirty.apply(y) * 2)(y)
    out.sum().backward()
    return [out, y, x.grad]


def function_without_materialized_gradients(compile: Compile) -> list[Any]:
    x, y = _leaf(3), _leaf(3)

    def fn(x: Tensor, y: Tensor) -> Tensor:
        a, b = Optional.apply(x, y)
        return a * 2

    compile(fn)(x, y).sum().backward()
    return [x.grad, y.grad]


def function_under_no_grad(compile: Compile) -> list[Any]:
    x, w = _leaf(3, 4), _leaf(3, 4)
    with torch.no_grad():
        out = compile(lambda x, w: Scale.apply(x, w, 2.0) + 1)(x, w)
    return [out]


def function_in_a_module(compile: Compile) -> list[Any]:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            return Scale.apply(x, self.w.expand(3, 4), 0.5).relu()

    layer, x = Layer(), torch.randn(3, 4)
    compile(layer)(x).sum().backward()
    return _grads(layer)


# -- complex numbers --------------------------------------------------------------------------------------------------
def complex_inputs(compile: Compile) -> list[Any]:
    x, y = _leaf(3, 4, dtype=torch.complex64), _leaf(3, 4, dtype=torch.complex64)
    out = compile(lambda x, y: (x * y.conj()).abs().sum() + (x @ y.mH).real.sum())(x, y)
    out.backward()
    return [out, x.grad, y.grad]


def complex_in_the_middle(compile: Compile) -> list[Any]:
    x = _leaf(2, 8)
    out = compile(lambda x: torch.fft.irfft(torch.fft.rfft(x) * (1 + 2j)).square())(x)
    out.sum().backward()
    return [out, x.grad]


def complex_outputs(compile: Compile) -> list[Any]:
    x = _leaf(2, 8)
    out = compile(lambda x: torch.complex(x.sin(), x.cos()) * torch.view_as_complex(torch.stack((x, x), -1)))(x)
    out.abs().sum().backward()
    return [out, x.grad]


# -- the engine -------------------------------------------------------------------------------------------------------
def retain_graph(compile: Compile) -> list[Any]:
    net, x = _net(), _leaf(5, 4)
    out = compile(net)(x).square().sum()
    out.backward(retain_graph=True)
    first = [p.grad.clone() for p in net.parameters()]
    out.backward()
    return [*first, x.grad, *_grads(net)]


def second_backward_raises(compile: Compile) -> list[Any]:
    x = _leaf(5, 4)
    out = compile(lambda x: x.exp())(x).sum()
    out.backward()
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()
    return [x.grad]


def results_of_which_some_are_differentiated_already(compile: Compile) -> list[Any]:
    x, w = _leaf(5, 4), _leaf(4)

    def step(x: Tensor) -> tuple[Tensor, ...]:
        shifted = x + w
        loss = shifted.sin().sum()
        loss.backward()
        return loss, shifted * 2, shifted.exp()

    compiled = compile(step)
    for _ in range(2):
        loss, doubled, exponents = compiled(x)
        (doubled.sum() + exponents.sum()).backward()
        with pytest.raises(RuntimeError, match="second time"):
            (loss + doubled.sum()).backward()
    return [loss, doubled, exponents, x.grad, w.grad]


def accumulation(compile: Compile) -> list[Any]:
    net = _net()
    compiled = compile(net)
    for _ in range(3):
        compiled(torch.randn(5, 4)).square().mean().backward()
    return _grads(net)


def two_forwards_then_backwards_in_the_other_order(compile: Compile) -> list[Any]:
    net = _net()
    compiled = compile(net)
    first, second = compiled(torch.randn(5, 4)), compiled(torch.randn(5, 4))
    second.square().sum().backward()
    seen = [p.grad.clone() for p in net.parameters()]
    first.square().sum().backward()
    return [*seen, *_grads(net)]


def autograd_grad_of_some_inputs(compile: Compile) -> list[Any]:
    x, y = _leaf(3), _leaf(3)
    out = compile(lambda x, y: (x * y, y.sin()))(x, y)
    gx = torch.autograd.grad(out[0].sum(), x, retain_graph=True)
    gy = torch.autograd.grad([out[0], out[1]], [y], [torch.ones(3), torch.full((3,), 2.0)], retain_graph=True)
    unused = torch.autograd.grad(out[1].sum(), x, allow_unused=True, retain_graph=True)
    return [*gx, *gy, *[torch.zeros(3) if u is None else u for u in unused]]


def backward_in_another_thread(compile: Compile) -> list[Any]:
    net, x = _net(), _leaf(5, 4)
    out = compile(net)(x).square().sum()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            out.backward()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors, errors
    return [x.grad, *_grads(net)]


def forward_and_backward_in_two_threads(compile: Compile) -> list[Any]:
    nets = [_net(), _net()]
    compiled = [compile(n) for n in nets]
    data = [torch.randn(5, 4), torch.randn(6, 4)]
    errors: list[BaseException] = []

    def work(i: int) -> None:
        try:
            for _ in range(3):
                compiled[i](data[i]).square().sum().backward()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors
    return [*_grads(nets[0]), *_grads(nets[1])]


def backward_inside(compile: Compile) -> list[Any]:
    net, x = _net(), torch.randn(5, 4)

    def step(x: Tensor) -> Tensor:
        loss = net(x).square().sum()
        loss.backward()
        return loss.detach()

    loss = compile(step)(x)
    return [loss, *_grads(net)]


def grad_inside(compile: Compile) -> list[Any]:
    x = _leaf(3)

    def fn(x: Tensor) -> Tensor:
        y = x.exp().sum()
        (g,) = torch.autograd.grad(y, x)
        return g * 2

    return [compile(fn)(x)]


def gradient_penalty_inside(compile: Compile) -> list[Any]:
    net, x = _net(), _leaf(5, 4)

    def fn(x: Tensor) -> Tensor:
        (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        return g.square().sum()

    out = compile(fn)(x)
    out.backward()
    return [out, x.grad, *[g for g in _grads(net) if g is not None]]


def saved_tensors_hooks(compile: Compile) -> list[Any]:
    x, packed = _leaf(3), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(1) or t.double(), lambda t: t.float()):
        out = compile(lambda x: x.exp().sin())(x)
    out.sum().backward()
    return [x.grad]


def checkpointed_batch_norm(compile: Compile) -> list[Any]:
    from torch.utils.checkpoint import checkpoint

    net, x = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh()).train(), _leaf(5, 4)
    out = compile(lambda x: checkpoint(net, x, use_reentrant=False) * 2)(x)
    out.square().sum().backward()
    return [out, x.grad, *_grads(net), *net.buffers()]


def checkpointed_writes_in_two_regions(compile: Compile) -> list[Any]:
    from torch.utils.checkpoint import checkpoint

    norm, state, x = nn.BatchNorm1d(4).train(), torch.zeros(4), _leaf(5, 4)

    def region(x: Tensor) -> Tensor:
        with torch.no_grad():
            state.mul_(0.5).add_(x.sum(0))
        return norm(x.sin()).exp()

    def fn(x: Tensor) -> Tensor:
        x = checkpoint(region, x, use_reentrant=False)
        state.add_(1)
        return checkpoint(region, x.cos(), use_reentrant=False).sum()

    compiled = compile(fn)
    for _ in range(2):
        compiled(x).backward()
    return [x.grad, state, *norm.buffers(), *_grads(norm)]


def write_of_a_cloned_input_before_the_backward(compile: Compile) -> list[Any]:
    x, w = torch.randn(3, 4), _leaf(3, 4)
    out = compile(lambda x, w: x.clone() * w)(x, w)
    with torch.no_grad():
        x.zero_()
    out.sum().backward()
    return [out, w.grad]


def write_of_an_input_that_is_not_saved(compile: Compile) -> list[Any]:
    x, w = torch.randn(3, 4), _leaf(3, 4)
    out = compile(lambda x, w: (x.sin() * w, x + w))(x, w)
    x.zero_()
    (out[0].sum() + out[1].sum()).backward()
    return [*out, w.grad]


def a_policy_step_that_checks_its_distribution(compile: Compile) -> list[Any]:
    net = _net()
    opt = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)

    def step(x: Tensor) -> Tensor:
        policy = torch.distributions.Categorical(logits=net(x))
        loss = -policy.log_prob(policy.sample()).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return loss.detach()

    compiled, outs = compile(step), []
    for n, bad in ((4, False), (6, True), (6, False), (3, True), (3, False)):
        x = torch.randn(n, 4)
        if bad:
            with pytest.raises(ValueError, match=r"(?s)Expected parameter logits .* to satisfy the constraint .*nan"):
                compiled(x * torch.nan)
        else:
            outs.append(compiled(x))
    return [*outs, torch.rand(2), *net.parameters(), *_grads(net)]


CASES = [value for value in list(globals().values()) if getattr(value, "__annotations__", {}).get("compile") == "Compile"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
def test_like_eager(case: Callable[[Compile], list[Any]], backend: str) -> None:
    torch.manual_seed(5)
    want = case(lambda fn: fn)
    torch.manual_seed(5)
    got = case(lambda fn: lamina.compile(fn, backend=backend))
    rough = "autocast" in case.__name__
    assert len(got) == len(want)
    for mine, eager in zip(got, want, strict=True):
        assert (mine is None) == (eager is None)
        if eager is not None:
            torch.testing.assert_close(mine, eager, **({"rtol": 2e-2, "atol": 2e-2} if rough else {}))
