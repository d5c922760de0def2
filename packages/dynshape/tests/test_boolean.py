"""Conditions: canonical relations, negation, text."""

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina_dynshape import boolean as B
from lamina_dynshape.expr import emax, emin, integer, symbol

s, t, u = map(symbol, ("s0", "s1", "s2"))
POINT = st.fixed_dictionaries({x: st.integers(2, 30) for x in (s, t, u)})
LINEAR = st.builds(lambda a, b, c: a * s + b * t + c, *[st.integers(-6, 6)] * 3)
TERM = st.one_of(LINEAR, st.sampled_from([s // 4, s % 3, s * t, emin(s, t), emax(t, u)]))
RELATION = st.builds(lambda f, a, b: f(a, b), st.sampled_from([B.ge, B.gt, B.le, B.lt, B.eq, B.ne]), TERM, TERM)
CONDITION = st.recursive(RELATION, lambda c: st.one_of(st.builds(B.conj, c, c), st.builds(B.disj, c, c), st.builds(B.negate, c)), max_leaves=4)


@settings(max_examples=200, deadline=None)
@given(TERM, TERM, POINT)
def test_relations_mean_what_python_means(a, b, point):
    x, y = integer(0) + a, integer(0) + b
    v, w = x.evaluate(point), y.evaluate(point)
    for make, truth in ((B.ge, v >= w), (B.gt, v > w), (B.le, v <= w), (B.lt, v < w), (B.eq, v == w), (B.ne, v != w)):
        assert make(x, y).evaluate(point) == truth


@settings(max_examples=200, deadline=None)
@given(CONDITION, POINT)
def test_negation_text_and_copies(c, point):
    value = c.evaluate(point)
    assert B.negate(c).evaluate(point) != value and B.negate(B.negate(c)) is c
    names = {"min": min, "max": max, "emin": min, "emax": max, **{x.name: v for x, v in point.items()}}
    assert bool(eval(str(c), names)) == value
    renamed = {f"n{x.name}": v for x, v in point.items()}
    assert bool(eval(c.text(lambda x: "n" + x.name), {"min": min, "max": max, **renamed})) == value
    assert pickle.loads(pickle.dumps(c)) is c and copy.deepcopy(c) is c


@pytest.mark.parametrize("condition, text", [
    (B.lt(2 * s, 7), "s0 <= 3"), (B.gt(s, 1), "s0 >= 2"), (B.ge(s, t), "s0 >= s1"), (B.eq(2 * s, 4 * t), "s0 == 2*s1"), (B.eq(2 * s, 5), "False"),
    (B.ne(t, s), "s0 != s1"), (B.lt(s, s), "False"), (B.le(t - s, 3), "s0 + 3 >= s1"), (B.ge(3 - s, 0), "s0 <= 3"),
])
def test_text_is_readable(condition, text):
    assert str(condition) == text


def test_one_node_per_condition():
    assert B.gt(s, 2) is B.ge(s, 3) is B.le(3, s) and B.conj(B.TRUE, B.ge(s, 3)) is B.ge(s, 3)
    assert B.conj(B.ge(s, 3), B.lt(s, 3)) is B.FALSE and B.disj(B.ge(s, 3), B.lt(s, 3)) is B.TRUE
    with pytest.raises(TypeError):
        bool(B.ge(s, 3))
