"""Functions of symbolic real numbers: what they compute, where they are defined, and conditions on them."""

import math

import pytest
import torch
from lamina_dynshape import ShapeEnv
from lamina_dynshape.expr import symbol
from lamina_dynshape.float_expr import FUNCTIONS, FloatExpr, FloatRelation, float_const, float_of, float_op, float_relation, float_symbol
from lamina_dynshape.real_functions import GRAPH_FUNCTIONS, MATH_FUNCTIONS, is_defined

UNARY = sorted(n for n in FUNCTIONS if n in vars(math) and n not in ("atan2", "copysign", "fmod", "pow"))


@pytest.fixture
def env():
    return ShapeEnv()


@pytest.mark.parametrize("name", UNARY)
def test_of_plain_and_symbolic_numbers(env, name):
    x = 1.25 if name == "acosh" else 0.375
    s = env.create_number(x, "x")
    function = MATH_FUNCTIONS[getattr(math, name)]
    assert function(x) == getattr(math, name)(x)
    result = function(s)
    assert type(result) is torch.SymFloat and type(result.node.expr) is FloatExpr and is_defined(getattr(math, name), s)
    assert result.node.expr.evaluate(env._hint_values) == getattr(math, name)(x)
    assert not any("==" in str(g) for g in env.guards)  # nothing is made constant


@pytest.mark.parametrize("fn, x", [(math.sqrt, -1.0), (math.log, -1.0), (math.exp, 800.0), (math.acos, 1.5), (math.acosh, 0.5), (math.atanh, 1.5), (math.log1p, -2.0)])
def test_not_defined_where_python_raises(env, fn, x):
    with pytest.raises((ValueError, OverflowError)):
        fn(x)
    assert not is_defined(fn, env.create_number(x, "x"))


def test_every_function_may_be_called_by_a_graph():
    assert set(GRAPH_FUNCTIONS) == set(FUNCTIONS)


def test_a_compiled_condition_is_the_evaluated_one():
    n, z = symbol("n0"), symbol("z0")
    a, b = float_of(n * 3 + 1), float_symbol(z)
    sides = [float_op("truediv", a, b), float_op("pow", b, a), float_op("min", float_op("neg", a), float_op("cos", b)), float_op("floordiv", a, b), float_op("mod", b, float_const(0.3)), float_op("add", b, float_const(math.inf))]
    for side in sides:
        for op in ("lt", "ge", "ne"):
            condition = float_relation(op, side, float_op("mul", b, float_const(0.7)))
            holds = condition.compiled((n, z))
            for values in ((2, 0.5), (3, -1.25), (7, 1e-3), (1, 2.0)):
                assert holds(*values) is condition.evaluate(dict(zip((n, z), values)))


def test_a_condition_on_reals_and_sizes_keeps_them_free(env):
    n, z = env.create_symbol(6, "n"), env.create_number(0.5, "z")
    assert torch.sym_sqrt(n) * z > 1.0 and (n * z > 2.5 or n == 4)
    assert len(env.guards) == 2
    assert not any(env.is_constant(s) for s in env.symbols)


def test_a_positive_power_is_zero_where_its_base_is(env):
    n = env.create_symbol(5, "n")
    assert (n**0.5 != 0.0) and not (n**0.25 == 0.0)
    assert not any(isinstance(g.expr, FloatRelation) for g in env.guards)
