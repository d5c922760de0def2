"""Trace a program and its gradient into one functional ATen graph.

Between: a `torch`-dialect graph (or any callable) on fake tensors -> cleanup, partition.
Keeps:   one run of the program, under the caller's grad mode and autocast state; random ops in program order; everything that a
         functional graph cannot say goes into the `GraphSignature`.

Layers while tracing, top to bottom: autocast and autograd (C++), functionalization (C++), the tracer (a dispatch mode that records),
shape rules (fake tensors). The backward runs through PyTorch's own engine under the same layers.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from lamina_dynshape import FakeMode, env_of, fake_mode_of, is_wrapper_class
from lamina_dynshape.composites import is_symbolic_refusal
from lamina_dynshape.support.errors import InternalError, Unsupported
from lamina_primops.tracer import TraceMode, Tracer
from lamina_primops.fxtools import is_random
from torch import Tensor, fx

from .checkpoint import mark
from .cleanup import clean, mark_transient
from .functionalize import functionalization, is_functional, storage_id, suspended, unwrap, wrap
from .outputs import OutputTable
from .overlap import Group, SharedWrite
from .repeated import RegionWrites, repeat_writes
from .signature import GraphSignature, InputMutation, Made, OutputKind, OutputSpec
from .views import contiguous_strides, is_dense, memory_root, program_root, view_chain, view_parent
from .wrappers import Dressed, call_on_wrapper, classes_code, functional_wrapper, opened, split_inputs
from .writes import StridedWritten, WriteWatch

__all__ = ["Joint", "trace_joint"]


@dataclass(slots=True)
class Joint:
    """A joint graph: inputs are the program's, then tangents; outputs are the forward's (`signature.num_outputs`), then gradients."""

    graph_module: fx.GraphModule
    signature: GraphSignature
    num_primals: int

    @property
    def has_backward(self) -> bool:
        """Whether an output is differentiable; there may still be no gradient for any input."""
        return bool(self.signature.tangents)


class _JointTracer(Tracer):
    """A tracer whose backward nodes get the user's lines of the forward call that made the running autograd node.

    Autograd nodes carry a sequence number that grows as the forward runs; the table says which forward call a number belongs to.
    """

    def __init__(self, fake_mode: Any) -> None:
        self.in_backward = False
        self._sequence: list[int] = []
        self._stacks: list[tuple] = []
        self._forward_stack: tuple = ()
        super().__init__(fake_mode)

    def forward_stack(self, sequence_number: int, stack: tuple) -> None:
        """Nodes from here on, and the autograd nodes numbered from here on, come from `stack`."""
        self._forward_stack = stack
        self._sequence.append(sequence_number)
        self._stacks.append(stack)

    @property
    def _stack(self) -> tuple:
        if not self.in_backward:
            return self._forward_stack
        running = torch._C._current_autograd_node()
        at = bisect_right(self._sequence, running._sequence_nr()) - 1 if running is not None else -1
        return self._stacks[at] if at >= 0 else ()

    @_stack.setter
    def _stack(self, stack: tuple) -> None:
        self._forward_stack = stack


def _check_of_a_formula(x: Tensor, y: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """PyTorch's formulas of gradients raise where this is false (phases of complex singular vectors): so does the graph."""
    running = torch._C._current_autograd_node()
    if running is None or isinstance(running, torch.autograd.function.BackwardCFunction):
        raise Unsupported("data-dependent branch", saw=repr(x), hint="torch.where, or move the branch outside of the compiled region")
    close = (x - y).abs() <= y.abs() * rtol + atol  # `isclose` writes in place
    torch._assert_async(close.all(), f"{running.name()}: the loss depends on what the operator does not determine")
    return True


def _constant(tracer: Tracer, value: Tensor) -> Tensor:
    """The fake of a constant of the program's graph."""
    return tracer.node_of(value).meta["val"]


@dataclass(slots=True)
class _Run:
    """State of one trace."""

    tracer: Tracer
    inner: list[Any]                                           # per input: fake or number that the tracer knows
    leaves: list[Any] = field(default_factory=list)            # per input: functional leaf, or the number
    args: list[Any] = field(default_factory=list)              # per input: what the program is called with
    storages: list[int] = field(default_factory=list)
    grad_fns: list[Any] = field(default_factory=list)
    members: set[int] = field(default_factory=set)             # inputs that are views of a synthetic base
    fake_leaves: set[int] = field(default_factory=set)         # inputs whose fakes are leaves, asked before the modes are on: views may recompute it
    required: set[int] = field(default_factory=set)            # inputs that require gradients at the start
    num_bases: int = 0                                         # the last inputs, which the program does not see
    has_wrappers: bool = False                                 # tensor subclasses are taken apart in the program
    dressed: Dressed = field(default_factory=Dressed)
    regions: list[Any] = field(default_factory=list)           # what checkpointed regions write, see `repeated`

    def node_of(self, tensor: Tensor) -> fx.Node:
        """The node of a functional tensor's present value."""
        value = unwrap(tensor)
        if is_wrapper_class(type(value)):
            raise Unsupported("tensor subclass with __torch_dispatch__ in this place", saw=type(value).__qualname__, code="tensor_subclass")
        return self.tracer.node_of(value)


def trace_joint(
    target: fx.GraphModule | Callable[..., Any], fakes: Sequence[Any], *, roles: Sequence[str] | None = None, training: bool | None = None,
    groups: Sequence[Group] | None = None,
) -> Joint:
    """The joint graph of `target` at `fakes` (flat: fake tensors, symbolic sizes, numbers).

    `training`: whether to differentiate; by default, whether gradients are on, or get turned on, and an input requires one. The program returns a flat
    tuple. `groups`: inputs that share written memory; the graph has a flat base for each, after the inputs. Raises `Unsupported` for what
    cannot be functional (`set_`, `resize_`); without `groups`, `SharedWrite` for a written input whose fake shares memory with another's.
    """
    try:
        return _trace_joint(target, fakes, roles, training, groups, own_strided=True)
    except StridedWritten:
        return _trace_joint(target, fakes, roles, training, groups, own_strided=False)


def _trace_joint(
    target: fx.GraphModule | Callable[..., Any], fakes: Sequence[Any], roles: Sequence[str] | None, training: bool | None, groups: Sequence[Group] | None, *, own_strided: bool
) -> Joint:
    plain, wrappers, insides = split_inputs(fakes)
    tensors = [f for f in fakes if isinstance(f, Tensor)]
    grads_on, turned_on = torch.is_grad_enabled() and training is not False, _turns_gradients_on(target)
    if training is None:
        training = (grads_on or turned_on) and any(t.requires_grad for t in tensors)
    mode = fake_mode_of(*tensors) or FakeMode(env_of(*fakes))
    if len(tensors) > 0 and fake_mode_of(*tensors) is None:
        raise InternalError("trace_joint needs fake tensors, got real ones")
    names, roles, sources = _describe_inputs(target, fakes, roles)
    if wrappers and groups:
        raise Unsupported("inputs that share written memory beside a tensor subclass", code="tensor_subclass")
    signature = GraphSignature(roles=[*roles[: len(plain)], *["wrapper"] * len(wrappers)], wrappers=insides, autocast=torch.is_autocast_enabled("cpu"), turns_gradients_on=training and not grads_on)
    tracer = _JointTracer(mode)
    with _plain_grad_mode(grads_on, training):
        run = _Run(tracer, [_bind(tracer, mode, n, f, r, s) for n, f, r, s in zip(names, plain, roles, sources)])
        run.fake_leaves = {i for i, f in enumerate(plain) if isinstance(f, Tensor) and f.is_leaf}
        run.has_wrappers = bool(wrappers) or isinstance(target, fx.GraphModule) and any(map(call_on_wrapper, target.graph.nodes))
        for group in groups or ():
            like = fakes[group.members[0]]
            base = mode.empty_strided((group.length,), (1,), dtype=like.dtype, device=like.fake_device)
            run.inner.append(_bind(tracer, mode, f"base{len(run.inner) - len(fakes)}", base, "input", None))
            run.members.update(group.members)
            run.num_bases += 1
            signature.roles.append("input")
        with classes_code() if run.has_wrappers else contextlib.nullcontext(), mode, TraceMode(tracer, {torch.ops.aten.allclose.default: _check_of_a_formula}), functionalization():
            _make_arguments(run, plain, training, groups or (), [functional_wrapper(w, [run.inner[i] for i in at]) for w, at in zip(wrappers, insides, strict=True)])
            with _refusals(), WriteWatch(run.args, own_strided=own_strided):
                try:
                    flat = _flat_tuple(_run_program(target, run))
                finally:
                    _refuse_replaced(run)  # first: views of such an input fail in ways of their own
            _refuse_hidden_parameters(tracer, training)
            with _refusals():
                table = _classify(run, flat, signature)
            if groups is None:
                _refuse_shared_writes(run, plain)
            _record_mutations(run, signature, table)
            if training:
                signature.requires_grad = sorted(run.required)
            grads = _backward(run, mode, signature, table) if training else []
            run.dressed.check()
    signature.rng = any(is_random(n.target) for n in tracer.graph.nodes if n.op == "call_function")
    regions = run.regions if signature.tangents else []
    if regions and run.has_wrappers:
        raise Unsupported("write to an input in a checkpointed region, beside a tensor subclass", code="tensor_subclass")
    tracer.output([*table.nodes, *grads, *[n for region in regions for _, before, after in region for n in (before, after)]])
    gm = tracer.graph_module()
    mark_transient(gm.graph, len(run.inner))
    clean(gm, signature.num_outputs)
    if regions:
        signature.repeated = repeat_writes(gm.graph, regions)
        gm.recompile()
    return Joint(gm, signature, len(run.inner))


def _turns_gradients_on(target: Any) -> bool:
    """Whether a graph that starts without gradients, as the rest of a frame that broke under `no_grad`, has them on somewhere."""
    nodes = target.graph.nodes if isinstance(target, fx.GraphModule) else ()
    return any(n.op == "call_function" and n.target is torch._C._set_grad_enabled and n.args[0] for n in nodes)


def _describe_inputs(target: Any, fakes: Sequence[Any], roles: Sequence[str] | None) -> tuple[list[str], list[str], list[str | None]]:
    """Names, roles and sources of the inputs."""
    holders = [n for n in target.graph.nodes if n.op == "placeholder"] if isinstance(target, fx.GraphModule) else []
    if holders and len(holders) != len(fakes):
        raise InternalError(f"the graph has {len(holders)} placeholders, got {len(fakes)} inputs")
    names = [n.name for n in holders] or [f"arg{i}" for i in range(len(fakes))]
    default = lambda f: "input" if isinstance(f, Tensor) else "size"
    found = [n.meta.get("role") or default(f) for n, f in zip(holders, fakes, strict=True)] if holders else [default(f) for f in fakes]
    return names, list(roles or found), [n.meta.get("source") for n in holders] or [None] * len(fakes)


@contextlib.contextmanager
def _plain_grad_mode(grads_on: bool, training: bool) -> Iterator[None]:
    """Grad mode at the start of the trace; inference mode is left, since its tensors cannot be traced.

    oneDNN is off while gradients are traced: its recurrent layer keeps a workspace only under autograd, which compiled forwards run below.
    Recurrent layers then trace as their steps; no other composite looks at the flag.
    """
    one_dnn = torch._C._get_mkldnn_enabled()
    if training:
        torch._C._set_mkldnn_enabled(False)
    try:
        with torch.inference_mode(False), torch.set_grad_enabled(grads_on):
            yield
    finally:
        torch._C._set_mkldnn_enabled(one_dnn)


def _bind(tracer: Tracer, mode: Any, name: str, fake: Any, role: str, source: str | None) -> Any:
    """Add a placeholder; the value the tracer knows it by (without gradient: autograd is above)."""
    meta = {"role": role} if source is None else {"role": role, "source": source}
    if isinstance(fake, Tensor) and fake.requires_grad:
        with torch.no_grad(), mode:
            fake = fake.detach()
    tracer.placeholder(name, fake, **meta)
    return fake


class _Handle(torch.autograd.Function):
    """A tensor with history over the same value as a leaf: writable in place, as eager's intermediate that the input was."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, fresh: list[Tensor]) -> Tensor:
        return fresh[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _make_arguments(run: _Run, fakes: Sequence[Any], training: bool, groups: Sequence[Group], wrappers: Sequence[Tensor]) -> None:
    """Functional tensors for the inputs, leaves or not as the fakes are; those of a group are views of its base."""
    bases = [wrap(inner) for inner in run.inner[len(fakes):]]
    place = {i: (base, offset) for g, base in zip(groups, bases, strict=True) for i, offset in zip(g.members, g.offsets, strict=True)}
    for i, (inner, fake) in enumerate(zip(run.inner, fakes)):
        fresh = partial(_member, *place[i], fake) if i in place else partial(wrap, inner)
        leaf = arg = fresh() if isinstance(inner, Tensor) else inner
        if isinstance(inner, Tensor) and fake.requires_grad:
            leaf.requires_grad_()  # also without gradients: outputs show it
            if training and i not in run.fake_leaves:
                arg = _Handle.apply(leaf, [fresh()])
        run.leaves.append(leaf)
        run.args.append(arg)
    run.leaves += [*bases, *wrappers]
    run.args += [*bases, *wrappers]
    run.required = {i for i, t in enumerate(run.leaves) if isinstance(t, Tensor) and t.requires_grad}
    for arg in run.args:
        run.storages.append(storage_id(arg) if isinstance(arg, Tensor) else 0)
        run.grad_fns.append(arg.grad_fn if isinstance(arg, Tensor) else None)


def _member(base: Tensor, offset: int, fake: Tensor) -> Tensor:
    """A functional view of a base, where and as an input lies in it, that autograd takes for a tensor of its own."""
    return base.as_strided(fake.shape, fake.stride(), offset).detach()


def _run_program(target: Any, run: _Run) -> Any:
    """Call the program. A graph is walked node by node, so that each ATen call gets the user's line."""
    if not isinstance(target, fx.GraphModule):
        return target(*run.args[: len(run.args) - run.num_bases])
    env: dict[fx.Node, Any] = {}
    arguments = iter(run.args)
    load = env.__getitem__
    sequence_number = torch._C._autograd._get_sequence_nr
    if run.tracer.fake_mode.shape_env is not None:
        run.tracer.fake_mode.shape_env.where = lambda: run.tracer._stack
    writes = RegionWrites([run.tracer.node_of(x) for x in run.inner], partial(_written_values, run))
    for node in target.graph.nodes:
        if node.op == "placeholder":
            env[node] = next(arguments)
            continue
        if node.op == "output":
            writes.enter(None)
            run.regions = writes.regions
            return fx.node.map_arg(node.args[0], load)
        if node.op == "get_attr":
            env[node] = wrap(_constant(run.tracer, _attribute(target, node.target)))
            continue
        writes.enter(node.meta["checkpoint"][0] if node.meta.get("checkpoint") else None)
        stack = node.meta.get("stack", ())
        run.tracer.forward_stack(sequence_number(), stack)
        args = fx.node.map_arg(node.args, load)
        kwargs = fx.node.map_arg(node.kwargs, load) if node.kwargs else {}
        last = run.tracer.graph._root.prev
        if node.op == "call_function":
            call = call_on_wrapper(node) or node.target
            env[node] = call(*(run.dressed.up(args) if run.has_wrappers and node.meta.get("allowed") else args), **kwargs)
        elif node.op == "call_method":
            env[node] = getattr(args[0], node.target)(*args[1:], **kwargs)
        else:
            env[node] = target.get_submodule(node.target)(*args, **kwargs)
        if "checkpoint" in node.meta:
            mark(last, node.meta["checkpoint"])
    raise InternalError("the graph has no output node")


def _written_values(run: _Run) -> Iterator[tuple[int, fx.Node]]:
    """Inputs written so far, with the nodes of their present values."""
    for i, arg in enumerate(run.args):
        if isinstance(arg, Tensor) and torch._functionalize_has_data_mutation(arg):
            yield i, run.node_of(arg)


def _refuse_hidden_parameters(tracer: Tracer, training: bool) -> None:
    """A real tensor that the program reaches without it being an input is a constant: it must not want a gradient."""
    if training and any(real.requires_grad for real in tracer._known.values()):
        raise Unsupported("tensor that requires gradients and is no input of the graph", hint="pass it as an input", code="hidden_parameter")


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn PyTorch's own errors about what cannot be traced into `Unsupported`."""
    try:
        yield
    except RuntimeError as error:
        text = str(error).partition("\n")[0]
        if "data is not allocated" in text or "Cannot access data pointer" in text:
            raise Unsupported("operator that reads a tensor's memory while tracing", saw=text) from error
        if is_symbolic_refusal(error):
            raise Unsupported("operator whose C++ takes no symbolic sizes", saw=text, hint="mark_static, or dynamic=False") from error
        if "modified inplace" in text:
            raise Unsupported("view whose history ends with a write", saw=text) from error
        if "functionalization" in text or "frozen storage" in text:
            raise Unsupported("write that functionalization refuses", saw=text) from error
        raise


def _attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def _flat_tuple(out: Any) -> tuple[Any, ...]:
    if isinstance(out, (tuple, list)):
        return tuple(out)
    return (out,)


def _classify(run: _Run, outs: Sequence[Any], signature: GraphSignature) -> OutputTable:
    """Fill `signature.outputs`: which outputs are fresh, inputs, views of inputs, views of each other."""
    table = OutputTable()
    specs: list[OutputSpec | None] = [None] * len(outs)
    input_of = {id(a): i for i, a in enumerate(run.args) if isinstance(a, Tensor)}
    storage_input: dict[int, list[int]] = {}
    for i, s in enumerate(run.storages):
        storage_input.setdefault(s, []).append(i)
    storage_input.pop(0, None)
    groups: dict[int, list[int]] = {}
    first: dict[int, int] = {}
    for position, out in enumerate(outs):
        if isinstance(out, Tensor) and first.setdefault(id(out), position) != position:
            specs[position] = OutputSpec(OutputKind.SAME, first[id(out)])
        elif isinstance(out, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            specs[position] = OutputSpec(OutputKind.FRESH, table.add(run.tracer.node_of(out), None))
        elif not isinstance(out, Tensor):
            specs[position] = OutputSpec(OutputKind.CONSTANT, value=out)
        elif not is_functional(out):
            raise Unsupported("output that is not made by the traced program", saw=str(type(out)))
        elif id(out) in input_of:
            specs[position] = OutputSpec(OutputKind.INPUT, input_of[id(out)], requires_grad=out.requires_grad)
        elif (owners := storage_input.get(storage_id(out))) is not None:
            specs[position] = _view_of_input(run, table, out, owners)
        else:
            groups.setdefault(storage_id(out), []).append(position)
    for key in [k for k, (p, *more) in groups.items() if not more and is_wrapper_class(type(unwrap(outs[p])))]:
        (position,) = groups.pop(key)
        specs[position] = _wrapper_output(run, table, outs[position], signature)
    for positions in groups.values():
        for position, spec in zip(positions, _group(run, table, [outs[p] for p in positions]), strict=True):
            specs[position] = spec
    signature.outputs = [s for s in specs if s is not None]
    if run.has_wrappers:
        _refuse_hidden_views(run, table)
    made = {id(out) for out, spec in zip(outs, specs, strict=True) if spec is not None and spec.leaf}
    if made and any(id(leaf) in made for leaf in _leaves_behind(*[o for o in outs if isinstance(o, Tensor)])):
        raise Unsupported("output whose history leads to another output, a leaf that the program made")
    return table


def _wrapper_output(run: _Run, table: OutputTable, out: Tensor, signature: GraphSignature) -> OutputSpec:
    """An output that the runtime makes of what is inside of it."""
    if out.requires_grad and not run.required or _is_new_leaf(run, out):
        raise Unsupported("output of a tensor subclass whose history starts inside of the graph", code="tensor_subclass")
    structure, parts = opened(out)
    signature.made.append(Made(structure, tuple([table.add(run.tracer.node_of(x), None) for x in parts])))
    index = -len(signature.made)
    if out.requires_grad:
        table.wrappers.append((index, out))
    return OutputSpec(OutputKind.FRESH, index, requires_grad=out.requires_grad)


def _refuse_hidden_views(run: _Run, table: OutputTable) -> None:
    """What is inside of a wrapper is a functional tensor of its own: that it has the memory of an input, or of another output, shows in the graph alone."""
    roots = [memory_root(n) for n in table.nodes if isinstance(n.meta["val"], Tensor)]
    inputs = {memory_root(run.node_of(a)) for a in run.args[: len(run.inner)] if isinstance(a, Tensor)}  # as they are now: some were written
    if len(set(roots)) < len(roots) or any(r.op == "placeholder" or r in inputs for r in roots):
        raise Unsupported("output that shares memory through a tensor subclass", code="tensor_subclass")


def _view_of_input(run: _Run, table: OutputTable, out: Tensor, owners: Sequence[int]) -> OutputSpec:
    """An output with the memory of an input, or of several that share it: of these, one that passes the gradient on as the output does."""
    node = run.node_of(out)
    if out.requires_grad and not any(run.args[i].requires_grad for i in owners):
        raise Unsupported("output that shares an input's memory and has a history of its own", saw=str(node))
    if _is_cut_off(run, out):
        raise Unsupported("view of a view that was made with gradients off", saw=str(node))
    for owner in sorted(owners, key=lambda i: not _passes_gradient(run.args[i], out)):
        base = run.node_of(run.args[owner])
        view = view_chain(node, base, table.symbol) or table.by_geometry(node, base, run.tracer.node_of)
        if view is not None:
            return OutputSpec(OutputKind.VIEW_OF_INPUT, owner, view, out.requires_grad, no_grad=out.requires_grad and out.is_leaf)
    raise Unsupported("output that shares an input's memory in a way that is no view of it", saw=str(node))


def _is_cut_off(run: _Run, out: Tensor) -> bool:
    """Whether the history of a view reaches no input: it starts at a view that was made with gradients off."""
    known = {id(t) for t in run.leaves}
    return out.requires_grad and out.grad_fn is not None and not any(id(leaf) in known for leaf in _leaves_behind(out))


def _leaves_behind(*outs: Tensor) -> Iterator[Tensor]:
    """The leaves that the history of these tensors reaches."""
    todo = [o.grad_fn for o in outs if o.grad_fn is not None]
    seen = set(todo)
    while todo:
        node = todo.pop()
        if (leaf := getattr(node, "variable", None)) is not None:
            yield leaf
        fresh = {f for f, _ in node.next_functions if f is not None} - seen
        seen |= fresh
        todo += fresh


def _passes_gradient(arg: Tensor, out: Tensor) -> bool:
    """Whether a view of `arg` has the history that `out` has, as far as the two tell."""
    if not out.requires_grad:
        return True
    return arg.requires_grad and (out._base is arg or out._base is arg._base)


def _group(run: _Run, table: OutputTable, outs: Sequence[Tensor]) -> list[OutputSpec]:
    """Specs of outputs that share one storage: one graph output is the base, the others are views of it."""
    nodes = [run.node_of(o) for o in outs]
    if any(_is_new_leaf(run, o) for o in outs):
        return [_leaf_output(run, table, outs)]
    if len(outs) == 1:
        if outs[0].requires_grad and not run.required:
            raise Unsupported("output whose history starts inside of the graph", saw=str(nodes[0]))
        return [OutputSpec(OutputKind.FRESH, table.add(nodes[0], outs[0]), requires_grad=outs[0].requires_grad)]
    base_node, base = _common_base(run, outs, nodes)
    index = table.add(base_node, base)
    specs = []
    for out, node in zip(outs, nodes, strict=True):
        if out is base:
            specs.append(OutputSpec(OutputKind.FRESH, index, requires_grad=out.requires_grad))
            continue
        if _is_cut_off(run, out):
            raise Unsupported("view of a view that was made with gradients off", saw=str(node))
        view = view_chain(node, base_node, table.symbol) or table.by_geometry(node, base_node, run.tracer.node_of)
        if view is None:
            raise Unsupported("outputs that share memory in a way that is no view", saw=str(node))
        specs.append(OutputSpec(OutputKind.VIEW_OF_OUTPUT, index, view, out.requires_grad, no_grad=out.requires_grad and out.is_leaf))
    return specs


def _is_new_leaf(run: _Run, out: Tensor) -> bool:
    """Whether an output is a leaf that the program made: `requires_grad_` on a value of its own."""
    return out.requires_grad and out.is_leaf and not any(out is leaf for leaf in run.leaves)


def _leaf_output(run: _Run, table: OutputTable, outs: Sequence[Tensor]) -> OutputSpec:
    """A new leaf: it leaves the graph as a value, and requires gradients again outside."""
    if len(outs) > 1:
        raise Unsupported("new leaf that shares memory with another output", saw=str(run.node_of(outs[0])))
    return OutputSpec(OutputKind.FRESH, table.add(run.node_of(outs[0]), None), requires_grad=True, leaf=True)


def _common_base(run: _Run, outs: Sequence[Tensor], nodes: Sequence[fx.Node]) -> tuple[fx.Node, Tensor | None]:
    """The node that holds the whole storage, and the tensor that stands for it in autograd (None: no gradients)."""
    root = program_root(nodes)
    tracked = [o for o in outs if o.requires_grad]
    for out, node in zip(outs, nodes, strict=True):
        if node is root and (out.requires_grad or not tracked):
            return root, out
    if not tracked:
        return root, None
    for out in tracked:
        if out._is_view() and out._base is not None:
            return run.node_of(out._base), out._base
    raise Unsupported("differentiable outputs that share memory without a common base")


def _record_mutations(run: _Run, signature: GraphSignature, table: OutputTable) -> None:
    """Fill `input_mutations` and `mutations`; refuse what a copy at the end cannot reproduce."""
    tracked: list[tuple[int, fx.Node, Tensor, Any]] = []
    plain: list[tuple[int, fx.Node, Any]] = []
    for i, arg in enumerate(run.args):
        if not isinstance(arg, Tensor):
            continue
        data, geometry = torch._functionalize_has_data_mutation(arg), torch._functionalize_has_metadata_mutation(arg)
        if not (data or geometry):
            continue
        if i in run.members:
            _refuse_hard_members(run, i, geometry)
            continue  # the base is written
        placeholder, node, view = run.tracer.node_of(run.inner[i]), run.node_of(arg), None
        if geometry:
            node, view = _new_geometry(run, table, i, node, placeholder)
        if node is placeholder:
            if view is not None:
                signature.input_mutations.append(InputMutation(i, None, view=view))
            continue
        if arg.requires_grad and arg.grad_fn is not None and arg.grad_fn is not run.grad_fns[i]:
            tracked.append((i, node, arg, view))
        else:
            plain.append((i, node, view))
    for i, node, arg, view in tracked:
        signature.input_mutations.append(InputMutation(i, table.add(node, arg), True, view))
    for i, node, view in plain:
        index = table.add_last(node)
        signature.input_mutations.append(InputMutation(i, index, False, view))
        signature.mutations.append((index, i))
    signature.num_outputs = len(table.nodes)


def _refuse_replaced(run: _Run) -> None:
    """An input that got another memory or history."""
    for i, arg in enumerate(run.args):
        if not isinstance(arg, Tensor):
            continue
        if run.leaves[i].requires_grad and not arg.requires_grad or i in run.required and not run.leaves[i].requires_grad:
            raise Unsupported("detach_ of an input", hint="run this part outside of the compiled function")
        if storage_id(arg) != run.storages[i] or torch._functionalize_was_storage_changed(arg):
            raise Unsupported("set_ or assignment to .data of an input", hint="run this part outside of the compiled function")


def _new_geometry(run: _Run, table: OutputTable, i: int, node: fx.Node, placeholder: fx.Node) -> tuple[fx.Node, Any]:
    """Data node with the input's first geometry, and the view of it that the input has become (`t_`, `unsqueeze_`, ...)."""
    if run.args[i].requires_grad:
        raise Unsupported("change of an input's shape in place while it requires gradients")
    root = placeholder if memory_root(node) is placeholder else node  # nothing is written
    while root is not placeholder and not _same_shape(root, placeholder) and (parent := view_parent(root)) is not None:
        root = parent[0]
    view = view_chain(node, root, table.symbol)
    if view is None or not _same_shape(root, placeholder):
        raise Unsupported("resize_ of an input", hint="run this part outside of the compiled function")
    return root, view


def _same_shape(a: fx.Node, b: fx.Node) -> bool:
    x, y = a.meta["val"], b.meta["val"]
    return x.dtype == y.dtype and tuple(x.shape) == tuple(y.shape) and tuple(x.stride()) == tuple(y.stride())


def _refuse_shared_writes(run: _Run, fakes: Sequence[Any]) -> None:
    """A written input must not overlap another one: the copies at the end could not tell them apart."""
    written = {i for i, arg in enumerate(run.args) if isinstance(arg, Tensor) and torch._functionalize_has_data_mutation(arg)}
    if any(i >= len(run.inner) for i in written):
        raise Unsupported("write to an input of a tensor subclass", code="tensor_subclass")
    for i in sorted(written):
        for j, other in enumerate(fakes):
            if j != i and isinstance(other, Tensor) and other.storage_key == fakes[i].storage_key:
                raise SharedWrite(written, f"inputs {i} and {j}")


def _refuse_hard_members(run: _Run, i: int, geometry: bool) -> None:
    """What a write to a common base cannot reproduce: a new shape, a write that is part of a member's history."""
    arg = run.args[i]
    if geometry or (arg.requires_grad and arg.grad_fn is not None and arg.grad_fn is not run.grad_fns[i]):
        raise Unsupported("differentiable write, or new shape, of an input that shares memory with another input", code="aliased_inputs")


def _tangent_strides(val: Tensor) -> tuple[Any, ...]:
    """Strides that the backward expects of a gradient: the output's where they are dense, else contiguous ones."""
    return tuple(val.stride()) if is_dense(val) else contiguous_strides(val.shape)


def _backward(run: _Run, mode: Any, signature: GraphSignature, table: OutputTable) -> list[fx.Node]:
    """Run the engine from the differentiable outputs to the leaves; nodes of the gradients that are not None."""
    ends = [*[(k, t) for k, t in table.differentiable() if t.requires_grad], *table.wrappers]
    if not ends:
        return []
    signature.differentiable = [k for k, _ in ends]
    tangents = [_tangent(run, mode, signature, table.nodes[k].meta["val"]) for k, _ in ends if k >= 0]
    tangents += [_wrapper_tangent(run, mode, signature, t) for _, t in table.wrappers]
    inputs = [run.leaves[i] for i in signature.requires_grad]
    run.tracer.in_backward = True
    pulled = [(t, tangent) for (_, t), tangent in zip(ends, tangents, strict=True)]
    found = None
    while found is None:
        try:
            found = _pull([pair for i, pair in enumerate(pulled) if i not in signature.spent], inputs)
        except RuntimeError as error:
            spent = [i for i, pair in enumerate(pulled) if _SPENT in str(error) and _is_spent(*pair, inputs)]
            if signature.spent or not spent:  # eager raises the same only if the program is differentiated: leave it to eager
                raise Unsupported("backward that fails while tracing", saw=str(error).partition("\n")[0]) from error
            signature.spent, signature.backward_error = spent, str(error)
    pairs = [(i, g) for i, g in zip(signature.requires_grad, found, strict=True) if g is not None]
    signature.grad_inputs = [i for i, _ in pairs]
    if not run.has_wrappers:
        return [run.node_of(g) for _, g in pairs]
    nodes: list[fx.Node] = []
    for _, g in pairs:
        structure, parts = opened(g)
        signature.gradients.append(Made(structure, tuple(range(len(nodes), len(nodes) + len(parts)))))
        nodes += [run.tracer.node_of(x) for x in parts]
    return nodes


def _tangent(run: _Run, mode: Any, signature: GraphSignature, val: Any) -> Tensor:
    """The gradient of a plain output, an input of the backward."""
    if run.has_wrappers:
        signature.opened.append(Made(None, (len(signature.tangents),)))
    return wrap(_tangent_fake(run, mode, signature, val))


def _tangent_fake(run: _Run, mode: Any, signature: GraphSignature, val: Any) -> Any:
    with suspended():
        fake = mode.empty_strided(tuple(val.shape), _tangent_strides(val), dtype=val.dtype, device=val.fake_device)
    run.tracer.placeholder(f"tangent{len(signature.tangents)}", fake, role="tangent")
    signature.tangents.append(fake)
    return fake


def _wrapper_tangent(run: _Run, mode: Any, signature: GraphSignature, out: Tensor) -> Tensor:
    """The gradient of an output of a wrapper class: of the class that `ones_like` gives, which is what `backward()` starts from."""
    with torch.no_grad():
        structure, parts = opened(torch.ones_like(out.detach()))
    if any(type(n) is not int for x in parts for n in (*x.shape, *x.stride())):
        raise Unsupported("gradient of a tensor subclass around symbolic sizes", code="tensor_subclass")
    first = len(signature.tangents)
    fakes = [_tangent_fake(run, mode, signature, x) for x in parts]
    signature.opened.append(Made(structure, tuple(range(first, first + len(parts)))))
    with suspended():
        value = fakes[0] if structure is None else structure.build(iter(fakes))
    return wrap(value)


def _pull(pairs: Sequence[tuple[Tensor, Tensor]], inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Gradients of the inputs from (output, tangent) pairs. The graph is kept: where this fails, parts of it are tried again."""
    if not pairs:
        return [None] * len(inputs)
    outputs, tangents = zip(*pairs, strict=True)
    return torch.autograd.Variable._execution_engine.run_backward(outputs, tangents, True, False, tuple(inputs), True, accumulate_grad=False)


_SPENT = "backward through the graph a second time"


def _is_spent(output: Tensor, tangent: Tensor, inputs: Sequence[Tensor]) -> bool:
    """Whether the graph took gradients of this output already, and let go of what they need: `loss` after `loss.backward()`."""
    try:
        _pull([(output, tangent)], inputs)
    except RuntimeError as error:
        return _SPENT in str(error)
    return False
