"""The one place where graph nodes are made: a TorchFunctionMode that runs each call on fakes and writes it down.

Between: any code running during capture (interpreted or native) that calls torch -> the `torch`-dialect graph.
Keeps:   a node exists iff the call yields a tensor or a symbolic number, or changes something; every node has
         `meta["val"]` and `meta["stack"]`; program order is graph order.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections.abc import Iterator
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from lamina_dynshape import FakeTensor
from lamina_dynshape.composites import is_symbolic_refusal, symbolic_form
from lamina_primops.regions import Region
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from .control import InternalError, Unsupported, plain_numbers, refusal, unsupported
from .overrides import overridden
from .tensor_attributes import read_attribute, write_attribute
from .texts import refuse_write
from .wrappers import inner_node, note_result, refuse_sealed, run_on_wrappers, wrapper_node

if TYPE_CHECKING:
    from .session import Capture

MAX_KNOWN = 1 << 16  # elements of a constant that is evaluated at capture
MAX_KNOWN_CALLS = 64
__all__ = ["FUNCTION_RULES", "Recorder", "function_rule"]

FUNCTION_RULES: dict[Any, Any] = {}  # torch function or method -> rule(recorder, func, args, kwargs)
GETTER_RULES: dict[str, Any] = {}  # name of a tensor attribute -> the same

_METHOD_TYPES = (type(torch.Tensor.add), type(torch.Tensor.__len__), type(object.__eq__))
_METHOD_DESCRIPTOR = type(torch._C.TensorBase.add)
_WRAPPER = type(object.__eq__)
_GETTER = type(torch.Tensor.shape.__get__)  # method-wrapper
# What raises for some values of its arguments, and for which programs have handlers: decompositions and inverses.
_MAY_RAISE = frozenset(
    [f for name, f in vars(torch._C._linalg).items() if name.startswith("linalg_") and not name.endswith("_ex")]
    + [getattr(owner, name) for owner in (torch, torch.Tensor) for name in ("cholesky", "cholesky_inverse", "inverse", "logdet", "slogdet", "svd", "pinverse")]
)
_ATOMS = (int, float, bool, str, complex, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format, type(...), type(NotImplemented))
_ATOM_SET = frozenset(_ATOMS)
_REFLECTED = {"__rsub__": operator.sub, "__rtruediv__": operator.truediv, "__rdiv__": operator.truediv, "__rpow__": operator.pow, "__rfloordiv__": operator.floordiv, "__rmod__": operator.mod, "__rmatmul__": operator.matmul}


def function_rule(*functions: Any) -> Any:
    """Register a rule for torch functions as the mode sees them."""

    def register(rule: Any) -> Any:
        for f in functions:
            if f in FUNCTION_RULES:
                raise InternalError(f"second rule for {f}")
            FUNCTION_RULES[f] = rule
        return rule

    return register


class Scope:
    """The graph of a function that a transform calls: recorded apart, on the transform's wrappers of fakes."""

    def __init__(self, parent: Any) -> None:
        self.graph = fx.Graph()
        self.nodes: dict[int, fx.Node] = {}
        self.outside: list[Any] = []  # values of the enclosing graph that the function uses, in the order of their placeholders
        self.held: list[Any] = []
        self.last: fx.Node | None = None  # placeholder
        self.symbols: dict[Any, fx.Node] = {}
        self.parent = parent  # scope, or None
        self.writes = self.impure = False

    def argument(self, value: Any, name: str) -> fx.Node:
        """The placeholder of a value; they come first in the graph."""
        first = next(iter(self.graph.nodes), self.graph._root)
        with self.graph.inserting_after(self.last) if self.last is not None else self.graph.inserting_before(first):
            self.last = node = self.graph.placeholder(name)
        self.nodes[id(value)] = node
        self.held.append(value)
        return node

    def from_outside(self, value: Any) -> fx.Node:
        node = self.argument(value, f"outside{len(self.outside)}")
        self.outside.append(value)
        return node


# What PyTorch takes a Python type for; text of a graph has no name for the type itself.
_DTYPE_OF_TYPE = {int: torch.int64, float: torch.float64, bool: torch.bool, complex: torch.complex128}


class Recorder(TorchFunctionMode):
    """Active while the frame is interpreted."""

    def __init__(self, cap: Capture) -> None:
        super().__init__()
        self.cap = cap
        self.graph = cap.graph
        self.nodes: dict[int, fx.Node] = {}  # id(fake) -> node that yields it
        self.step_of: dict[fx.Node, int] = {}  # node -> root instruction that made it
        self.leaves: set[fx.Node] = set()  # nodes whose results are leaves that require gradients
        self.held: list[Any] = []
        self.regions: list[Region] = []  # checkpointed calls that are being interpreted, outermost first
        self.last_placeholder: fx.Node | None = None
        self.first_size: fx.Node | None = None
        self.mutated: set[int] = set()  # storage keys of fakes written in place
        self.impure = False  # random numbers were drawn, or state was set
        self.caught = False  # an operator was recorded where the program has a handler
        self.raiser: tuple[int, Unsupported] | None = None  # the first such operator that raises for some data: root instruction, and why to break there
        self.scope: Scope | None = None  # innermost function under a transform that is being recorded
        self.ended: dict[int, Any] = {}  # wrappers that outlived their transform
        self.is_paused = False  # PyTorch's own code of a transform runs: nothing is recorded
        self.modes: list[Any] = []  # the program's modes, innermost last
        self.is_direct = not torch._C._is_torch_function_enabled()  # overrides of arguments are not asked
        self.switched: list[int] = []  # root steps at which the modes and switches that are open now were entered
        self.read: dict[int, Any] = {}  # id(fake) -> number, of the tensors that the C++ of the operator that runs read as numbers
        self.failure: Exception | None = None  # the last exception of an operator on fakes, whose text is not eager's

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.is_paused:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        if self.modes or types or self.cap.class_of:
            out = overridden(self, func, args, kwargs)
            if out is not NotImplemented:
                return out
        kwargs = kwargs or {}
        if type(kwargs.get("generator")) is torch.Generator:
            from .rules.torch_generators import draw_with

            return draw_with(self, func, args, kwargs)
        if self.cap.devices:
            from .rules.contexts import with_default_device

            kwargs = with_default_device(self.cap, func, kwargs)
        rule = FUNCTION_RULES.get(func)
        if rule is None and type(func) is _GETTER:
            name, owner = func.__name__, func.__self__
            if name == "__get__":
                rule = GETTER_RULES.get(owner.__name__, read_attribute)
            elif name == "__set__":
                rule = write_attribute
        if self.cap.wrappers and self._has_wrapper((*args, *kwargs.values())):
            return run_on_wrappers(self, func, args, kwargs, rule)
        if rule is not None:
            return rule(self, func, args, kwargs)
        return self.run(func, args, kwargs)

    def is_overridden(self, t: Any) -> bool:
        """Whether a question about this tensor is the program's to answer."""
        return bool(self.modes) or not self.is_direct and id(t) in self.cap.class_of

    def _has_wrapper(self, values: Any) -> bool:
        return any(self._has_wrapper(v) if type(v) in (tuple, list) else id(v) in self.cap.wrappers for v in values)

    # ---- functions under a transform -----------------------------------------------------------------------------------
    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """PyTorch's own code runs: what it calls is not the program's."""
        before, self.is_paused = self.is_paused, True
        try:
            yield
        finally:
            self.is_paused = before

    @contextlib.contextmanager
    def resumed(self, scope: Scope) -> Iterator[None]:
        """The program's function runs; what it calls goes into the scope's graph."""
        before = self.graph, self.nodes, self.scope, self.is_paused, self.impure
        self.graph, self.nodes, self.scope, self.is_paused, self.impure = scope.graph, scope.nodes, scope, False, False
        try:
            yield
        finally:
            scope.impure = self.impure
            outside = {id(t) for t in scope.outside}
            self.ended.update((id(t), t) for t in scope.held if id(t) not in outside)
            self.graph, self.nodes, self.scope, self.is_paused, self.impure = before

    def in_scope(self, t: Any) -> bool:
        """Whether a tensor was made by a function under a transform, or is its argument."""
        scope = self.scope
        while scope is not None:
            if id(t) in scope.nodes:
                return True
            scope = scope.parent
        return False

    # ---- running -----------------------------------------------------------------------------------------------------
    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call on fakes and record."""
        try:
            func, args, kwargs, out = self._run_on_fakes(func, args, kwargs)
        except (RuntimeError, IndexError, ValueError) as error:
            self.failure = error
            raise
        if self.cap.dtype_is_set:
            from .rules.settings import settled_dtype

            args, kwargs = settled_dtype(self, func, args, kwargs, out)
        noted = self.note(func, args, kwargs, out)
        if self.cap.mode.shape_env is not None:
            self.cap.rely_on_asserts()
        return noted

    def _run_on_fakes(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, Any, Any, Any]:
        """(function, arguments as they are to be recorded, result)."""
        self.read.clear()
        if self.cap.has_outside_tensor(args) or (kwargs and self.cap.has_outside_tensor(tuple(kwargs.values()))):
            args, kwargs = self.cap.lift_arguments(args, kwargs)
        run = symbolic_form(func)
        try:
            with torch._C.DisableTorchFunctionSubclass():
                out = run(*args, **kwargs)
        except RuntimeError as error:
            if not is_symbolic_refusal(error):
                raise
            args, kwargs = plain_numbers((args, kwargs))
            out = self._run_on_plain_numbers(func, args, kwargs)
        if self.read:  # sizes given as tensors
            args, kwargs = fx.node.map_aggregate((args, kwargs), lambda a: self.read.get(id(a), a))
            self.read.clear()
        return func, args, kwargs, out

    def _run_on_plain_numbers(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operator whose C++ has no symbolic sizes in its signature, with values for those given; the sizes of its tensors may still be too much."""
        try:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        except RuntimeError as error:
            if not is_symbolic_refusal(error):
                raise
        unsupported("symbolic-operator", "an operator whose C++ takes no symbolic sizes", saw=func.__name__, hint="mark_static, or dynamic=False")

    # ---- known values ------------------------------------------------------------------------------------------------
    def number(self, t: Any) -> Any:
        """The number in a tensor computed from constants and sizes alone, else None: `item()` of it and branches on it are no break."""
        node = self.nodes.get(id(t)) if self.scope is None and t.numel() == 1 else None
        if node is None:
            return None
        known = self._constant(node)
        return self._of_sizes(node) if known is None else known

    def read_number(self, t: Any) -> Any:
        """The number in a tensor that C++ reads where it takes a size, else None."""
        number = self.number(t)
        if number is not None:
            self.read[id(t)] = number
        return number

    def _constant(self, node: fx.Node) -> Any:
        """The Python number that a node yields whatever the inputs, else None."""
        nodes: dict[fx.Node, Any] = {}
        if not self._is_constant(node, nodes):
            return None
        with torch._C.DisableTorchFunction(), _disable_current_modes(), torch.no_grad():
            for n in nodes:
                args, kwargs = fx.node.map_arg(n.args, nodes.__getitem__), fx.node.map_arg(n.kwargs, nodes.__getitem__)
                nodes[n] = n.target(*args, **kwargs) if n.op == "call_function" else getattr(args[0], n.target)(*args[1:], **kwargs)
            return nodes[node].item()

    def _of_sizes(self, node: fx.Node) -> Any:
        """The symbolic number in an integer (or truth) computed from sizes: `torch.tensor(x.shape[0]) - 1`; None elsewhere."""
        val = node.meta["val"]
        if isinstance(val, (torch.SymInt, int)):
            return val
        if not isinstance(val, FakeTensor) or val.dim() or val.storage_key in self.mutated or val.dtype not in (torch.int64, torch.bool):
            return None
        if node.target is torch.scalar_tensor:
            return self._of_sizes(node.args[0]) if isinstance(node.args[0], fx.Node) else node.args[0]
        name, rounding = str(getattr(node.target, "__name__", node.target)).strip("_"), node.kwargs.get("rounding_mode")
        function = _DIVISIONS.get(rounding) if name == "div" else _ON_SIZES.get(name)
        if function is None or node.kwargs.keys() - {"rounding_mode"}:
            return self._constant(node)
        args = [self._of_sizes(a) if isinstance(a, fx.Node) else a for a in node.args]
        return function(*args) if all(isinstance(a, (torch.SymInt, int)) for a in args) else None

    def _is_constant(self, node: fx.Node, found: dict[fx.Node, Any]) -> bool:
        """Whether a node follows from no input, no random number and no memory written; collects what it needs, in order."""
        if node in found:
            return True
        name, val = getattr(node.target, "__name__", str(node.target)), node.meta["val"]
        if node.op not in ("call_function", "call_method") or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) or "rand" in name or "drop" in name or _draws(name) or name in _UNDEFINED or len(found) > MAX_KNOWN_CALLS:
            return False
        if isinstance(val, FakeTensor) and (val.storage_key in self.mutated or any(type(s) is not int for s in val.sizes) or val.numel() > MAX_KNOWN):
            return False
        if all(self._is_constant(n, found) for n in node.all_input_nodes):
            found[node] = None
            return True
        return False

    def note(self, func: Any, args: Any, kwargs: Any, out: Any, *, allowed: bool = False) -> Any:
        """Record a call that gave `out`; -> `out` with every tensor a fake. `allowed`: a function that is not PyTorch's."""
        name = getattr(func, "__name__", "")
        if not _has_value(out):
            if name.endswith("_") and name not in _PURE_DUNDERS and (out is None or name in _WRITING_DUNDERS):
                self.emit(func, args, kwargs, None)
                self.written([args[i] for i in _written_arguments(name) if i < len(args)])
            return out
        if type(out) is torch.Tensor and self.scope is None:
            out = self.cap.lift_constant(out)
        if name in _WRITES_STATISTICS:
            self.written([*args[1:3], *[kwargs.get(k) for k in ("running_mean", "running_var")]])
        if "out" in kwargs:
            self.written(kwargs["out"])
        if allowed and any(type(a) is type and a in _DTYPE_OF_TYPE for a in (*args, *kwargs.values())):
            unsupported("graph-argument", "a Python type as an argument of a function that is allowed in the graph", saw=name)
        if "rand" in name or _draws(name) or "drop" in name and kwargs.get("training", args[2] if len(args) > 2 else True):
            self.impure = True
        node = self.emit(func, args, kwargs, out)
        if allowed:
            node.meta["allowed"] = True
        if _is_tensor(out):
            if id(out) in self.nodes or id(out) in self.cap.inputs:
                if name.endswith("_"):
                    self.written([out, *[args[i] for i in _written_arguments(name) if i < len(args)]])
                if id(out) in self.cap.inputs:
                    return out  # an input returned as it is keeps its placeholder
                self.nodes[id(out)] = node
            else:
                self._bind(out, node)
            if out.requires_grad and self.scope is None and out.is_leaf:
                self._note_leaf(out, node)
        else:
            self.bind_parts(node, out)
        return out

    def _note_leaf(self, t: Any, node: fx.Node) -> None:
        if not self.cap.fresh_leaves:
            self.leaves.add(node)
            return
        from .rules.leaves import adopt

        adopt(self, t, node)

    def _bind(self, t: Any, node: fx.Node) -> None:
        self.nodes[id(t)] = node
        (self.held if self.scope is None else self.scope.held).append(t)
        if self.scope is not None:
            return
        if not isinstance(t, FakeTensor):
            note_result(self, t)
        elif self.cap.mode.shape_env is not None:
            self.cap.note_sizes(t, node)

    def written(self, v: Any) -> None:
        """Note that memory of these tensors was written."""
        if isinstance(v, FakeTensor):
            if v.storage_key in self.cap.shown:
                refuse_write(self.cap, v.storage_key)
            if self.cap.sealed:
                refuse_sealed(self.cap, v)
            self.mutated.add(v.storage_key)
        elif isinstance(v, torch.Tensor) and self.scope is not None:  # a transform's wrapper: of which tensor is not told
            self.scope.writes = True
        elif isinstance(v, (list, tuple)):
            for x in v:
                self.written(x)

    @property
    def writes_inputs(self) -> bool:
        """Whether memory of an input was written."""
        return bool(self.mutated) and any(inp.storage_key in self.mutated for inp in self.cap.inputs.values())

    def bind_parts(self, node: fx.Node, out: Any) -> None:
        """Give each tensor of a structured result its own node."""
        if isinstance(out, (tuple, list)):
            for i, part in enumerate(out):
                self._bind_part(node, part, i)
        elif isinstance(out, dict):
            for k, part in out.items():
                self._bind_part(node, part, k)
        elif isinstance(out, torch.SymInt | torch.SymFloat | torch.SymBool):
            self.cap.bind_symbol(out, node)

    def _bind_part(self, node: fx.Node, part: Any, key: Any) -> None:
        if not _has_value(part) or (_is_tensor(part) and (id(part) in self.nodes or id(part) in self.cap.inputs)):
            return
        item = self.graph.create_node("call_function", operator.getitem, (node, key), {})
        item.meta["val"] = part
        item.meta["stack"] = node.meta["stack"]
        if _is_tensor(part):
            self._bind(part, item)
        else:
            self.bind_parts(item, part)

    def _note_caught(self, func: Any) -> None:
        """What an operator raises when the graph runs may be the program's to handle."""
        if self.cap.frame is None or not self.cap.frame.catches():
            return
        self.caught = True
        if self.raiser is None and func in _MAY_RAISE:
            why = refusal("operator-error", "an operator that may raise, handled by the program, in a graph that changes what the program sees", saw=func.__name__, hint="write to memory from outside after the handler, or call it outside")
            why.where = self.cap.where()
            self.raiser = self.cap.step, why

    def emit(self, func: Any, args: Any, kwargs: Any, out: Any) -> fx.Node:
        """Append the node of a call."""
        nargs = tuple([self.arg(a) for a in args])
        nkwargs = {k: self.arg(v) for k, v in kwargs.items()} if kwargs else {}
        kind, target = "call_function", func
        t = type(func)
        method = func.__name__ if t is _METHOD_DESCRIPTOR or t is _WRAPPER else _PYTHON_METHODS.get(func) if t is FunctionType else None
        if method is not None:
            name = method
            if name in _REFLECTED:
                target, nargs = _REFLECTED[name], nargs[::-1]
            elif name == "__setitem__":
                target = operator.setitem
            elif name == "__getitem__":
                target = operator.getitem
            else:
                kind, target = "call_method", name
        elif t is _GETTER:
            target, nargs = getattr, (*nargs, func.__self__.__name__)
        node = self.graph.create_node(kind, target, nargs, nkwargs)
        node.meta["val"] = out
        node.meta["stack"] = self.cap.user_stack()
        if not self.caught or self.raiser is None and func in _MAY_RAISE:
            self._note_caught(func)
        self.step_of[node] = self.cap.step
        if self.regions:
            node.meta["checkpoint"] = tuple(self.regions)
        if self.cap.assigned:
            from .rules.leaves import refuse_assigned

            refuse_assigned(self.cap, node, (*args, *kwargs.values()))
        if self.cap.hooked:
            from .rules.hooks import refuse_use

            refuse_use(self, node, (*args, *kwargs.values()))
        return node

    # ---- arguments ---------------------------------------------------------------------------------------------------
    def arg(self, v: Any) -> Any:
        """A value as an argument of a node."""
        t = type(v)
        if t in _ATOM_SET:
            return v
        if t is tuple:
            return tuple([self.arg(x) for x in v])
        if t is list:
            return [self.arg(x) for x in v]
        if isinstance(v, torch.Tensor):
            return self.node_of(v)
        if t is torch.Size:
            return tuple([self.arg(x) for x in v])
        if isinstance(v, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self.cap.symbol_node(v) if self.scope is None else self._symbol_in_scope(self.scope, v)
        if t is slice:
            return slice(self.arg(v.start), self.arg(v.stop), self.arg(v.step))
        if t is dict:
            return {k: self.arg(x) for k, x in v.items()}
        if t is range:
            return list(v)
        if isinstance(v, tuple):
            return tuple([self.arg(x) for x in v])
        if isinstance(v, (int, float, str)) and not isinstance(v, type):
            for plain in (bool, int, float, str):
                if isinstance(v, plain):
                    return plain(v)
        if isinstance(v, list):
            return [self.arg(x) for x in v]
        if t is type and v in _DTYPE_OF_TYPE:
            return _DTYPE_OF_TYPE[v]
        if callable(v) or isinstance(v, type):
            return v
        scalar = getattr(v, "item", None)
        if t.__module__ == "numpy" and scalar is not None and getattr(v, "shape", None) == ():
            return v.item()
        unsupported("graph-argument", "a value that no graph node can take as an argument", saw=t.__qualname__)

    def _symbol_in_scope(self, scope: Scope, v: Any) -> Any:
        """A symbolic number is an operand from outside, once."""
        key = str(v)
        found = scope.symbols.get(key)
        if found is None:
            found = scope.symbols[key] = scope.from_outside(v)
        return found

    def node_of(self, t: Any) -> fx.Node:
        """The node that yields a fake; makes the placeholder of an input at its first use."""
        if self.cap.adopted and isinstance(t, FakeTensor) and t.storage_key in self.cap.adopted:
            from .rules.leaves import refuse_adopted

            refuse_adopted(self.cap, t)
        found = self.nodes.get(id(t))
        if found is not None:
            return found
        if self.scope is not None:
            if not (isinstance(t, FakeTensor) or self.in_scope(t)):
                t = self.cap.lift_constant(t)
                found = self.nodes.get(id(t))
            return found or self.scope.from_outside(t)
        if id(t) in self.cap.inner:
            return inner_node(self, t)
        if id(t) in self.cap.wrappers:
            return wrapper_node(self, t)
        inp = self.cap.inputs.get(id(t))
        if inp is None:
            inp = self.cap.inputs.get(id(self.cap.lift_constant(t)))
            if inp is None:
                unsupported("unrecorded-tensor", "a tensor made by a call that was not recorded", saw=self.cap.describe(t))
        if inp.node is None:
            inp.node = self.placeholder(_placeholder_name(inp.source.name()), inp.fake, inp.source.name(), inp.role)
        return inp.node

    def placeholder(self, name: str, val: Any, source: str, role: str) -> fx.Node:
        first = next(iter(self.graph.nodes), None)
        anchor = self.last_placeholder or self.first_size
        if anchor is not None and role != "size":
            where = self.graph.inserting_after(anchor)
        elif first is not None and first.op != "root":
            where = self.graph.inserting_before(first)
        else:
            where = None
        if where is None:
            node = self.graph.create_node("placeholder", name, (), {})
        else:
            with where:
                node = self.graph.create_node("placeholder", name, (), {})
        node.target = node.name
        if role != "size":
            self.last_placeholder = node
        elif self.first_size is None:
            self.first_size = node  # sizes are put in front, so this stays the last of them
        node.meta.update(val=val, source=source, role=role, stack=())
        return node


_PYTHON_METHODS = {v: k for k, v in sorted(vars(torch.Tensor).items()) if type(v) is FunctionType}
_WRITES_STATISTICS = frozenset({"batch_norm", "instance_norm", "native_batch_norm"})
_RANDOM = frozenset({"scaled_dot_product_attention", "gumbel_softmax", "multi_head_attention_forward"})  # next to operators that PyTorch tags
_ON_SIZES = {
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "neg", "floordiv", "mod", "eq", "ne", "lt", "le", "gt", "ge")},
    **dict.fromkeys(("min", "minimum"), torch.sym_min), **dict.fromkeys(("max", "maximum"), torch.sym_max), "floor_divide": operator.floordiv, "remainder": operator.mod,
}  # fmt: skip
_DIVISIONS = {"floor": operator.floordiv, "trunc": lambda a, b: a // b if (a >= 0) == (b >= 0) else -(-a // b)}
_UNDEFINED = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted"})
_PURE_DUNDERS = frozenset({"__len__", "__bool__", "__contains__", "__repr__", "__format__", "__hash__", "__int__", "__float__", "__index__", "__get__", "__reversed__", "__iter__", "__dir__", "__str__", "__complex__"})
_WRITING_DUNDERS = frozenset({"__setitem__"})


@functools.cache
def _draws(name: str) -> bool:
    """Whether a function of this name draws random numbers; of dropouts it depends on their arguments."""
    packet = None if name.startswith("__") or "drop" in name else getattr(torch.ops.aten, name, None)
    return name in _RANDOM or packet is not None and any(torch.Tag.nondeterministic_seeded in getattr(packet, o).tags for o in packet.overloads())


@functools.cache
def _written_arguments(name: str) -> tuple[int, ...]:
    """Positions of the arguments that a function which is named as one that writes may write."""
    packet = None if name.startswith("__") else getattr(torch.ops.aten, name, None)
    schemas = [getattr(packet, overload)._schema for overload in packet.overloads()] if packet is not None else []
    found = {i for s in schemas for i, a in enumerate(s.arguments) if a.alias_info is not None and a.alias_info.is_write}
    return tuple(sorted(found | {0}))


def _is_tensor(v: Any) -> bool:
    return isinstance(v, torch.Tensor)


def _has_value(out: Any) -> bool:
    """Whether a result holds a tensor or symbolic number."""
    t = type(out)
    if t in _ATOM_SET:
        return False
    if isinstance(out, (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool)):
        return True
    if t is torch.Size:
        return False
    if isinstance(out, (tuple, list)):
        return any(_has_value(x) for x in out)
    return isinstance(out, dict) and any(_has_value(x) for x in out.values())


def _placeholder_name(source: str) -> str:
    out = "".join(c if c.isalnum() else "_" for c in source.replace("L['", "").replace("']", "_"))
    out = "_".join(p for p in out.split("_") if p)
    return out if out and not out[0].isdigit() else f"arg_{out}"
