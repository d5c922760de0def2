"""Programs on wrapper subclasses: each takes `compile`, runs what it compiles, and returns what eager and compiled code must agree on.

`WHOLE` are captured whole and compiled; `IN_PARTS` break, or run as they were captured, with a recorded reason.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import return_and_correct_aliasing

__all__ = ["IN_PARTS", "WHOLE", "Quantized", "Rounded", "ScaledInt8", "TwoTensor", "flat", "randn", "two"]

Program = Callable[[Callable[..., Any]], Any]
WHOLE: dict[str, Program] = {}
IN_PARTS: dict[str, Program] = {}


def whole(program: Program) -> Program:
    WHOLE[program.__name__] = program
    return program


def in_parts(program: Program) -> Program:
    IN_PARTS[program.__name__] = program
    return program


# ---- classes -------------------------------------------------------------------------------------------------------------
class TwoTensor(Tensor):
    """A pair of tensors that every operator runs on, one after the other."""

    @staticmethod
    def __new__(cls, a: Tensor, b: Tensor) -> TwoTensor:
        return Tensor._make_wrapper_subclass(cls, a.shape, strides=a.stride(), dtype=a.dtype, device=a.device, requires_grad=a.requires_grad)

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b

    def __repr__(self) -> str:
        return f"TwoTensor({self.a}, {self.b})"

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["a", "b"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: dict[str, Tensor], meta: Any, size: Any, stride: Any) -> TwoTensor:
        return cls(inner["a"], inner["b"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def on(side: str) -> Any:
            pick = lambda v: getattr(v, side) if isinstance(v, TwoTensor) else [pick(x) for x in v] if isinstance(v, (list, tuple)) else v
            return func(*pick(args), **{k: pick(v) for k, v in (kwargs or {}).items()})

        a, b = on("a"), on("b")
        if isinstance(a, (list, tuple)):
            return type(a)(cls(x, y) if isinstance(x, Tensor) else x for x, y in zip(a, b, strict=True))
        return cls(a, b) if isinstance(a, Tensor) else a


class Aliasing(TwoTensor):
    """The pair whose views and in-place operators go through PyTorch's helper for such classes."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outs = [func(*a, **k) for a, k in (pytree.tree_map_only(Aliasing, lambda t, side=side: getattr(t, side), (args, kwargs)) for side in ("a", "b"))]
        leaves, spec = pytree.tree_flatten(outs[0])
        made = [cls(x, y) if isinstance(x, Tensor) else x for x, y in zip(leaves, pytree.tree_leaves(outs[1]), strict=True)]
        return return_and_correct_aliasing(func, args, kwargs, pytree.tree_unflatten(made, spec))


class ScaledInt8(Tensor):
    """A matrix of int8 with one scale per row, which operators see as the matrix."""

    @staticmethod
    def __new__(cls, data: Tensor, scale: Tensor) -> ScaledInt8:
        return Tensor._make_wrapper_subclass(cls, data.shape, strides=data.stride(), dtype=scale.dtype, device=data.device, requires_grad=False)

    def __init__(self, data: Tensor, scale: Tensor) -> None:
        self.data8, self.scale = data, scale

    def __repr__(self) -> str:
        return f"ScaledInt8({tuple(self.shape)})"

    @classmethod
    def of(cls, weight: Tensor) -> ScaledInt8:
        scale = weight.abs().amax(1, keepdim=True) / 127
        return cls((weight / scale).round().to(torch.int8), scale)

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["data8", "scale"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta: Any, size: Any, stride: Any) -> ScaledInt8:
        return ScaledInt8(inner["data8"], inner["scale"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return ScaledInt8(args[0].data8, args[0].scale)
        plain = lambda v: v.data8 * v.scale if isinstance(v, ScaledInt8) else v
        return func(*[plain(a) for a in args], **{k: plain(v) for k, v in (kwargs or {}).items()})


class Rounded(Tensor):
    """A weight whose matrix products round the other operand: autograd, above, does not see the rounding."""

    @staticmethod
    def __new__(cls, data: Tensor) -> Rounded:
        return Tensor._make_wrapper_subclass(cls, data.shape, strides=data.stride(), dtype=data.dtype, device=data.device)

    def __init__(self, data: Tensor) -> None:
        self.inner = data

    def __repr__(self) -> str:
        return "Rounded"

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], meta: Any, size: Any, stride: Any) -> Rounded:
        return Rounded(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.t.default, torch.ops.aten.detach.default):
            return Rounded(func(args[0].inner))
        plain = lambda v: v.inner if isinstance(v, Rounded) else (v * 4).round() / 4 if isinstance(v, Tensor) and "mm" in str(func) else v
        return func(*[plain(a) for a in args], **{k: plain(v) for k, v in (kwargs or {}).items()})


class Quantized(Tensor):
    """Groups of int8 with a scale each, as libraries of quantized weights have it: `linear` is a custom autograd function, operators are few."""

    @staticmethod
    def __new__(cls, q: Tensor, scales: Tensor, group: int, dtype: torch.dtype) -> Quantized:
        return Tensor._make_wrapper_subclass(cls, q.shape, dtype=dtype, device=q.device)

    def __init__(self, q: Tensor, scales: Tensor, group: int, dtype: torch.dtype) -> None:
        self.q, self.scales, self.group = q, scales, group

    def __repr__(self) -> str:
        return f"Quantized({tuple(self.shape)})"

    @classmethod
    def of(cls, weight: Tensor, group: int = 2) -> Quantized:
        grouped = weight.view(weight.shape[0], -1, group)
        scales = (grouped.abs().amax(-1, keepdim=True) / 127).clamp_(min=1e-9)
        return cls((grouped / scales).round().to(torch.int8).view(weight.shape), scales.squeeze(-1), group, weight.dtype)

    def dequantize(self) -> Tensor:
        return (self.q.view(self.shape[0], -1, self.group).to(self.dtype) * self.scales.unsqueeze(-1)).view(self.shape)

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["q", "scales"], {"group": self.group, "dtype": self.dtype}

    @classmethod
    def __tensor_unflatten__(cls, inner: dict[str, Tensor], meta: Any, size: Any, stride: Any) -> Quantized:
        return cls(inner["q"], inner["scales"], meta["group"], meta["dtype"])

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.linear:
            return _QuantizedLinear.apply(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.detach.default, torch.ops.aten.clone.default):
            w = args[0]
            return return_and_correct_aliasing(func, args, kwargs, cls(func(w.q), func(w.scales), w.group, w.dtype))
        raise NotImplementedError(str(func))


class _QuantizedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Quantized, bias: Tensor | None = None) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.has_bias = bias is not None
        out = x @ w.dequantize().t()
        return out + bias if bias is not None else out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return grad @ w.dequantize(), grad.t() @ x if w.requires_grad else None, grad.sum(0) if ctx.has_bias else None


# ---- values --------------------------------------------------------------------------------------------------------------
randn = functools.partial(torch.randn, dtype=torch.float64)  # what is rounded must round alike


def two(*size: int) -> TwoTensor:
    return TwoTensor(randn(size), randn(size))


def leaf(*size: int) -> Tensor:
    return randn(*size, requires_grad=True)


def flat(v: Any) -> Any:
    """A value with wrappers as (class, requires_grad, inner values)."""
    if isinstance(v, (tuple, list)):
        return [flat(x) for x in v]
    if isinstance(v, Tensor) and hasattr(v, "__tensor_flatten__"):
        return [type(v), v.requires_grad, *[flat(getattr(v, name)) for name in v.__tensor_flatten__()[0]]]
    return v.detach().clone() if isinstance(v, Tensor) else v


# ---- frozen weights --------------------------------------------------------------------------------------------------------
class Adapted(nn.Module):
    """A frozen weight of a wrapper class and a trained correction of low rank."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        out, into = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(randn(out))
        self.down, self.up = nn.Parameter(randn(2, into)), nn.Parameter(randn(out, 2))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias) + x @ self.down.t() @ self.up.t()


def _adapted(compile: Any, make: Any) -> Any:
    net = nn.Sequential(Adapted(make()), nn.GELU(), Adapted(make()))
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    fast, losses = compile(net), []
    for n in (5, 5, 4, 3):
        x = leaf(n, 6)
        loss = fast(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += [loss, x.grad]
    return [*losses, *[p.grad for p in net.parameters()], *net.parameters()]


for _make in (lambda: ScaledInt8.of(randn(6, 6)), lambda: Rounded(randn(6, 6)), lambda: Quantized.of(randn(6, 6))):
    WHOLE[f"adapted_{type(_make()).__name__}"] = functools.partial(_adapted, make=_make)


@whole
def gradients_inside_beside_frozen_weights(compile: Any) -> Any:
    net = Adapted(ScaledInt8.of(randn(6, 6)))

    def step(x: Tensor) -> Any:
        loss = net(x).square().mean()
        loss.backward()
        return loss, torch.autograd.grad(net(x).sin().sum(), [net.bias, net.up])

    return [*compile(step)(randn(5, 6)), *[p.grad for p in net.parameters()]]


@whole
def constant_of_the_program(compile: Any) -> Any:
    w, x = two(3, 3), leaf(3, 3)
    out = compile(lambda x: (x @ w).relu())(x)
    out.sum().backward()
    return out, x.grad


@whole
def two_of_int8(compile: Any) -> Any:
    x, w = TwoTensor(ScaledInt8.of(randn(3, 3)), ScaledInt8.of(randn(3, 3))), leaf(3)
    out = compile(lambda a, b: (a * b).sin().sum())(x, w)
    out.backward()
    return out, w.grad


@whole
def checkpointed(compile: Any) -> Any:
    w, b, x = ScaledInt8.of(randn(4, 4)), leaf(4), leaf(2, 4)
    layer = lambda x: nn.functional.linear(x, w, b).sin()
    out = compile(lambda x: torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False))(x)
    out.sum().backward()
    return out, x.grad, b.grad


@whole
def autocast(compile: Any) -> Any:
    w, b, x = ScaledInt8.of(torch.randn(4, 4)), torch.randn(4, requires_grad=True), torch.randn(2, 4, requires_grad=True)

    def fn(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return nn.functional.linear(x, w, b).float() * 2

    out = compile(fn)(x)
    out.sum().backward()
    return out, x.grad, b.grad


@whole
def running_statistics(compile: Any) -> Any:
    norm, x = nn.BatchNorm1d(3).double(), leaf(4, 3)
    norm.weight = nn.Parameter(Rounded(randn(3)), requires_grad=False)
    fast = compile(norm)
    for _ in range(2):
        out = fast(x)
        out.sum().backward()
    return [out, x.grad, *[p.grad for p in norm.parameters()], norm.running_mean]


# ---- wrappers that require gradients -----------------------------------------------------------------------------------------
@whole
def inputs_and_outputs(compile: Any) -> Any:
    x, w, frozen = two(3, 4).requires_grad_(), leaf(4), two(4)

    def fn(x: Any, w: Any, frozen: Any) -> Any:
        h = (x * w).sin() + frozen * w
        return h, (h @ h.t()).relu(), h.detach() + 1

    h, y, rest = compile(fn)(x, w, frozen)
    (y.sum() + h.sum()).backward()
    return h, y, rest, x.grad, w.grad, frozen.grad


@whole
def parameters(compile: Any) -> Any:
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    for layer in (net[0], net[2]):
        layer.weight = nn.Parameter(two(*layer.weight.shape))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    fast, step, losses = compile(net), compile(optimizer.step), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = fast(randn(5, 4)).square().mean()
        loss.backward()
        step()
        losses.append(loss)
    return [*losses, *[p.grad for p in net.parameters()], *[p.detach() for p in net.parameters()]]


@whole
def gradients_inside(compile: Any) -> Any:
    x, w = two(3, 4).requires_grad_(), leaf(4)
    return compile(lambda x, w: torch.autograd.grad((x * w).sin().sum(), [x, w]))(x, w)


@whole
def backward_inside(compile: Any) -> Any:
    x, w = two(3).requires_grad_(), leaf(3)

    def fn(x: Any, w: Any) -> Any:
        y = (x * w).sin().sum()
        y.backward()
        return y + 1

    return compile(fn)(x, w), x.grad, w.grad


@whole
def second_derivative(compile: Any) -> Any:
    x = two(3).requires_grad_()
    out = compile(lambda x: (torch.autograd.grad((x**3).sum(), x, create_graph=True)[0] * x).sum())(x)
    out.backward()
    return out, x.grad


@whole
def the_same_twice(compile: Any) -> Any:
    x = two(3).requires_grad_()
    out = compile(lambda a, b: (a * b).sum())(x, x)
    out.backward()
    return out, x.grad


@whole
def nested(compile: Any) -> Any:
    x, w = TwoTensor(two(3), two(3)).requires_grad_(), leaf(3)
    out = compile(lambda a, b: (a * b).sin().sum())(x, w)
    out.backward()
    return out, x.grad, w.grad


@whole
def gradient_of_another_class(compile: Any) -> Any:
    weights, found = [ScaledInt8.of(randn(3, 3)), Quantized.of(randn(4, 4))], []
    for w in weights:
        w.requires_grad_()
        x = leaf(2, len(w))
        out = compile(lambda w, x: nn.functional.linear(x, w).sin())(w, x)
        out.sum().backward()
        found += [out, x.grad, w.grad]
    return found


@whole
def several_results(compile: Any) -> Any:
    x = two(4, 3).requires_grad_()

    def fn(x: Any) -> Any:
        a, b = x.chunk(2)
        return torch.stack([a * b, a]), x.max(1).values

    out, top = compile(fn)(x)
    (out.sum() + top.sum()).backward()
    return out, top, x.grad


@whole
def without_gradients_in_between(compile: Any) -> Any:
    x = two(3).requires_grad_()

    def fn(x: Any) -> Any:
        with torch.no_grad():
            mean = x.mean()
        return (x - mean).float(), torch.zeros_like(x) + x

    out, more = compile(fn)(x)
    (out.sum() + more.sum()).backward()
    return out, more, x.grad


@whole
def dropout(compile: Any) -> Any:
    x = two(30).requires_grad_()
    out = compile(lambda x: nn.functional.dropout(x, 0.5))(x)
    out.sum().backward()
    return out, x.grad


@whole
def hooks_of_a_parameter(compile: Any) -> Any:
    p, seen = nn.Parameter(two(3)), []
    p.register_hook(lambda g: seen.append(type(g)) or g * 2)
    out = compile(lambda: (p * 2).sum())()
    out.backward()
    return out, p.grad, len(seen)


@whole
def what_is_asked_of_a_parameter(compile: Any) -> Any:
    p = nn.Parameter(two(3))
    (p * 2).sum().backward()

    def fn() -> Any:
        grad, p.grad = p.grad, None
        return grad * 2, isinstance(p, nn.Parameter), isinstance(p, TwoTensor), type(p).__name__, p.is_leaf, p.requires_grad, p.grad_fn is None

    return compile(fn)(), p.grad


@whole
def custom_function(compile: Any) -> Any:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return grad * ctx.saved_tensors[0].cos() * 2

    x = two(3).requires_grad_()
    out = compile(lambda x: Twice.apply(x * 2) * 3)(x)
    out.sum().backward()
    return out, x.grad


@whole
def retained(compile: Any) -> Any:
    x, w = two(3).requires_grad_(), leaf(3)
    out = compile(lambda x, w: (x * w).sin().sum())(x, w)
    out.backward(retain_graph=True)
    out.backward()
    return x.grad, w.grad


# ---- writes ----------------------------------------------------------------------------------------------------------------
@whole
def writes(compile: Any) -> Any:
    x, y, p, w = two(3, 2), Aliasing(randn(3, 2), randn(3, 2)), two(3, 2).requires_grad_(), leaf(2)

    def fn(x: Any, y: Any, p: Any, w: Any) -> Any:
        x[1].mul_(2)
        y.t()[0].add_(1)
        q = p * w
        q[0].mul_(3)
        q.view(-1)[1] = 7.0
        return x * w, y + 1, q.sin()

    outs = compile(fn)(x, y, p, w)
    sum(o.sum() for o in outs[::2]).backward()
    return [*outs, x, y, p.grad, w.grad]


@whole
def aliasing_with_gradients(compile: Any) -> Any:
    x, w = Aliasing(randn(3, 2), randn(3, 2)).requires_grad_(), leaf(2)

    def fn(x: Any, w: Any) -> Any:
        y = (x * w).t().sin()
        z = y.reshape(-1)
        y.mul_(2)
        return y @ w.new_ones(3), z.sum()

    a, b = compile(fn)(x, w)
    (a.sum() + b).backward()
    return a, b, x.grad, w.grad


@whole
def outputs_written(compile: Any) -> Any:
    x, w = two(3).requires_grad_(), leaf(3)
    out = compile(lambda x, w: (x * w).sin())(x, w)
    out.mul_(2)
    out.sum().backward()
    return out, x.grad, w.grad


def _spoilt(compile: Any, requires_grad: bool, which: int) -> Any:
    """What the backward needs is written before it runs: eager raises."""
    x, w = two(3).requires_grad_(requires_grad), leaf(3)
    out = compile(lambda x, w: (x * w).exp())(x, w)
    with torch.no_grad():
        (x, out)[which].mul_(2)
    try:
        out.sum().backward()
    except RuntimeError as error:
        return str(error).partition(":")[0]
    return x.grad, w.grad


for _required in (True, False):
    WHOLE[f"spoilt_{_required}_input"] = functools.partial(_spoilt, requires_grad=_required, which=0)
    WHOLE[f"spoilt_{_required}_output"] = functools.partial(_spoilt, requires_grad=_required, which=1)


# ---- in parts --------------------------------------------------------------------------------------------------------------
@in_parts
def broken_in_the_middle(compile: Any) -> Any:
    import lamina

    x, w = two(3).requires_grad_(), leaf(3)

    def fn(x: Any, w: Any) -> Any:
        h = (x * w).sin()
        lamina.graph_break()
        return (h * w).cos() + h.a

    out = compile(fn)(x, w)
    out.sum().backward()
    return out, x.grad, w.grad


@in_parts
def shared_memory(compile: Any) -> Any:
    x = two(3, 4).requires_grad_()

    def fn(x: Any) -> Any:
        y = x * 2
        return x, x.t(), x.detach(), y, y.t(), y.a

    same, *views, inner = compile(fn)(x)
    sum(v.sum() for v in views).backward()
    views[1].mul_(2)
    inner.mul_(3)
    return [same is x, *views, inner, x.grad]


@in_parts
def plain_gradient_for_a_wrapper(compile: Any) -> Any:
    x = two(3).requires_grad_()
    out = compile(lambda x: x * 2)(x)
    out.backward(torch.ones(3, dtype=torch.float64))
    return out, x.grad


@in_parts
def an_output_without_gradient(compile: Any) -> Any:
    x, w = two(3).requires_grad_(), leaf(3)
    out, plain = compile(lambda x, w: ((x * w).sin(), (w * 2).exp()))(x, w)
    plain.sum().backward()
    return out, plain, x.grad, w.grad


@whole
def an_output_without_gradient_among_wrappers(compile: Any) -> Any:
    x, y, w = two(3).requires_grad_(), two(3).requires_grad_(), leaf(3)
    out, unused, plain = compile(lambda x, y, w: ((x * y).sin(), y * 2, (w * 2).exp()))(x, y, w)
    torch.autograd.backward([out.sum(), plain.sum()], [torch.ones_like(out.sum()), None])
    return out, unused, x.grad, y.grad + 0, w.grad


@in_parts
def wrapper_gradient_for_a_plain_graph(compile: Any) -> Any:
    x, w = leaf(3, 4), leaf(4, 4)
    fast, found = compile(lambda x, w, beside: ((x @ w).sin(), x * 2)), []
    for _ in range(2):
        y, z = fast(x, w, two())
        (y * two(3, 4)).sum().backward(retain_graph=True)
        (y + z).sum().backward(two())
        found += [y, z]
    return [*found, x.grad, w.grad]


@in_parts
def gradients_added_inside(compile: Any) -> Any:
    x, w = two(3).requires_grad_(), leaf(3)

    def fn(x: Any, w: Any) -> Any:
        y = (x * w).sin().sum()
        y.backward()
        return y.detach()

    fast = compile(fn)
    return fast(x, w), fast(x, w), x.grad, w.grad


@in_parts
def optimizer_inside(compile: Any) -> Any:
    p, x = nn.Parameter(two(3)), randn(3)
    optimizer = torch.optim.SGD([p], lr=0.1)

    def fn(x: Tensor) -> Any:
        optimizer.zero_grad()
        loss = (p * x).sin().sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    fast = compile(fn)
    return fast(x), fast(x), p.detach()


@in_parts
def made_inside_of_a_function(compile: Any) -> Any:
    class Pair(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Any:
            return TwoTensor(x * 2, x + 1)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return grad.a + grad.b

    x = leaf(3)
    out = compile(lambda x: Pair.apply(x) * 3)(x)
    out.sum().backward()
    return out, x.grad


@in_parts
def made_with_gradients(compile: Any) -> Any:
    return compile(lambda x: TwoTensor(x, x + 1) * 2)(leaf(3))


@in_parts
def gradients_turned_off(compile: Any) -> Any:
    x = two(3).requires_grad_()
    return compile(lambda x: x.requires_grad_(False) * 2)(x), x.requires_grad


@in_parts
def wrapper_as_out(compile: Any) -> Any:
    x, out = two(3), two(3)
    compile(lambda x, out: torch.add(x, 1, out=out))(x, out)
    return out


@in_parts
def written_inside_of_a_function(compile: Any) -> Any:
    class Writes(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Any) -> Any:
            w.inner.mul_(2)
            return x * w.inner

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return grad * 2, None

    x, w = leaf(3), Rounded(randn(3))
    fast = compile(lambda x, w: Writes.apply(x, w) * 3)
    for _ in range(2):
        out = fast(x, w)
        out.sum().backward()
    return out, x.grad, w


@in_parts
def views_of_what_gets_a_history(compile: Any) -> Any:
    f, t, w = two(3, 2), two(3, 2).requires_grad_(), leaf(3, 2)

    def fn(f: Any, t: Any, w: Any) -> Any:
        view, parts = f.t(), f.split(2)
        f.mul_(t * w)
        f[0] = 3.0
        return view, view * 2, parts[0]

    view, out, _ = compile(fn)(f, t, w)
    (out.sum() + view.sum()).backward()
    return view, out, f, t.grad, w.grad


@whole
def views_of_what_stays_without(compile: Any) -> Any:
    f, w = Aliasing(randn(4, 2), randn(4, 2)), leaf(2)
    rows, column, out = compile(lambda f, w: (f.split(2), f.t()[0], f.t()[1] + w[0]))(f, w)
    column.mul_(w[0])
    (out.sum() + column.sum()).backward()
    return rows, column, out, f, w.grad


@in_parts
def spoilt_after_a_break(compile: Any) -> Any:
    w = leaf(3)

    def fn(x: Tensor, w: Tensor) -> Any:
        made = TwoTensor(x, x + 1)
        out = made * w
        made[0] = 3.0
        return made, out

    made, out = compile(fn)(randn(3), w)
    try:
        out.sum().backward()
    except RuntimeError as error:
        return made, out, str(error).partition(":")[0]
    return made, out, w.grad


@whole
def written_and_viewed(compile: Any) -> Any:
    x, w = two(3, 4), leaf(4)

    def fn(x: Any, w: Any) -> Any:
        x.mul_(2)
        return x * w, x.t(), (x * w).detach().t()

    out, view, own = compile(fn)(x, w)
    out.sum().backward()
    view.mul_(2)
    own.mul_(3)
    return out, w.grad, x, view, own


@whole
def the_pair_that_pytorch_tests_with(compile: Any) -> Any:
    from torch.testing._internal.two_tensor import TwoTensor as Theirs

    x, w, plain = Theirs(randn(3, 4), randn(3, 4)).requires_grad_(), leaf(4), Theirs(randn(3, 4), randn(3, 4))

    def fn(x: Any, w: Any, plain: Any) -> Any:
        plain.mul_(2)
        y = (x * w).sin() + plain
        z = y * 2
        z.mul_(2)
        return z, y.sum(), plain.t()

    z, total, view = compile(fn)(x, w, plain)
    (z.sum() + total).backward()
    view.mul_(2)
    return z, total, x.grad, w.grad, plain
