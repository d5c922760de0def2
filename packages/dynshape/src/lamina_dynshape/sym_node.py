"""The nodes under torch.SymInt, SymBool and SymFloat: what C++ and the operators of those classes call.

An IntNode is an Expr with its ShapeEnv; one node per expression and environment. Questions (`guard_*`, `expect_*`) go to the
environment. Methods that PyTorch asks for are listed in the classes; a missing one is an AttributeError there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lamina_dynshape import boolean as B
from lamina_dynshape import float_expr as F
from lamina_dynshape.boolean import BoolExpr
from lamina_dynshape.expr import Expr, emax, emin, floordiv, integer, mod
from lamina_dynshape.float_expr import FloatExpr
from lamina_dynshape.support.errors import InternalError

if TYPE_CHECKING:
    from lamina_dynshape.shape_env import ShapeEnv

__all__ = ["BoolNode", "FloatNode", "IntNode", "env_of", "estimate_of", "expr_of", "hint_of", "sym_int", "sym_int_of"]


def sym_int_of(node: IntNode) -> torch.SymInt:
    return torch.SymInt(node)


class _Node:
    """What the three kinds share."""

    __slots__ = ("__weakref__", "env", "expr")
    env: ShapeEnv
    expr: Any

    def __init__(self, expr: Any, env: ShapeEnv) -> None:
        self.expr = expr
        self.env = env

    def is_int(self) -> bool:
        return False

    def is_float(self) -> bool:
        return False

    def is_bool(self) -> bool:
        return False

    def is_symbolic(self) -> bool:
        return True

    def is_constant(self) -> bool:
        return False

    def is_nested_int(self) -> bool:
        return False

    def nested_int(self) -> None:
        return None

    def nested_int_coeff(self) -> None:
        return None

    def constant_int(self) -> None:
        return None

    def constant_bool(self) -> None:
        return None

    def maybe_as_int(self) -> int | None:
        return None

    def has_hint(self) -> bool:
        return not self.env.unbacked_in(self.expr)

    def clone(self) -> Any:
        return self

    def str(self) -> str:
        return str(self.expr)

    _graph_repr = __repr__ = str

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def wrap_int(self, n: int) -> IntNode:
        return self.env.node(integer(n))

    def wrap_bool(self, b: bool) -> BoolNode:
        return BoolNode(B._constant(b), self.env)

    def wrap_float(self, x: float) -> FloatNode:
        return FloatNode(F.float_const(x), self.env)


class IntNode(_Node):
    """Symbolic integer; `expr` is an Expr."""

    __slots__ = ()
    expr: Expr

    def is_int(self) -> bool:
        return True

    def maybe_as_int(self) -> int | None:
        return self.expr.const if self.expr.is_const else None

    @property
    def hint(self) -> int | None:
        return self.env.hint(self.expr) if self.has_hint() else None

    def require_hint(self, fallback: int | None = None) -> int:
        return self.env.hint(self.expr)

    def guard_int(self, file: str = "", line: int = 0) -> int:
        return self.env.specialize(self.expr) if not self.expr.is_const else self.expr.const

    def int_(self) -> int:
        return self.guard_int()

    def expect_size(self, file: str = "", line: int = 0) -> bool:
        return self.env.expect_true(B.ge(self.expr, 0))

    def statically_known_true(self, file: str = "", line: int = 0) -> bool:
        return self.env.statically_true(B.ne(self.expr, 0))

    # -- arithmetic -------------------------------------------------------------------------------------------------------
    def add(self, other: IntNode) -> IntNode:
        return self.env.node(self.expr + other.expr)

    def sub(self, other: IntNode) -> IntNode:
        return self.env.node(self.expr - other.expr)

    def mul(self, other: IntNode) -> IntNode:
        return self.env.node(self.expr * other.expr)

    def floordiv(self, other: IntNode) -> IntNode:
        self.env.refuse_zero(other.expr)
        return self.env.node(floordiv(self.expr, other.expr))

    int_floordiv = floordiv

    def mod(self, other: IntNode) -> IntNode:
        self.env.refuse_zero(other.expr)
        return self.env.node(mod(self.expr, other.expr))

    def neg(self) -> IntNode:
        return self.env.node(-self.expr)

    def pos(self) -> IntNode:
        return self

    def abs(self) -> IntNode:
        return self.env.node(emax(self.expr, -self.expr))

    def sym_min(self, other: IntNode) -> IntNode:
        return self.env.node(emin(self.expr, other.expr))

    def sym_max(self, other: IntNode) -> IntNode:
        return self.env.node(emax(self.expr, other.expr))

    def pow_by_natural(self, other: IntNode) -> IntNode:
        return self.env.node(self.expr ** other.guard_int())

    pow = pow_by_natural

    def sym_sum(self, nodes: Any) -> IntNode:
        total: Expr = integer(0)
        for n in nodes:
            total = total + n.expr
        return self.env.node(total)

    def sym_float(self) -> FloatNode:
        return FloatNode(F.float_of(self.expr), self.env)

    def int_truediv(self, other: IntNode) -> FloatNode:
        return self.sym_float().truediv(other.sym_float())

    truediv = int_truediv

    def floor(self) -> IntNode:
        return self

    ceil = trunc = round = sym_int = floor

    def lshift(self, other: IntNode) -> IntNode:
        return self.env.node(self.expr * (1 << other.guard_int()))

    def rshift(self, other: IntNode) -> IntNode:
        return self.env.node(floordiv(self.expr, 1 << other.guard_int()))

    def _bits(self, other: IntNode, operation: Any) -> IntNode:
        return self.env.node(integer(operation(self.guard_int(), other.guard_int())))

    def bitwise_and(self, other: IntNode) -> IntNode:
        return self._bits(other, lambda a, b: a & b)

    def bitwise_or(self, other: IntNode) -> IntNode:
        return self._bits(other, lambda a, b: a | b)

    def bitwise_xor(self, other: IntNode) -> IntNode:
        return self._bits(other, lambda a, b: a ^ b)

    and_, or_ = bitwise_and, bitwise_or

    # -- comparison -------------------------------------------------------------------------------------------------------
    def eq(self, other: IntNode) -> BoolNode:
        return BoolNode(B.eq(self.expr, other.expr), self.env)

    def ne(self, other: IntNode) -> BoolNode:
        return BoolNode(B.ne(self.expr, other.expr), self.env)

    def lt(self, other: IntNode) -> BoolNode:
        return BoolNode(B.lt(self.expr, other.expr), self.env)

    def le(self, other: IntNode) -> BoolNode:
        return BoolNode(B.le(self.expr, other.expr), self.env)

    def gt(self, other: IntNode) -> BoolNode:
        return BoolNode(B.gt(self.expr, other.expr), self.env)

    def ge(self, other: IntNode) -> BoolNode:
        return BoolNode(B.ge(self.expr, other.expr), self.env)


class BoolNode(_Node):
    """Condition; `expr` is a BoolExpr."""

    __slots__ = ()
    expr: BoolExpr

    def is_bool(self) -> bool:
        return True

    def is_symbolic(self) -> bool:
        return self.expr is not B.TRUE and self.expr is not B.FALSE

    def guard_bool(self, file: str = "", line: int = 0) -> bool:
        return self.env.evaluate(self.expr)

    bool_ = guard_size_oblivious = guard_bool

    def guard_or_false(self, file: str = "", line: int = 0) -> bool:
        """Of equalities the answer no holds for all sizes, and what it relies on is asked on its own: no guard keeps a size from being 1."""
        if isinstance(self.expr, B.Relation) and self.expr.kind == "eq" and self.env.hint_denies(self.expr):
            return False
        return self.env.guard_or(self.expr, False)

    def guard_or_true(self, file: str = "", line: int = 0) -> bool:
        return self.env.guard_or(self.expr, True)

    def expect_true(self, file: str = "", line: int = 0) -> bool:
        return self.env.expect_true(self.expr, f"{file}:{line}" if file else "")

    def statically_known_true(self, file: str = "", line: int = 0) -> bool:
        return self.env.statically_true(self.expr)

    def and_(self, other: BoolNode) -> BoolNode:
        return BoolNode(B.conj(self.expr, other.expr), self.env)

    def or_(self, other: BoolNode) -> BoolNode:
        return BoolNode(B.disj(self.expr, other.expr), self.env)

    sym_and, sym_or = and_, or_

    def sym_not(self) -> BoolNode:
        return BoolNode(B.negate(self.expr), self.env)

    def eq(self, other: BoolNode) -> BoolNode:
        both = B.conj(self.expr, other.expr)
        neither = B.conj(B.negate(self.expr), B.negate(other.expr))
        return BoolNode(B.disj(both, neither), self.env)

    def ne(self, other: BoolNode) -> BoolNode:
        return self.eq(other).sym_not()

    def sym_ite(self, then: Any, otherwise: Any) -> Any:
        return then if self.guard_bool() else otherwise

    def int_(self) -> int:
        return int(self.guard_bool())

    guard_int = int_


class FloatNode(_Node):
    """Real number; `expr` is a FloatExpr."""

    __slots__ = ()
    expr: FloatExpr

    def is_float(self) -> bool:
        return True

    def is_symbolic(self) -> bool:
        return self.expr.op != "const"

    def guard_float(self, file: str = "", line: int = 0) -> float:
        """The float, specialising the sizes that it was computed from."""
        if self.env.unbacked_in(self.expr):
            raise self.env._no_value(self.expr)
        for s in self.expr.free_symbols:
            self.env.make_constant(s)
        return self.expr.evaluate(self.env._hint_values)

    float_ = guard_float

    def bool_(self) -> bool:
        return BoolNode(F.float_relation("ne", self.expr, F.float_const(0.0)), self.env).guard_bool()

    def sym_float(self) -> FloatNode:
        return self

    def _integer(self, exact: Any, fallback: Any) -> IntNode:
        fraction = self.expr.rational
        if fraction is not None:
            return self.env.node(exact(*fraction))
        return self.env.node(integer(fallback(self.guard_float())))

    def floor(self) -> IntNode:
        import math

        return self._integer(floordiv, math.floor)

    def ceil(self) -> IntNode:
        import math

        return self._integer(lambda n, d: -floordiv(-n, d), math.ceil)

    def trunc(self) -> IntNode:
        fraction = self.expr.rational
        if fraction is not None and self.env.evaluate(B.ge(fraction[0], 0)):
            return self.floor()
        return self.ceil() if fraction is not None else self.env.node(integer(int(self.guard_float())))

    sym_int = trunc

    def round(self, digits: Any = None) -> Any:
        if digits is not None:
            return self.wrap_float(round(self.guard_float(), digits.guard_int()))
        return self.env.node(integer(round(self.guard_float())))

    def function(self, name: str, *others: FloatNode) -> FloatNode:
        """A function of `float_expr.FUNCTIONS`; the caller has seen that it is defined there."""
        return FloatNode(F.float_op(name, self.expr, *(o.expr for o in others)), self.env)

    def is_integer(self) -> BoolNode:
        fraction = self.expr.rational
        if fraction is not None:
            return BoolNode(B.eq(mod(*fraction), 0), self.env)
        return self.wrap_bool(self.guard_float().is_integer())


def _float_arithmetic(name: str) -> Any:
    def method(self: FloatNode, *others: FloatNode) -> FloatNode:
        if name in ("truediv", "floordiv", "mod"):
            self.env.refuse_zero(others[0].expr.args[0] if others[0].expr.op == "int" else others[0].expr)
        return self.function(name, *others)

    return method


def _float_comparison(name: str) -> Any:
    def method(self: FloatNode, other: FloatNode) -> BoolNode:
        return BoolNode(F.float_relation(name, self.expr, other.expr), self.env)

    return method


for _name in ("add", "sub", "mul", "truediv", "mod", "floordiv", "pow", "neg", "abs"):
    setattr(FloatNode, _name, _float_arithmetic(_name))
for _name in ("float_truediv", "float_pow"):
    setattr(FloatNode, _name, _float_arithmetic(_name.removeprefix("float_")))
for _name in ("min", "max", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "log2"):
    setattr(FloatNode, f"sym_{_name}", _float_arithmetic(_name))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(FloatNode, _name, _float_comparison(_name))


# -- between numbers and expressions ----------------------------------------------------------------------------------------
def expr_of(x: Any) -> Expr:
    """Expression of an int or SymInt of ours."""
    if isinstance(x, torch.SymInt):
        node = x.node
        return node.expr if isinstance(node, IntNode) else integer(node.maybe_as_int())
    if isinstance(x, (torch.SymFloat, torch.SymBool)):
        raise InternalError(f"{x} is no integer")
    return x if isinstance(x, Expr) else integer(int(x))


def env_of(*values: Any) -> Any:
    """The environment of the first symbolic number, None without one."""
    return next((v.node.env for v in values if isinstance(v, (torch.SymInt, torch.SymFloat)) and isinstance(v.node, _Node)), None)


def estimate_of(size: Any) -> int:
    """Value of a size for decisions about cost: as `hint_of`, a guess where only the running program knows it."""
    return size.node.env.estimate(size.node.expr) if isinstance(size, torch.SymInt) and isinstance(size.node, IntNode) else hint_of(size)


def hint_of(x: Any) -> Any:
    """Value of a number, symbolic or not, for the sizes of this compilation."""
    if isinstance(x, torch.SymInt):
        node = x.node
        return node.env.hint(node.expr) if isinstance(node, IntNode) else node.maybe_as_int()
    if isinstance(x, (torch.SymFloat, torch.SymBool)):
        return x.node.expr.evaluate(x.node.env._hint_values)
    return x


def sym_int(x: Any, env: ShapeEnv) -> Any:
    """int or SymInt of an Expr."""
    return env.sym_int(x)
