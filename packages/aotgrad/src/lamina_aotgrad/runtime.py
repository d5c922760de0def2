"""Run compiled graphs as the program would run: written inputs, outputs that alias, one autograd node for the whole graph.

Between: compiled forward and backward callables -> the callable that capture calls.
Keeps:   eager's aliasing, versions, requires_grad and grad_fn of everything the caller can see. All lists are computed at compile time; a
         graph with nothing to restore and no gradients is called with no wrapper at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lamina_dynshape import is_wrapper_class
from lamina_dynshape.support.counters import counters
from torch import Tensor

from .signature import GraphSignature, InputMutation, OutputKind, OutputSpec
from .views import ViewSpec, contiguous_strides, is_row_major, replayer
from .wrappers import Again, assemble, open_gradients, refuse_gradient, versions_of, watched, with_wrappers

__all__ = ["inference_callable", "training_callable"]

Compiled = Callable[..., Sequence[Any]]
_aten = torch.ops.aten
_copy_each = torch._foreach_copy_
_autocast_enabled = torch._C._is_any_autocast_enabled


def inference_callable(compiled: Compiled, signature: GraphSignature, *, writes_inputs: bool = False) -> Compiled:
    """A callable for a graph without gradients. `writes_inputs`: the compiled callable has done the plain `mutations` itself."""
    finish = _finisher(signature, writes_inputs)
    call = with_wrappers(_guarded(_unwrapped(compiled), signature), signature)
    if finish is None:
        return call

    def run(*args: Any) -> tuple[Any, ...]:
        return finish(args, call(*args))

    return torch.enable_grad()(run) if signature.turns_gradients_on else run


def _unwrapped(compiled: Compiled) -> Compiled:
    """The native `entry` of a compiled graph, when it shows one: a Python frame less per call."""
    return getattr(compiled, "entry", compiled)


def _boxed(compiled: Compiled) -> Callable[[list[Any]], Sequence[Any]]:
    """A compiled backward as a function of one list, which it empties where the compiler offers that (`boxed`): saved tensors die after use."""
    call = _unwrapped(compiled)
    return getattr(call, "boxed", None) or (lambda box: call(*box))


def _guarded(compiled: Compiled, signature: GraphSignature) -> Compiled:
    """With autocast off when it was on while tracing (the casts are in the graph), and gradients off where inputs have them."""
    call = compiled
    if signature.autocast:

        def call(*args: Any) -> Sequence[Any]:
            with torch._C._DisableAutocast():
                return compiled(*args)

    if not signature.requires_grad or signature.tangents:
        return call

    def run(*args: Any) -> Sequence[Any]:
        with torch.no_grad():
            return call(*args)

    return run


# -- after the forward ------------------------------------------------------------------------------------------------
def _finisher(signature: GraphSignature, writes_inputs: bool) -> Callable[[Sequence[Any], Sequence[Any]], tuple[Any, ...]] | None:
    """A function `(inputs, graph outputs) -> outputs of the program`, or None when the graph outputs are the outputs."""
    write = _writer(signature, writes_inputs)
    make = _output_maker(signature)
    if write is None:
        return make
    if make is None:
        make = lambda args, outs, n=signature.num_outputs: tuple(outs[:n])  # behind them a forward returns saved values

    def finish(args: Sequence[Any], outs: Sequence[Any]) -> tuple[Any, ...]:
        write(args, outs)
        return make(args, outs)

    return finish


def _writer(signature: GraphSignature, writes_inputs: bool) -> Callable[[Sequence[Any], Sequence[Any]], None] | None:
    """Writes new values and shapes into the inputs."""
    steps: list[Callable[[Sequence[Any], Sequence[Any]], None]] = []
    plain = [m for m in signature.input_mutations if m.output is not None and not m.tracked]
    targets, values = tuple(m.input for m in plain), tuple(m.output for m in plain)
    if plain and writes_inputs:
        steps.append(lambda args, outs: torch._C._increment_version([args[i] for i in targets]))
    elif len(plain) == 1:
        steps.append(lambda args, outs, i=targets[0], k=values[0]: _copy_plain(args[i], outs[k]))
    elif plain:
        steps.append(lambda args, outs: _copy_all([args[i] for i in targets], [outs[k] for k in values]))
    steps += [lambda args, outs, m=m: args[m.input].copy_(outs[m.output]) for m in signature.input_mutations if m.tracked]
    steps += [_reshaper(m) for m in signature.input_mutations if m.view is not None]
    if not steps:
        return None
    if len(steps) == 1:
        return steps[0]

    def write(args: Sequence[Any], outs: Sequence[Any]) -> None:
        for step in steps:
            step(args, outs)

    return write


def _copy_plain(target: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        target.copy_(value)


def _copy_all(targets: list[Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        _copy_each(targets, values)


def _reshaper(mutation: InputMutation) -> Callable[[Sequence[Any], Sequence[Any]], None]:
    """Gives an input its new geometry (`t_`, `unsqueeze_`, ...)."""
    replay = replayer(mutation.view)

    def reshape(args: Sequence[Any], outs: Sequence[Any]) -> None:
        target = args[mutation.input]
        view = replay(target, outs)
        target.as_strided_(view.size(), view.stride(), view.storage_offset())

    return reshape


def _output_maker(signature: GraphSignature) -> Callable[[Sequence[Any], Sequence[Any]], tuple[Any, ...]] | None:
    """Orders graph outputs as the program's outputs, replays views, or None when there is nothing to do."""
    specs = signature.outputs
    fresh = [s.index for s in specs if s.kind is OutputKind.FRESH and not s.leaf]
    if len(fresh) == len(specs):
        if fresh == list(range(signature.num_outputs)):
            return None
        if fresh == list(range(len(fresh))):
            return lambda args, outs, n=len(fresh): tuple(outs[:n])
    makers = [_maker(s) for s in specs if s.kind is not OutputKind.SAME]
    if len(makers) == len(specs):
        return lambda args, outs: tuple([m(args, outs) for m in makers])
    order: list[int] = []  # where each output of the program is among those made
    made = 0
    for spec in specs:
        order.append(order[spec.index] if spec.kind is OutputKind.SAME else made)
        made += spec.kind is not OutputKind.SAME

    def make(args: Sequence[Any], outs: Sequence[Any]) -> tuple[Any, ...]:
        found = [m(args, outs) for m in makers]
        return tuple([found[k] for k in order])

    return make


def _maker(spec: OutputSpec) -> Callable[[Sequence[Any], Sequence[Any]], Any]:
    index = spec.index
    match spec.kind:
        case OutputKind.FRESH if spec.leaf:
            return lambda args, outs: outs[index].requires_grad_()
        case OutputKind.FRESH:
            return lambda args, outs: outs[index]
        case OutputKind.INPUT:
            return lambda args, outs: args[index]
        case OutputKind.CONSTANT:
            value = spec.value
            return lambda args, outs: value
    view = _viewer(spec.view, spec.requires_grad)
    if spec.no_grad:
        view = torch.no_grad()(view)
    if spec.kind is OutputKind.VIEW_OF_INPUT:
        return lambda args, outs: view(args[index], outs)
    return lambda args, outs: view(outs[index], outs)


def _viewer(spec: ViewSpec, requires_grad: bool) -> Callable[[Tensor, Sequence[Any]], Tensor]:
    """Replays a view; one that eager cuts off from autograd is cut off here."""
    replay = replayer(spec) if spec.steps else None

    def view(base: Tensor, outs: Sequence[Any]) -> Tensor:
        if base.requires_grad and not requires_grad:
            base = base.detach()
            return base if replay is None else replay(base, outs)
        return _aten.alias.default(base) if replay is None else replay(base, outs)

    return view


# -- training ---------------------------------------------------------------------------------------------------------
class _Plan:
    """What one compiled forward and backward need at each call, as index lists."""

    __slots__ = (
        "again", "backward", "by_operators", "compile_backward", "differentiable", "edges", "empty", "error", "forward", "gradients", "no_gradients",
        "num_outputs", "num_saved", "opened", "repeated", "saved", "saved_symbols", "spent", "tangents",
    )  # fmt: skip

    def __init__(self, forward: Compiled, compile_backward: Callable[[], Compiled], signature: GraphSignature, eager: Compiled, by_operators: Callable[[], Any]) -> None:
        self.forward = forward
        self.backward: Callable[[list[Any]], Sequence[Any]] | None = None
        self.compile_backward = compile_backward
        self.num_outputs = signature.num_outputs
        self.differentiable = tuple(signature.differentiable)
        self.edges = tuple(signature.grad_inputs or signature.requires_grad[:1])
        self.error, self.spent = signature.backward_error, tuple(signature.spent)
        self.no_gradients = not signature.grad_inputs  # one edge all the same: outputs have a history
        self.repeated = tuple(signature.repeated)
        tensors = len(signature.saved) - signature.num_saved_symbols
        self.saved = tuple((s.is_input, s.index) for s in signature.saved_sources[:tensors])
        self.num_saved = tensors
        self.saved += watched(signature)
        self.saved_symbols = tuple((s.is_input, s.index) for s in signature.saved_sources[tensors:])
        self.tangents = tuple(_TangentSpec(t) for t in signature.tangents)
        self.opened = tuple(signature.opened) if any(m.structure is not None for m in signature.opened) else ()
        self.gradients = tuple(signature.gradients)
        self.by_operators = by_operators
        self.again = Again(eager, signature, self.edges) if self.opened else None
        plain = len(signature.roles) - len(signature.wrappers)
        mixed = any(m.structure is not None for i, m in zip(signature.grad_inputs, signature.gradients) if i < plain)
        self.empty = None if mixed else lambda k: self.tangents[k].fit(None, None)


class _TangentSpec:
    """Layout that the backward was traced with."""

    __slots__ = ("contiguous", "device", "dtype", "size", "static", "stride")

    def __init__(self, fake: Any) -> None:
        self.size, self.stride, self.dtype, self.device = tuple(fake.shape), tuple(fake.stride()), fake.dtype, fake.fake_device
        self.static = all(type(n) is int for n in (*self.size, *self.stride))
        self.contiguous = is_row_major(self.size, self.stride)

    def fit(self, grad: Tensor | None, output: tuple[Any, Any] | None) -> Tensor:
        """`grad` with the traced strides; zeros for None. `output`: size and stride of the forward's output, for symbolic sizes."""
        size, stride = (self.size, self.stride) if self.static else output
        if self.contiguous and not self.static:  # the output itself may be a view with gaps
            stride = contiguous_strides(size)
        if grad is None:
            return torch.empty_strided(size, stride, dtype=self.dtype, device=self.device).zero_()
        if grad.stride() == stride and grad.dtype == self.dtype:
            return grad
        return torch.empty_strided(size, stride, dtype=self.dtype, device=self.device).copy_(grad)


class _CompiledGraph(torch.autograd.Function):
    """The one autograd node of a compiled graph. Inputs that need no gradient travel in a list, unseen by autograd."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, box: list[Any], *edges: Tensor) -> tuple[Tensor, ...]:
        args = box[0]
        outs = box[1] = plan.forward(*args)
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*[args[k] if is_input else outs[k] for is_input, k in plan.saved])
        if plan.saved_symbols:
            ctx.symbols = [args[k] if is_input else outs[k] for is_input, k in plan.saved_symbols]
        if plan.repeated:
            ctx.repeated = [args[k] for k in plan.repeated]
        if plan.opened:
            ctx.inputs = args, versions_of(args)
        results = tuple([outs[k] for k in plan.differentiable])
        ctx.layouts = None
        for spec in plan.tangents:
            if not spec.static:
                ctx.layouts = [(r.size(), r.stride()) for r in results]
                break
        return results

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        plan = ctx.plan
        if plan.error is not None and any(grads[i] is not None for i in plan.spent):
            raise RuntimeError(plan.error)
        if plan.no_gradients and not plan.repeated:
            return (None, None, None)
        layouts = ctx.layouts
        if plan.opened:
            flat = open_gradients(plan.opened, grads, plan.empty)
            if flat is None:
                return (None, None, *plan.again.gradients(*ctx.inputs, grads))
            grads = tuple(flat)
        elif any(g is not None and type(g) is not Tensor and is_wrapper_class(type(g)) for g in grads):
            return (None, None, *_of_wrappers(ctx, grads))
        tangents = [
            spec.fit(g, layouts[i] if layouts and not spec.static else None) for i, (spec, g) in enumerate(zip(plan.tangents, grads, strict=True))
        ]
        if plan.backward is None:
            plan.backward = assemble(_boxed(plan.compile_backward()), plan.gradients)
        if plan.repeated:
            tangents += ctx.repeated
        box = [*ctx.saved_tensors[: plan.num_saved], *(ctx.symbols if plan.saved_symbols else ()), *tangents]
        del tangents
        ctx.maybe_clear_saved_tensors()  # unless the graph is retained, the list is now all that holds them
        if not torch.is_grad_enabled() and not _autocast_enabled() and not plan.repeated:
            return (None, None, *plan.backward(box))
        with torch.no_grad(), torch._C._DisableAutocast():
            gradients = plan.backward(box)
        if plan.repeated:
            count = len(gradients) - len(plan.repeated)
            _copy_all(ctx.repeated, list(gradients[count:]))
            gradients = gradients[:count] if count else (None,)
        if not torch.is_grad_enabled():
            return (None, None, *gradients)
        return (None, None, *_refuse_second_order(gradients))


def _of_wrappers(ctx: Any, grads: Sequence[Any]) -> Sequence[Any]:
    """Gradients where those of the outputs are of wrapper classes, in a graph that was traced for plain ones: the operators are the class's."""
    plan = ctx.plan
    backward = plan.by_operators()
    if backward is None:
        refuse_gradient(grads)
    counters["fallbacks"]["aot gradient of another class"] += 1
    layouts = ctx.layouts or [None] * len(grads)
    kept = lambda g: g is not None and is_wrapper_class(type(g))
    tangents = [g if kept(g) else spec.fit(g, layout) for spec, g, layout in zip(plan.tangents, grads, layouts, strict=True)]
    with torch.no_grad(), torch._C._DisableAutocast():
        return backward(*ctx.saved_tensors, *(ctx.symbols if plan.saved_symbols else ()), *tangents)


# `Function.apply` without its Python half (argument defaults, transforms): both are of no use here.
_apply = torch._C._FunctionBase.__dict__["apply"].__get__(None, _CompiledGraph)

_SECOND_ORDER = (
    "lamina: double backward through a compiled graph is not supported. Its backward is compiled for one use: call the function uncompiled "
    "(lamina.disable) where gradients of gradients are needed"
)


def _refuse_second_order(gradients: Sequence[Any]) -> Sequence[Any]:
    """Gradients that raise when they are differentiated in turn: `create_graph=True` alone is no error."""
    tensors = [g for g in gradients if g is not None]
    fakes = [g.detach().requires_grad_() for g in tensors]
    marked = iter(_delayed_error(_SECOND_ORDER, len(fakes))(*fakes)) if len(fakes) > 1 else iter([_delayed_error(_SECOND_ORDER, 1)(*fakes)])
    return [None if g is None else next(marked) for g in gradients]


def _delayed_error(message: str, count: int) -> Callable[..., Any]:
    return torch._C._functions.DelayedError(message.encode(), count)


def training_callable(
    forward: Compiled, compile_backward: Callable[[], Compiled], signature: GraphSignature, eager: Compiled, by_operators: Callable[[], Any], *, writes_inputs: bool = False
) -> Compiled:
    """A callable whose differentiable outputs hang on one autograd node. The backward is compiled when first needed."""
    plan = _Plan(with_wrappers(_guarded(_unwrapped(forward), signature), signature), compile_backward, signature, eager, by_operators)
    finish = _finisher(signature, writes_inputs) or (lambda args, outs: tuple(outs[: signature.num_outputs]))
    edges, differentiable, count = plan.edges, plan.differentiable, plan.num_outputs
    every_output = differentiable == tuple(range(count))

    def run(*args: Any) -> tuple[Any, ...]:
        box = [args, None]
        tracked = _apply(plan, box, *[args[i] for i in edges])
        if every_output:
            return finish(args, tracked)
        outs = list(box[1])
        for k, t in zip(differentiable, tracked):
            outs[k] = t
        return finish(args, outs)

    return torch.enable_grad()(run) if signature.turns_gradients_on else run
