"""One capture: the graph being recorded, and all that is known of values met from outside the frame.

Between: the interpreter (which works on real Python values) -> rebuild, side effects, guards.
Keeps:   `sources` knows every outside object with identity, by `id`, and holds it; fakes are the only tensors that the
         interpreter sees; originals are never written to during capture (writes go to overlays and shadows).
"""

from __future__ import annotations

import functools
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from types import CellType
from typing import Any

import torch
from lamina_dynshape import FakeMode, FakeTensor
from lamina_dynshape.expr import Symbol
from lamina_dynshape.sym_node import BoolNode
from torch import fx

from .control import CHECK_FAILED, Checking, DELETED, MISSING, STANDS_FOR, native, unsupported
from .dynamic import Dynamic, DynamicPolicy
from .guards import GuardKind, GuardSet
from .lift import Lifting, _contents, _items
from .locks import Locks
from .protocols import Protocols
from .recorder import Recorder
from .source import ConstantSource, InstanceDictSource, Source

__all__ = ["DELETED", "MISSING", "Capture", "Input"]


class Input:
    """A value that the graph takes from outside: `fake` stands for `real` during capture."""

    __slots__ = ("dynamic", "fake", "node", "real", "role", "source", "spec_guarded")

    def __init__(self, fake: Any, real: Any, source: Source, role: str) -> None:
        self.fake, self.real, self.source, self.role = fake, real, source, role
        self.node: fx.Node | None = None
        self.dynamic: frozenset[int] = frozenset()

    @property
    def storage_key(self) -> int | None:
        """Equal for inputs that share memory; None for a wrapper, whose memory is that of other inputs."""
        return getattr(self.fake, "storage_key", None)


class Capture(Lifting, Protocols, Dynamic):
    """State of one capture of one root frame."""

    def __init__(self, options: Any, policy: DynamicPolicy) -> None:
        self.options = options
        self.policy = policy
        self.graph = fx.Graph()
        self.guards = GuardSet()
        self.mode = FakeMode(allow_unbacked=True)
        self.number_source: dict[str, Source] = {}  # name that the shape environment knows -> where the number is read
        self.symbolic_numbers: dict[str, Any] = {}
        self.named: dict[str, Source] = {}
        self.sources: dict[int, Source] = {}
        self.keep: dict[int, Any] = {}
        self.log_of: dict[int, str] = {}  # those of the next that are taken to be only appended to wherever they are used: id -> name
        self.growing: dict[int, Any] = {}  # by id: outside lists that a loop fills, of which nothing is known
        self.appended: list[tuple[Any, Any]] = []  # (growing list, what the frame appended to it), in order
        self.unroll = False  # loops over symbolic lengths, since the frame cannot break there
        self.opaque: set[int] = set()  # ids of outside objects whose C state cannot be guarded
        self.lifted: dict[int, Any] = {}  # id(outside object) -> what the interpreter sees
        self.inputs: dict[int, Input] = {}  # id(fake) -> input
        self.over_arrays: set[int] = set()  # ids of fakes that stand for tensors made over an array's memory, which have a storage of their own
        self.wrappers: dict[int, Any] = {}  # by id: wrappers around fakes
        self.wrapper_versions: dict[int, int] = {}  # of those from outside, when they came in
        self.wrapper_results: set[int] = set()  # ids of wrappers that nodes yield
        self.view_calls: dict[int, Any] = {}  # by id: views of wrappers: what made them, with which grad mode, which result of it, arguments
        self.inner: dict[int, tuple[Any, str, Any]] = {}  # by id: tensors inside of wrappers that nodes yield: (wrapper, name, tensor)
        self.plain_memory: set[int] = set()  # storage keys of memory that wrappers of the graph share with plain tensors
        self.sealed: set[int] = set()  # storage keys of memory inside wrappers that the graph works on
        self.class_of: dict[int, type] = {}  # id(fake) -> the subclass of Tensor that it stands for an instance of
        self.shadow_of: dict[int, Any] = {}  # id(original container) -> shadow
        self.original_of: dict[int, Any] = {}  # id(shadow) -> original container
        self.pristine: dict[int, Any] = {}  # id(shadow) -> shallow copy at creation, to find what changed
        self.overlay: dict[int, dict[str, Any]] = {}  # id(outside object) -> attributes written
        self.cell_of: dict[int, CellType] = {}  # id(outside cell) -> our cell
        self.own_cells: dict[int, Any] = {}  # id(our cell) -> (cell, outside cell or None, source of contents, contents at first)
        self.own: dict[int, Any] = {}  # id -> functions and objects made in the frame that could be taken for outside ones
        self.globals_overlay: dict[tuple[int, str], Any] = {}
        self.globals_dicts: dict[int, dict[str, Any]] = {}
        self.global_cache: dict[tuple[int, str], Any] = {}
        self.created: dict[int, tuple[Any, int]] = {}  # id -> (object made in the frame that may not be rebuilt, root step)
        self.effects: list[Any] = []  # calls to make after the graph, in program order (see side_effects)
        self.shown: dict[int, int] = {}  # storage key of memory that an open text shows -> root step
        self.frame: Any = None  # innermost interpreter frame
        self.root_globals: dict[str, Any] = {}
        self.step = 0  # root instructions begun
        self.depth = 0
        self.once = False  # what runs now is cached: its effects come once in the life of the process
        self.handled: Any = None  # exception being handled (sys.exc_info)
        self.size_nodes: dict[Any, fx.Node] = {}
        self.told_apart: dict[int, Any] = {}  # id -> what the program compared by identity with others, in a container
        self.type_cache: dict[tuple[type, str], Any] = {}
        self.recorder = Recorder(self)
        self.root_function: Any = None
        self.size_inputs: dict[fx.Node, tuple[Any, int]] = {}
        self.settings: dict[Any, tuple[Any, ...]] = {}  # (setting, key) that the program set -> its value before
        self.hooks: dict[int, Any] = {}  # by id: hooks that the program registered on tensors
        self.hooked: dict[int, Any] = {}  # by id: their tensors
        self.graph_hooks: dict[int, Any] = {}  # by id: hooks that nodes of the graph register
        self.outside_hooks: frozenset[int] = frozenset()  # numbers of registrations that do not go into the graph
        self.hook_count = 0
        self.hooks_stay = False  # handles of hooks on modules are PyTorch's own
        self.module_hooks: list[Any] = []  # handles of hooks that the program registered on modules
        self.autocast_nesting = 0  # contexts entered and not left
        self.inference: list[tuple[Any, bool]] = []  # inference modes entered and not left, with the grad mode before
        self.inference_modes: dict[int, tuple[Any, bool]] = {}  # id -> inference mode made in the frame, whether it is on inside
        self.devices: list[Any] = []  # contexts of a default device, innermost last
        self.entry_devices: tuple[Any, ...] = ()
        self.why_symbolic: dict[str, str] = {}
        self.checks: list[tuple[Any, bool]] = []  # (tensor, truth that the path relies on), checked after the graph
        self.checking = Checking.AFTER
        self.assumed = False  # whether the graph has checks
        self.texts_decide = self.shows_numbers = False  # whether texts of numbers that change are wanted now; whether one was made for later
        self.was_asked = False
        self.locks = Locks()
        self.streams: dict[int, Any] = {}  # id(generator of Python or NumPy) -> what the frame asked of it
        self.generators: dict[int, tuple[Any, Any]] = {}  # id -> (torch.Generator, its state in the graph)
        self.drawn: dict[Any, tuple[Source, bool]] = {}  # symbol of a random number -> where it is read, whether it is of a NumPy type
        self.drawn_range: dict[Any, list[float]] = {}  # symbol of a real random number -> its bounds
        self.fresh_leaves = False  # leaves that the frame makes are made outside of the graph
        self.assigned: dict[int, tuple[Any, Any]] = {}  # by id: inputs whose `.data` the frame assigned, and what it assigned
        self.frozen: dict[int, Any] = {}  # by id: inputs whose gradients the frame turned off
        self.adopted: dict[int, tuple[set[int], int]] = {}  # storage key of memory that a leaf took over -> ids of others that see it, root step
        self.copied_dicts: dict[int, Any] = {}  # by id: outside dictionaries to copy although they are large
        self.asserts_seen = 0
        self.size_of: dict[Any, tuple[fx.Node, int]] = {}  # unbacked symbol -> (result, dimension) that shows it
        self.entry_state: Any = None
        self.left: Any = None  # what of PyTorch's state is otherwise at the end

    # ---- sources -----------------------------------------------------------------------------------------------------
    def source_of(self, obj: Any) -> Source | None:
        return self.sources.get(id(obj))

    def base_source(self, obj: Any) -> Source:
        """The source of an outside object; the object itself, held, where no path is known."""
        return self.sources.get(id(obj)) or ConstantSource(obj)

    def remember(self, obj: Any, source: Source) -> None:
        self.sources[id(obj)] = source
        self.keep[id(obj)] = obj

    def guard(self, source: Source, kind: GuardKind, expected: Any = None) -> None:
        if type(source) is not ConstantSource:
            self.guards.add(source, kind, expected)

    # ---- tensors -----------------------------------------------------------------------------------------------------
    def add_input(self, real: torch.Tensor, source: Source, role: str) -> Any:
        """The fake of an outside tensor; its placeholder appears when the graph first uses it."""
        try:
            if self.recorder.scope is None:
                fake, dims = self.fake_input(real, source, role)
            else:
                fake, dims = _without_transforms(lambda: self.fake_input(real, source, role))
        except (NotImplementedError, RuntimeError) as e:
            unsupported("tensor-kind", "a tensor without ordinary storage", saw=f"{type(e).__name__}: {str(e)[:80]}")
        inp = self.inputs[id(fake)] = Input(fake, real, source, role)
        inp.dynamic = dims
        self.keep[id(fake)] = fake
        self.lifted[id(real)] = fake
        self.keep[id(real)] = real
        return fake

    def is_fake(self, t: Any) -> bool:
        """Whether the interpreter may see this tensor: a fake, or a transform's wrapper of one."""
        return isinstance(t, FakeTensor) or id(t) in self.wrappers or (self.recorder.scope is not None and self.recorder.in_scope(t))

    # ---- symbols -----------------------------------------------------------------------------------------------------
    def bind_symbol(self, value: Any, node: fx.Node) -> None:
        """A node yields this symbolic number."""
        if self.recorder.scope is not None:
            unsupported("functorch", "a symbolic number made under a functorch transform")
        self.size_nodes.setdefault(value.node.expr, node)

    def symbol_node(self, value: Any) -> fx.Node | int:
        """The node of a symbolic number: built from the placeholders of its symbols."""
        from .symbols import node_of_expr

        return node_of_expr(self, value)

    def size_placeholder(self, symbol: Any) -> fx.Node:
        """The `size` input of a backed symbol."""
        if not self.mode.shape_env.symbols[symbol].sources:
            return self._size_of_result(symbol)
        source, value = self.symbol_input(symbol)
        val = self.symbolic_numbers[self.name_of(source)] if type(value) is float else self.mode.shape_env.sym_int(symbol)
        node = self.recorder.placeholder(symbol.name, val, source.name(), "size")
        self.size_inputs[node] = (source, value)
        return node

    def note_sizes(self, t: Any, node: fx.Node) -> None:
        """Sizes that only the running program knows can be read off this result."""
        for d, s in enumerate(t.sizes):
            if isinstance(s, Symbol) and s not in self.size_of and not self.mode.shape_env.symbols[s].sources:
                self.size_of[s] = (node, d)

    def _size_of_result(self, symbol: Any) -> fx.Node:
        if symbol not in self.size_of:
            unsupported("data-dependent-value", "a number that only the running program knows, and that no result shows", saw=str(symbol))
        node = self.graph.create_node("call_method", "size", self.size_of[symbol], {})
        node.meta.update(val=self.mode.shape_env.sym_int(symbol), stack=self.user_stack())
        return node

    def rely_on_asserts(self) -> None:
        """What a shape rule took to hold of unbacked numbers is checked after the graph, and may be known from here on."""
        asserts = self.mode.shape_env.runtime_asserts
        for a in asserts[self.asserts_seen :]:
            if not self.can_check:
                unsupported("data-dependent-size", "a size that must equal another and depends on data", saw=str(a.expr))
            self.check(torch.SymBool(BoolNode(a.expr, self.mode.shape_env)), True)
        self.asserts_seen = len(asserts)

    @property
    def can_check(self) -> bool:
        """Whether the path may rely on a condition that only the running program can decide."""
        written = self.checking is Checking.INSIDE and self.recorder.writes_inputs
        return self.checking is not Checking.NEVER and not written and self.recorder.scope is None

    def check(self, condition: Any, truth: bool) -> None:
        """The path relies on this truth of a tensor or symbolic number; where it does not hold, the original runs in place of all this."""
        if self.checking is Checking.AFTER:
            self.checks.append((condition, truth))
            return
        self.assumed = True
        if isinstance(condition, torch.Tensor):
            held = condition if truth else self.recorder.run(torch.logical_not, (condition,), {})
            self.recorder.emit(torch._assert_async, (held, CHECK_FAILED), {}, None)
        else:
            self.recorder.emit(torch.ops.aten._assert_scalar.default, (condition if truth else torch.sym_not(condition), CHECK_FAILED), {}, None)

    def assert_true(self, condition: torch.SymBool, message: str) -> None:
        """A condition on what only the running program knows: a check in the graph, and known to hold from here on."""
        self.recorder.emit(torch.ops.aten._assert_scalar.default, (condition, message), {}, None)
        native(condition.node.expect_true)
        self.asserts_seen = len(self.mode.shape_env.runtime_asserts)

    def asked_compiling(self) -> bool:
        """The answer to `is_compiling()`."""
        self.was_asked = True
        return self.options.says_compiling

    # ---- where we are ------------------------------------------------------------------------------------------------
    def user_stack(self) -> tuple[Any, ...]:
        """The user's frames, innermost last."""
        return self.frame.location_stack() if self.frame is not None else ()

    def where(self) -> Any:
        """The user's line."""
        from .frames import where_of

        return where_of(self.frame) if self.frame is not None else None

    def changes(self) -> tuple[Any, ...]:
        """Equal for two moments between which the program changed nothing that outlives a call: no operator, no store."""
        shadows = tuple(map(_identities, self.written_containers()))
        cells = tuple(id(_contents(cell)) for cell in self.written_cells())
        return len(self.graph.nodes), len(self.effects), sum(map(len, self.overlay.values())), len(self.globals_overlay), len(self.appended), shadows, cells

    def written_containers(self) -> list[Any]:
        """Shadows of outside containers that hold something else than at first."""
        return [s for s in self.shadow_of.values() if _identities(s) != _identities(self.pristine[id(s)])]

    def written_cells(self) -> list[CellType]:
        """Our cells in place of outside ones that hold something else than at first."""
        return [cell for cell, outside, _, before in self.own_cells.values() if outside is not None and _contents(cell) is not before]

    @property
    def dtype_is_set(self) -> bool:
        """Whether the frame set the default dtype."""
        return bool(self.settings) and any(s.write is torch._C._set_default_dtype for s, _ in self.settings)

    def release(self) -> None:
        """Let go of everything: values of the program that only the capture still holds are freed now, as in eager."""
        self.__dict__.clear()

    # ---- what several modules ask ------------------------------------------------------------------------------------
    def guard_instance_missing(self, src: Source, name: str) -> None:
        """The instance's own dictionary lacks `name`."""
        self.guard(InstanceDictSource(src), GuardKind.NO_KEY, name)

    def path_of(self, v: Any) -> Source | None:
        """How the program reaches an outside value that may be another one at the next call; None for what is ours or held."""
        inp = self.inputs.get(id(v))
        source = inp.source if inp is not None else self.sources.get(id(v))
        return None if type(source) is ConstantSource else source

    def guard_distinct(self, a: Any, b: Any) -> None:
        """Two outside objects are different ones."""
        first, second = self.path_of(a), self.path_of(b)
        if first is not None and second is not None:
            self.guards.add(first, GuardKind.NO_ALIAS, (second,))

    def lift_if_data(self, v: Any, source: Source) -> Any:
        return self.lift(v, source) if isinstance(v, (torch.Tensor, list, dict, set)) else v

    def type_of(self, v: Any) -> type:
        """`type(v)`: fakes and stand-ins say what they stand for."""
        if isinstance(v, torch.Tensor):
            inp = self.inputs.get(id(v))
            return type(inp.real) if inp is not None else self.class_of.get(id(v), torch.Tensor)
        return STANDS_FOR.get(type(v)) or type(v)

    def store_global(self, globals_: dict[str, Any], name: str, value: Any) -> None:
        self.globals_dicts[id(globals_)] = globals_
        self.globals_overlay[id(globals_), name] = value

    def call(self, fn: Any, args: Any, kwargs: dict[str, Any] | None = None) -> Any:
        """Call any callable as the interpreted program would."""
        from .calls import call

        self.call = functools.partial(call, self)  # type: ignore[method-assign]
        return call(self, fn, args, kwargs)


def _identities(items: Any) -> Any:
    """What a container holds, by identity."""
    if isinstance(items, dict):
        return tuple((id(k), id(x)) for k, x in _items(items))
    return frozenset(map(id, set.__iter__(items))) if isinstance(items, set) else tuple(map(id, (deque if isinstance(items, deque) else list).__iter__(items)))


def _without_transforms(make: Any) -> Any:
    """`make()` outside of the functorch transforms that run in this thread, whose stack is the thread's own."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(make).result()
