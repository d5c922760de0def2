"""The package in use: compile a captured graph, a function or a module ahead of time, forward and backward.

Between: a `torch`-dialect graph and a backend's compilers -> a callable with the program's behaviour.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lamina_dynshape import FakeMode, env_of, fake_mode_of
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.errors import Unsupported
from lamina_dynshape.support.logs import artifact, enabled, log
from lamina_dynshape.support.memory import compilation
from lamina_dynshape.support.timers import stage
from lamina_dynshape.support.verifylevel import verify_level
from lamina_primops.wrappers import take_apart
from torch import Tensor, fx

from .joint import Joint, trace_joint
from .partition import Partitioner, min_cut
from .overlap import Group, SharedWrite, groups_of, overlap_dispatch, with_bases
from .runtime import inference_callable, training_callable
from .signature import GraphSignature

__all__ = ["aot_eager", "aot_function", "aot_module", "run_graph"]

Compiler = Callable[..., Callable[..., Sequence[Any]]]


def run_graph(gm: fx.GraphModule, fake_inputs: Sequence[Any], *, kind: str, signature: Any) -> Callable[..., Sequence[Any]]:
    """The compiler that compiles nothing: run the ATen graph call by call."""
    if kind != "backward":
        return gm.forward
    gm.graph.set_codegen(_Boxed())
    gm.recompile()

    def call(*args: Any) -> Sequence[Any]:
        return gm.forward(list(args))

    call.boxed = gm.forward  # type: ignore[attr-defined]
    return call


class _Boxed(fx.graph.CodeGen):
    """Python text of a graph whose function takes its inputs in one list and empties it: each input dies after its last use."""

    def gen_fn_def(self, free_vars: list[str], *rest: Any, **options: Any) -> str:
        names = [v.partition(":")[0].partition("=")[0].strip() for v in free_vars]
        head = super().gen_fn_def(["inputs"], *rest, **options)
        return f"{head}\n    [{', '.join(names)}] = inputs; inputs.clear()"


def aot_function(
    target: fx.GraphModule | Callable[..., Any],
    example_inputs: Sequence[Any],
    *,
    fw_compiler: Compiler,
    bw_compiler: Compiler | None = None,
    inference_compiler: Compiler | None = None,
    partition: Partitioner = min_cut,
    keep_inference_input_mutations: bool = True,
) -> Callable[..., tuple[Any, ...]]:
    """A callable on flat inputs that returns the flat tuple of outputs, run by the given compilers.

    `target`: a `torch`-dialect graph, or a function of flat inputs that returns a flat tuple. `example_inputs`: the tensors and sizes of
    this call, or fakes of them.
    Compilers: `compiler(gm, fake_inputs, *, kind, signature)`, `kind` in inference, forward, backward; with the attribute
    `supports_input_mutation` they write the signature's `mutations` themselves and return the outputs before those
    (`keep_inference_input_mutations=False` keeps inference from it); with a `prepare` of the same signature that returns a function to call in
    any thread, see `_compile_both`. A compiled backward with a method `boxed` is called with one list of its inputs, which it empties: each
    saved tensor dies after its last use. Raises `Unsupported` for what cannot be traced.
    """
    fakes = _fakes(target, example_inputs)
    eager = target.forward if isinstance(target, fx.GraphModule) else _flat(target)

    def build(joint: Joint, retrace: Callable[[], Joint] | None) -> Callable[..., Any]:
        _check(joint.graph_module, "03_aten_joint.py")
        if joint.has_backward:
            if isinstance(target, fx.GraphModule) and not target.meta.get("beside_wrappers"):
                retrace = None  # the captured graph need not outlive the compilation
            return _compile_training(joint, fw_compiler, bw_compiler or fw_compiler, partition, eager, retrace)
        compiler = inference_compiler or fw_compiler
        writes = keep_inference_input_mutations and getattr(compiler, "supports_input_mutation", False)
        return _compile_inference(joint, compiler, writes)

    def compile_for(groups: tuple[Group, ...]) -> Callable[..., Any]:
        with stage("aot trace"):
            joint = trace_joint(target, fakes, groups=groups)
        return with_bases(build(joint, lambda: trace_joint(target, fakes, groups=groups)), groups)

    joint, groups = _trace(target, fakes)
    built = build(joint, lambda: trace_joint(target, fakes, groups=groups or None))
    return overlap_dispatch(with_bases(built, groups), groups, joint.signature, compile_for, eager)


def _trace(target: Any, fakes: list[Any]) -> tuple[Joint, tuple[Group, ...]]:
    """The joint graph, and the groups of inputs that share written memory, for which it has synthetic bases."""
    with stage("aot trace"):
        try:
            return trace_joint(target, fakes), ()
        except SharedWrite as shared:
            groups = tuple(g for g in groups_of(fakes, lambda t: t.storage_key) if shared.written & set(g.members))
            return trace_joint(target, fakes, groups=groups), groups


def _fakes(target: Any, example_inputs: Sequence[Any]) -> list[Any]:
    """Fake inputs: those that capture left on the placeholders, or new ones."""
    if isinstance(target, fx.GraphModule):
        holders = [n for n in target.graph.nodes if n.op == "placeholder"]
        if all("val" in n.meta for n in holders) and holders:
            return [n.meta["val"] for n in holders]
    mode = fake_mode_of(*example_inputs) or FakeMode(env_of(*example_inputs))  # fakes may be given, with symbolic sizes for instance
    return [_fake(mode, x) if isinstance(x, Tensor) else x for x in example_inputs]


def _fake(mode: FakeMode, x: Tensor) -> Tensor:
    """The fake of a real tensor; of a wrapper, one of its class around the fakes of what is inside."""
    structure, parts = take_apart(x)
    if structure is None:
        return mode.from_real(x)
    return structure.build(iter([mode.from_real(part) for part in parts])).requires_grad_(x.requires_grad)


def _flat(fn: Callable[..., Any]) -> Callable[..., tuple[Any, ...]]:
    def call(*args: Any) -> tuple[Any, ...]:
        out = fn(*args)
        return tuple(out) if isinstance(out, (tuple, list)) else (out,)

    return call


def _check(gm: fx.GraphModule, stem: str) -> None:
    """Verify and show a graph, as the environment asks."""
    if verify_level():
        from lamina_primops import verify

        verify(gm, "aten")
    artifact(stem, lambda: _text(gm))
    if enabled("aot"):
        log("aot").debug("%s\n%s", stem, _text(gm))


def _text(gm: fx.GraphModule) -> str:
    from lamina_primops import print_graph

    return print_graph(gm)


def _inputs_of(gm: fx.GraphModule) -> list[Any]:
    return [n.meta["val"] for n in gm.graph.nodes if n.op == "placeholder"]


def _compile_inference(joint: Joint, compiler: Compiler, writes: bool) -> Callable[..., Any]:
    gm, signature = joint.graph_module, joint.signature
    if not writes:
        signature.mutations = []
    compiled = compiler(gm, _inputs_of(gm), kind="inference", signature=signature)
    return inference_callable(compiled, signature, writes_inputs=writes)


def _compile_training(
    joint: Joint, fw_compiler: Compiler, bw_compiler: Compiler, partition: Partitioner, eager: Callable[..., Any],
    retrace: Callable[[], Joint] | None,
) -> Callable[..., Any]:
    signature = joint.signature
    writes = getattr(fw_compiler, "supports_input_mutation", False)
    if not writes:
        signature.mutations = []
    forward, backward = partition(joint)
    del joint.graph_module  # nobody reads it again, and it is as large as the two
    _check(forward, "04_aten_forward.py")
    _check(backward, "05_aten_backward.py")
    by_operators = _by_operators(signature, partition, retrace) if retrace is not None else lambda: None
    call, compile_backward = _compile_both(forward, backward, signature, fw_compiler, bw_compiler)
    return training_callable(call, compile_backward, signature, eager, by_operators, writes_inputs=writes)


def _by_operators(signature: GraphSignature, partition: Partitioner, retrace: Callable[[], Joint]) -> Callable[[], Any]:
    """A function that gives the backward run operator by operator, traced once more, or None: gradients of wrapper classes are for a graph that knows none."""

    def make() -> Any:
        if signature.wrappers or signature.made or signature.autocast or signature.repeated or signature.turns_gradients_on:
            return None
        with compilation(), torch.enable_grad(), stage("aot trace"):
            joint = retrace()
            _, backward = partition(joint)
        if joint.signature.saved_sources != signature.saved_sources:
            return None
        return run_graph(backward, (), kind="backward", signature=joint.signature)

    return functools.cache(make)


def _compile_both(
    forward: fx.GraphModule, backward: fx.GraphModule, signature: GraphSignature, fw_compiler: Compiler, bw_compiler: Compiler
) -> tuple[Callable[..., Any], Callable[[], Callable[..., Any]]]:
    """The compiled forward, and a function that gives the compiled backward.

    A compiler with a `prepare` half has its other half, which waits for a C++ compiler, run in threads: the two graphs are built side by
    side, and the program's first forward runs while the backward is still being built. Other backwards are compiled when first needed, with
    symbolic sizes at once: what the compiler asks of them must be among the guards of the entry.
    """
    prepare_forward, prepare_backward = getattr(fw_compiler, "prepare", None), getattr(bw_compiler, "prepare", None)
    if prepare_forward is None or prepare_backward is None:
        compiled = fw_compiler(forward, _inputs_of(forward), kind="forward", signature=signature)

        def later() -> Callable[..., Any]:
            with compilation():
                return bw_compiler(backward, _inputs_of(backward), kind="backward", signature=signature)

        mode = fake_mode_of(*_inputs_of(backward))
        if mode is not None and mode.shape_env is not None:
            ready = later()
            return compiled, lambda: ready
        return compiled, later
    first = _Later(prepare_forward(forward, _inputs_of(forward), kind="forward", signature=signature))
    second = _Later(prepare_backward(backward, _inputs_of(backward), kind="backward", signature=signature))
    return first.result(), second.result


class _Later:
    """The result of a function that runs in a thread of its own; its exception is raised where the result is asked for."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self._value: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="lamina build", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._build()
        except BaseException as error:  # noqa: BLE001 (carried to the thread that asks)
            self._error = error

    def result(self) -> Any:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value


def aot_eager(gm: fx.GraphModule | Callable[..., Any], example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """Backend that runs the functional ATen graphs call by call; a graph that cannot be traced runs as it is, with its reason counted."""
    try:
        return aot_function(gm, example_inputs, fw_compiler=run_graph)
    except Unsupported as reason:
        counters["fallbacks"][f"aot {reason.code}"] += 1
        log("aot").info("runs eagerly: %s", reason)
        return gm.forward if isinstance(gm, fx.GraphModule) else gm


def aot_module(module: torch.nn.Module, example_inputs: Sequence[Any], **options: Any) -> Callable[..., Any]:
    """`aot_function` of a module's forward: parameters and buffers become inputs, and are read from the module at each call.

    Takes tensors, returns what `forward` returns when that is a tensor or a flat tuple.
    """
    places: dict[Tensor, list[str]] = {}  # a tied parameter has several
    for name, tensor in [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]:
        places.setdefault(tensor, []).append(name)
    count = len(places)
    first = [names[0].rpartition(".") for names in places.values()]
    holders = [(module.get_submodule(owner), leaf) for owner, _, leaf in first]
    state = lambda: [getattr(holder, leaf) for holder, leaf in holders]
    single = True

    def program(*flat: Any) -> tuple[Any, ...]:
        nonlocal single
        with _swapped(module, places.values(), flat[:count]):
            out = module(*flat[count:])
        single = not isinstance(out, (tuple, list))
        return (out,) if single else tuple(out)

    compiled = aot_function(program, [*state(), *example_inputs], **options)

    def call(*args: Any) -> Any:
        out = compiled(*state(), *args)
        return out[0] if single else out

    return call


class _swapped:
    """A module with other tensors as its parameters and buffers, while the block runs."""

    def __init__(self, module: torch.nn.Module, places: Iterable[Sequence[str]], values: Sequence[Any]) -> None:
        self._places = []
        for name, value in [(n, v) for names, v in zip(places, values, strict=True) for n in names]:
            owner, _, leaf = name.rpartition(".")
            holder = module.get_submodule(owner)
            table = holder._parameters if leaf in holder._parameters else holder._buffers
            self._places.append((table, leaf, value))

    def __enter__(self) -> None:
        self._before = [(table, leaf, table[leaf]) for table, leaf, _ in self._places]
        for table, leaf, value in self._places:
            table[leaf] = value

    def __exit__(self, *exc: object) -> None:
        for table, leaf, value in self._before:
            table[leaf] = value
