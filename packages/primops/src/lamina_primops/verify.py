"""`verify(gm, dialect)`: checks a graph against the rules of its dialect and names the first offending node, its rule and the user's line.

Rules are a table: `RULES` lists (name, dialects, function). A rule looks at one node and returns what is wrong, or None.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lamina_dynshape.support.errors import UserError, VerifyError
from torch import fx

from .dialects import DIALECTS, ROLES, TENSOR_GLUE, is_symbolic_function
from .frames import stack_line
from .fxtools import all_arguments
from .prims import Spec, prim_of
from .symbolic import is_symbolic, known_equal, size_key
from .wrappers import take_apart

__all__ = ["RULES", "Rule", "verify"]


@dataclass
class _Context:
    gm: fx.GraphModule
    dialect: str
    seen: set[fx.Node] = field(default_factory=set)
    phase: int = 0  # 0 inputs, 1 calls, 2 after the output
    sized: bool = False  # a placeholder that is no size was met


@dataclass(frozen=True)
class Rule:
    """One rule: `check(node, context)` returns what is wrong with the node, or None."""

    name: str
    dialects: tuple[str, ...]
    check: Callable[[fx.Node, _Context], str | None]


RULES: list[Rule] = []


def _rule(*dialects: str) -> Callable[[Callable[..., str | None]], Callable[..., str | None]]:
    def add(check: Callable[[fx.Node, _Context], str | None]) -> Callable[[fx.Node, _Context], str | None]:
        RULES.append(Rule(check.__name__.strip("_").replace("_", " "), dialects or DIALECTS, check))
        return check

    return add


def verify(gm: fx.GraphModule, dialect: str) -> None:
    """Raise `VerifyError` unless every node of `gm` keeps every rule of `dialect`."""
    if dialect not in DIALECTS:
        raise UserError(f"unknown dialect {dialect!r}; one of {', '.join(DIALECTS)}")
    rules = [r for r in RULES if dialect in r.dialects]
    context = _Context(gm, dialect)
    for node in gm.graph.nodes:
        for rule in rules:
            if reason := rule.check(node, context):
                raise VerifyError(_message(node, dialect, rule, reason))
        context.seen.add(node)
    if context.phase != 2:
        raise VerifyError(f"dialect {dialect}, rule `one output`: the graph has no output")


def _message(node: fx.Node, dialect: str, rule: Rule, reason: str) -> str:
    lines = [f"dialect {dialect}, rule `{rule.name}`: {reason}", f"  node: {_describe(node)}"]
    lines += [f"  reads: {_describe(a)}" for a in dict.fromkeys(node.all_input_nodes)]
    if where := stack_line(node.meta.get("stack", ())):
        lines.append(f"  from: {where}   {node.meta['stack'][-1].text.strip()}".rstrip())
    return "\n".join(lines)


def _describe(node: fx.Node) -> str:
    return f"%{node.name} = {node.op} {node.target}{node.args!r}{node.kwargs or ''}"[:400]


def _values(val: Any) -> Iterable[Any]:
    return val if isinstance(val, (tuple, list)) else (val,)


@_rule()
def inputs_come_first(node: fx.Node, c: _Context) -> str | None:
    """Placeholders, then calls, then one output."""
    phase = 0 if node.op == "placeholder" else 2 if node.op == "output" else c.phase if node.op == "get_attr" else 1
    if c.phase == 2:
        return "a node follows the output"
    if phase < c.phase:
        return "a placeholder follows a call"
    c.phase = max(c.phase, phase)
    return None


@_rule()
def operands_are_defined_before(node: fx.Node, c: _Context) -> str | None:
    """Every operand is an earlier node of the same graph."""
    for a in node.all_input_nodes:
        if a not in c.seen:
            return f"%{a.name} is used before it is defined"
    return None


@_rule()
def sizes_are_nodes(node: fx.Node, c: _Context) -> str | None:
    """No raw symbolic number among the arguments."""
    for a in all_arguments((node.args, node.kwargs)):
        if is_symbolic(a):
            return f"the symbolic number {a} is an argument; it must be a node"
    return None


@_rule()
def values_are_described(node: fx.Node, c: _Context) -> str | None:
    """`meta["val"]` on every node that yields a value: fakes, symbolic numbers, plain numbers, or a tuple of those."""
    if node.op == "output":
        return None
    if "val" not in node.meta:
        return 'the node has no meta["val"]'
    for v in all_arguments(node.meta["val"]) if c.dialect == "torch" else _values(node.meta["val"]):
        if isinstance(v, torch.Tensor) and any(getattr(x, "fake_mode", None) is None for x in (take_apart(v)[1] if c.dialect == "torch" else (v,))):
            return 'meta["val"] holds a real tensor, not a fake one'
    return None


@_rule()
def output_is_flat(node: fx.Node, c: _Context) -> str | None:
    """The output is one tuple of nodes, numbers and None."""
    if node.op != "output":
        return None
    if len(node.args) != 1 or not isinstance(node.args[0], (tuple, list)):
        return "the output is not one tuple"
    for a in node.args[0]:
        if not (a is None or isinstance(a, (fx.Node, int, float, bool, complex))):
            return f"the output holds a {type(a).__name__}"
        if isinstance(a, fx.Node) and isinstance(a.meta.get("val"), (tuple, list)):
            return f"the output holds %{a.name}, which yields several values"
    return None


@_rule()
def constants_are_tensors(node: fx.Node, c: _Context) -> str | None:
    """`get_attr` reads a tensor of the module."""
    if node.op != "get_attr":
        return None
    value: Any = c.gm
    for part in str(node.target).split("."):
        value = getattr(value, part, None)
    return None if isinstance(value, torch.Tensor) else f"{node.target} is not a tensor constant of the module"


# -- torch ------------------------------------------------------------------------------------------------------------
@_rule("torch")
def inputs_have_a_source_and_role(node: fx.Node, c: _Context) -> str | None:
    """Every placeholder says how the frame reaches it and what it is."""
    if node.op != "placeholder":
        return None
    if not isinstance(node.meta.get("source"), str) or not node.meta["source"]:
        return 'the placeholder has no meta["source"]'
    if node.meta.get("role") not in ROLES:
        return f"role {node.meta.get('role')!r} is not one of {', '.join(ROLES)}"
    return None


@_rule("torch")
def sizes_come_first(node: fx.Node, c: _Context) -> str | None:
    """`size` placeholders precede the others and hold a symbolic number."""
    if node.op != "placeholder":
        return None
    if node.meta["role"] != "size":
        c.sized = True
        return None
    if c.sized:
        return "a size follows other inputs"
    return None if isinstance(node.meta["val"], (torch.SymInt, torch.SymFloat, int)) else "a size is not a number"


@_rule("torch")
def calls_are_public(node: fx.Node, c: _Context) -> str | None:
    """Functions of torch, operator, math; methods of tensors; no modules."""
    if node.op == "call_module":
        return "modules are inlined in this dialect"
    if node.op == "call_method":
        return None if hasattr(torch.Tensor, str(node.target)) or hasattr(torch.SymInt, str(node.target)) else f"tensors have no method {node.target}"
    if node.op != "call_function":
        return None
    if isinstance(node.target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)) or is_symbolic_function(node.target):
        return None
    module = getattr(node.target, "__module__", None) or getattr(getattr(node.target, "__objclass__", None), "__module__", "") or ""
    if module.split(".")[0] in ("torch", "_operator", "operator", "math", "builtins") or isinstance(node.target, type(torch.Tensor.add)):
        return None
    if node.meta.get("allowed"):  # allow_in_graph: the user vouches for it
        return None
    return f"{module}.{getattr(node.target, '__name__', node.target)} is not a function of torch, operator or math"


@_rule("torch")
def calls_have_a_stack(node: fx.Node, c: _Context) -> str | None:
    """The user's lines are on every call."""
    if node.op in ("call_function", "call_method") and not isinstance(node.meta.get("stack"), tuple):
        return 'the call has no meta["stack"]'
    return None


# -- aten and prims -----------------------------------------------------------------------------------------------------
@_rule("aten", "prims")
def nodes_are_operator_calls(node: fx.Node, c: _Context) -> str | None:
    """Only placeholders, constants, `OpOverload` calls and arithmetic on sizes."""
    if node.op in ("call_method", "call_module"):
        return f"{node.op} is not part of the dialect"
    if node.op != "call_function" or isinstance(node.target, torch._ops.OpOverload) or node.target is operator.getitem or is_symbolic_function(node.target):
        return None
    return f"{node.target} is neither an operator overload nor arithmetic on sizes"


@_rule("aten", "prims")
def calls_are_functional(node: fx.Node, c: _Context) -> str | None:
    """No in-place, `out=` or other mutating overloads."""
    if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
        return f"{node.target} mutates an argument"
    return None


@_rule("aten", "prims")
def arguments_fit_the_schema(node: fx.Node, c: _Context) -> str | None:
    """As many arguments as the schema has, keywords that it knows, nodes with tensors where it wants tensors."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    schema = node.target._schema.arguments
    if len(node.args) > len(schema):
        return f"{len(node.args)} arguments for {len(schema)} parameters"
    names = [a.name for a in schema]
    for k in node.kwargs:
        if k not in names:
            return f"no parameter {k!r}"
    for a, p in zip(node.args, schema, strict=False):
        if _is_tensor_type(p.type) and not isinstance(a.meta.get("val") if isinstance(a, fx.Node) else a, _TENSOR_ARGUMENTS):
            return f"parameter {p.name} is a tensor, the argument is {a!r}"
    missing = [p.name for p in schema[len(node.args) :] if not p.has_default_value() and p.name not in node.kwargs]
    return f"parameters without argument: {', '.join(missing)}" if missing else None


def _is_tensor_type(t: Any) -> bool:
    return t is _TENSOR or t.kind() == "TensorType"


_TENSOR = torch._C.TensorType.get()
# A number where a tensor is wanted is a wrapped number: it takes part in type promotion as one.
_TENSOR_ARGUMENTS = (torch.Tensor, int, float, bool, complex, torch.SymInt, torch.SymFloat, torch.SymBool)


@_rule("prims")
def ops_are_in_the_closed_set(node: fx.Node, c: _Context) -> str | None:
    """Prims, arithmetic on sizes, or ATen calls that say why they are there."""
    if node.op != "call_function" or node.target in TENSOR_GLUE or is_symbolic_function(node.target) or prim_of(node.target) is not None:
        return None
    if isinstance(node.target, torch._ops.OpOverload) and isinstance(node.meta.get("fallback"), str) and node.meta["fallback"]:
        return None
    return f'{node.target} is not a prim and has no meta["fallback"]'


@_rule("prims")
def results_follow_the_meta_rule(node: fx.Node, c: _Context) -> str | None:
    """Shape, dtype and device of a prim are what its meta rule derives from the operands. Strides are free, except those of `restride`."""
    prim = prim_of(node.target) if node.op == "call_function" else None
    if prim is None:
        return None
    if node.kwargs:
        return "prims take all arguments by position"
    try:
        specs = prim.meta(*fx.node.map_arg(list(node.args), lambda n: n.meta["val"]))
    except (TypeError, ValueError) as e:
        return str(e)
    specs, vals = (specs,) if isinstance(specs, Spec) else specs, tuple(_values(node.meta["val"]))
    if len(specs) != len(vals):
        return f"{len(vals)} values, the meta rule gives {len(specs)}"
    for s, v in zip(specs, vals, strict=True):
        have, want = (_keys(v.shape), v.dtype, v.device), (_keys(s.shape), s.dtype, s.device)
        if have != want and not (have[1:] == want[1:] and _equal(v.shape, s.shape)):
            return f'meta["val"] says {_text(*have)}, the meta rule {_text(*want)}'
        if prim.name == "restride" and not _equal(v.stride(), s.strides):
            return f'meta["val"] has strides {_keys(v.stride())}, the arguments {_keys(s.strides)}'
    return None


def _equal(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(map(known_equal, a, b))


def _keys(sizes: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(size_key(s) for s in sizes)


def _text(shape: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> str:
    return f"{str(dtype).removeprefix('torch.')}[{', '.join(map(str, shape))}] {device}"
