"""`print_graph` and `parse_graph`: a graph of any dialect as Python text that rebuilds it.

Every line carries the type of its value and the user's line it came from:

    # prims dialect 1
    def graph(arg0: "f32[3, 4] (4, 1) cpu"):
        exp: "f32[3, 4] (4, 1) cpu" = torch.ops.lamina.exp.default(arg0)  # model.py:12 in forward
        return (exp,)

The text holds no ids or addresses. Constants are named; their data stays with the module. Types are text: a parsed graph carries them in
`meta["type"]` and, given the values of the placeholders, has `meta["val"]` again (the ops run on fakes).
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lamina_dynshape.support.errors import UserError
from torch import fx

from .frames import stack_line
from .fxtools import add_node, graph_module
from .prims import prim_of
from .symbolic import is_symbolic, size_key

__all__ = ["parse_graph", "print_graph", "type_text"]

_SHORT = {
    torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16", torch.int64: "i64", torch.int32: "i32", torch.int16: "i16",
    torch.int8: "i8", torch.uint8: "u8", torch.bool: "b8", torch.complex64: "c64", torch.complex128: "c128",
}  # fmt: skip
_META = ("source", "role", "fallback")  # text metadata that is printed


def type_text(val: Any) -> str:
    """`f32[3, s0] (s0, 1) cpu` for a tensor, the expression of a size, a tuple of those."""
    if isinstance(val, torch.Tensor):
        sizes, strides = (", ".join(str(size_key(s)) for s in v) for v in (val.shape, val.stride()))
        return f"{_SHORT.get(val.dtype, str(val.dtype))}[{sizes}] ({strides}) {val.device}"
    if isinstance(val, (tuple, list)):
        return f"({', '.join(type_text(v) for v in val)})"
    return f"{type(val).__name__} {size_key(val)}" if is_symbolic(val) or isinstance(val, (int, float)) else type(val).__name__


def print_graph(gm: fx.GraphModule) -> str:
    """Python text of the graph; `parse_graph` rebuilds it."""
    nodes = list(gm.graph.nodes)
    dialect = _dialect(nodes)
    arguments = ", ".join(f"{n.name}: {_annotation(n)!r}" for n in nodes if n.op == "placeholder")
    lines = [f"# {dialect} dialect", f"def graph({arguments}):"]
    lines += [f"    {_line(n)}" for n in nodes if n.op != "placeholder"]
    return "\n".join(lines) + "\n"


def _dialect(nodes: Sequence[fx.Node]) -> str:
    if any(n.op == "call_function" and prim_of(n.target) is not None for n in nodes):
        return "prims"
    calls = [n for n in nodes if n.op in ("call_function", "call_method")]
    aten = all(n.op == "call_function" and (isinstance(n.target, torch._ops.OpOverload) or n.target.__module__ in ("_operator", "math", "torch")) for n in calls)
    return "aten" if aten and not any("source" in n.meta for n in nodes) else "torch"


def _annotation(n: fx.Node) -> str:
    kind = n.meta.get("type") if "val" not in n.meta else type_text(n.meta["val"])
    extra = "".join(f"; {k}={n.meta[k]}" for k in _META if k in n.meta)
    return (kind or "?") + extra


def _line(n: fx.Node) -> str:
    if n.op == "output":
        return f"return {_text(n.args[0])}"
    where = stack_line(n.meta.get("stack", ())) or n.meta.get("line", "")
    if n.op == "get_attr":
        value = f"constant({n.target!r})"
    elif n.op == "call_method":
        value = f"{_text(n.args[0])}.{n.target}({_arguments(n.args[1:], n.kwargs)})"
    else:
        value = f"{_function(n.target)}({_arguments(n.args, n.kwargs)})"
    return f"{n.name}: {_annotation(n)!r} = {value}" + (f"  # {where}" if where else "")


def _arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    return ", ".join([*(_text(a) for a in args), *(f"{k}={_text(v)}" for k, v in kwargs.items())])


def _function(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return f"torch.ops.{target.namespace}.{target._schema.name.partition('::')[2]}.{target._overloadname}"
    if getattr(operator, getattr(target, "__name__", ""), None) is target:
        return f"operator.{target.__name__}"
    if getattr(math, getattr(target, "__name__", ""), None) is target:
        return f"math.{target.__name__}"
    for place, name in ((torch, "torch"), (torch.nn.functional, "torch.nn.functional"), (torch.Tensor, "torch.Tensor"), (torch._C._nn, "torch._C._nn"),
                        (torch.special, "torch.special"), (torch.linalg, "torch.linalg"), (torch.fft, "torch.fft")):  # fmt: skip
        if getattr(place, getattr(target, "__name__", ""), None) is target:
            return f"{name}.{target.__name__}"
    return f"function({getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', target)!s})".replace("(", "('").replace(")", "')")


def _text(a: Any) -> str:
    if isinstance(a, fx.Node):
        return a.name
    if isinstance(a, float) and not math.isfinite(a):
        return f"float('{a}')"
    if isinstance(a, torch.device):
        return f"torch.device('{a}')"
    if isinstance(a, slice):
        return f"slice({_text(a.start)}, {_text(a.stop)}, {_text(a.step)})"
    if isinstance(a, tuple):
        return f"({', '.join(map(_text, a))}{',' if len(a) == 1 else ''})"
    if isinstance(a, list):
        return f"[{', '.join(map(_text, a))}]"
    if isinstance(a, dict):
        return f"{{{', '.join(f'{k!r}: {_text(v)}' for k, v in a.items())}}}"
    return repr(a)


# -- reading ----------------------------------------------------------------------------------------------------------
def parse_graph(
    text: str, *, constants: Mapping[str, torch.Tensor] | None = None, values: Sequence[Any] | None = None, functions: Mapping[str, Any] | None = None
) -> fx.GraphModule:
    """The graph that `print_graph` printed. `constants`: tensors of `constant(...)` lines; `values`: fakes of the placeholders, to have
    `meta["val"]` on every node; `functions`: callables that are not public in torch, by their printed name."""
    tree = ast.parse(text).body
    if len(tree) != 1 or not isinstance(tree[0], ast.FunctionDef):
        raise UserError("the text of a graph is one function definition")
    comments = {i: m.group(1) for i, line in enumerate(text.splitlines(), 1) if (m := re.search(r"  # (\S+:\d+ in \S+)$", line))}
    return _Reader(tree[0], constants or {}, values, functions or {}, comments).read()


class _Reader:
    def __init__(self, tree: ast.FunctionDef, constants: Mapping[str, torch.Tensor], values: Any, functions: Mapping[str, Any], comments: dict[int, str]) -> None:
        self.tree, self.constants, self.values, self.functions, self.comments = tree, constants, values, functions, comments
        self.graph = fx.Graph()
        self.env: dict[str, fx.Node] = {}

    def read(self) -> fx.GraphModule:
        arguments = self.tree.args.args
        for i, a in enumerate(arguments):
            node = self._new(a.arg, "placeholder", a.arg, (), {}, a.annotation)
            if self.values is not None:
                node.meta["val"] = self.values[i]
        for statement in self.tree.body:
            if isinstance(statement, ast.Return):
                self.graph.output(self._value(statement.value))
            elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and isinstance(statement.value, ast.Call):
                self._call(statement.target.id, statement.value, statement)
            else:
                raise UserError(f"line {statement.lineno} of a graph's text is neither a call nor the return")
        if self.values is not None:
            self._run()
        return graph_module(self.graph, dict(self.constants))

    def _new(self, name: str, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], annotation: Any) -> fx.Node:
        node = add_node(self.graph, op, target, args, kwargs, name)
        if node.name != name:
            raise UserError(f"the name {name} is used twice")
        self.env[name] = node
        kind, *extra = annotation.value.split("; ")
        node.meta["type"] = kind
        node.meta.update(e.split("=", 1) for e in extra)
        return node

    def _call(self, name: str, call: ast.Call, statement: ast.AnnAssign) -> None:
        args, kwargs = tuple(self._value(a) for a in call.args), {k.arg: self._value(k.value) for k in call.keywords}
        callee = ast.unparse(call.func)
        if callee == "constant":
            node = self._new(name, "get_attr", args[0], (), {}, statement.annotation)
        elif isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in self.env:
            node = self._new(name, "call_method", call.func.attr, (self._value(call.func.value), *args), kwargs, statement.annotation)
        else:
            node = self._new(name, "call_function", self._resolve(call.func), args, kwargs, statement.annotation)
        if statement.lineno in self.comments:
            node.meta["line"] = self.comments[statement.lineno]

    def _resolve(self, callee: ast.expr) -> Any:
        text = ast.unparse(callee)
        if isinstance(callee, ast.Call):  # function('module.name')
            name = ast.literal_eval(callee.args[0])
            if name not in self.functions:
                raise UserError(f"{name} is not public in torch: pass it in `functions`")
            return self.functions[name]
        root, *path = text.split(".")
        value: Any = {"torch": torch, "operator": operator, "math": math}.get(root)
        for part in path:
            value = getattr(value, part, None)
        if value is None:
            raise UserError(f"unknown function {text}")
        return value

    def _value(self, e: Any) -> Any:
        if isinstance(e, ast.Name):
            return self.env[e.id]
        if isinstance(e, ast.Tuple):
            return tuple(self._value(x) for x in e.elts)
        if isinstance(e, ast.List):
            return [self._value(x) for x in e.elts]
        if isinstance(e, ast.Dict):
            return {ast.literal_eval(k): self._value(v) for k, v in zip(e.keys, e.values, strict=True) if k is not None}
        if isinstance(e, ast.Call):
            args = [self._value(a) for a in e.args]
            return {"float": float, "slice": slice, "torch.device": torch.device}[ast.unparse(e.func)](*args)
        if isinstance(e, ast.Attribute):
            return self._resolve(e)
        return ast.literal_eval(e)

    def _run(self) -> None:
        """Recompute `meta["val"]` by running the ops on the fakes of the placeholders."""
        from lamina_dynshape import fake_mode_of

        mode = fake_mode_of(*self.values)
        with mode:
            for n in self.graph.nodes:
                if n.op == "get_attr":
                    n.meta["val"] = mode.from_real(self.constants[n.target])
                elif n.op in ("call_function", "call_method"):
                    args, kwargs = fx.node.map_arg(n.args, lambda a: a.meta["val"]), fx.node.map_arg(n.kwargs, lambda a: a.meta["val"])
                    n.meta["val"] = getattr(args[0], n.target)(*args[1:], **kwargs) if n.op == "call_method" else n.target(*args, **kwargs)
