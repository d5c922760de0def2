"""Shape conditions -> code of the native stack machine.

Between: `ShapeCondition` (Python text over named numbers) -> [(op, argument)] for `shape_holds` in program.h.
Keeps:   the result is 0 or 1; arithmetic that overflows 64 bits or divides by zero makes the condition false.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

from ..guards import ShapeCondition
from ..source import Source

__all__ = ["compile_condition"]

# Order as in ShapeOp of program.h.
_OPS = ("CONST", "LEAF", "ADD", "SUB", "MUL", "FLOORDIV", "MOD", "NEG", "MIN", "MAX", "EQ", "NE", "LT", "LE", "GT", "GE", "AND", "OR", "NOT", "ABS", "TRUNCDIV")
OP = {name: i for i, name in enumerate(_OPS)}
_BINARY = {ast.Add: "ADD", ast.Sub: "SUB", ast.Mult: "MUL", ast.FloorDiv: "FLOORDIV", ast.Mod: "MOD"}
_COMPARE = {ast.Eq: "EQ", ast.NotEq: "NE", ast.Lt: "LT", ast.LtE: "LE", ast.Gt: "GT", ast.GtE: "GE"}
_CALLS = {
    "min": "MIN", "max": "MAX", "emin": "MIN", "emax": "MAX", "floordiv": "FLOORDIV", "mod": "MOD", "truncdiv": "TRUNCDIV", "abs": "ABS",
    "eq": "EQ", "ne": "NE", "lt": "LT", "le": "LE", "gt": "GT", "ge": "GE", "and_": "AND", "or_": "OR", "not_": "NOT", "neg": "NEG",
    "add": "ADD", "sub": "SUB", "mul": "MUL",
}  # fmt: skip
_UNARY = {"ABS", "NOT", "NEG"}
_MAX_STACK = 64  # MAX_SHAPE_STACK

Code = list[tuple[int, int]]


def compile_condition(condition: ShapeCondition, leaf: Callable[[Source], int]) -> Code:
    """Code of the condition; `leaf` numbers the sources it reads."""
    bindings = dict(condition.bindings)
    code: Code = []
    _emit(ast.parse(condition.text, mode="eval").body, bindings, leaf, code)
    if _depth(code) > _MAX_STACK:
        raise ValueError(f"shape condition nests too deeply: {condition.text}")
    return code


def _emit(n: ast.expr, bindings: dict[str, Source], leaf: Callable[[Source], int], code: Code) -> None:
    def sub(e: ast.expr) -> None:
        _emit(e, bindings, leaf, code)

    def op(name: str, arg: int = 0) -> None:
        code.append((OP[name], arg))

    match n:
        case ast.Constant(value=int(v)):
            op("CONST", int(v))
        case ast.Name(id=name):
            op("LEAF", leaf(bindings[name]))
        case ast.BinOp() if type(n.op) in _BINARY:
            sub(n.left), sub(n.right), op(_BINARY[type(n.op)])
        case ast.BinOp(op=ast.Pow(), right=ast.Constant(value=int(k))) if k > 0:
            sub(n.left)
            for _ in range(k - 1):
                sub(n.left), op("MUL")
        case ast.UnaryOp(op=ast.USub()):
            sub(n.operand), op("NEG")
        case ast.UnaryOp(op=ast.Not()):
            sub(n.operand), op("NOT")
        case ast.BoolOp():
            sub(n.values[0])
            for v in n.values[1:]:
                sub(v), op("AND" if isinstance(n.op, ast.And) else "OR")
        case ast.Compare():
            left = n.left
            for i, (o, right) in enumerate(zip(n.ops, n.comparators, strict=True)):
                sub(left), sub(right), op(_COMPARE[type(o)])
                if i:
                    op("AND")
                left = right
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in _CALLS and n.args:
            sub(n.args[0])
            if _CALLS[name] in _UNARY:
                op(_CALLS[name])
            for a in n.args[1:]:
                sub(a), op(_CALLS[name])
        case _:
            raise ValueError(f"not a shape condition: {ast.unparse(n)}")


def _depth(code: Code) -> int:
    depth = most = 0
    one_in = {OP["NEG"], OP["NOT"], OP["ABS"]}
    for o, _ in code:
        depth += 1 if o <= OP["LEAF"] else 0 if o in one_in else -1
        most = max(most, depth)
    return most
