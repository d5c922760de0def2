"""Facts: what is decided is right at every point that satisfies what was learned."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina_dynshape import boolean as B
from lamina_dynshape.expr import emax, emin, symbol
from lamina_dynshape.facts import Facts, implied

s, t, u = map(symbol, ("s0", "s1", "s2"))
VALUES = st.fixed_dictionaries({x: st.integers(2, 40) for x in (s, t, u)})
LINEAR = st.builds(lambda a, b, c: a * s + b * t + c, *[st.integers(-4, 4)] * 3)
TERM = st.one_of(
    LINEAR, st.sampled_from([s, t, u]), st.integers(-3, 50).map(lambda n: s * 0 + n),
    st.sampled_from([s // 4, s % 3, s % 8, 8 * (s // 8), s * t, t * u, s * s, (s - 1) // 2 + 1, (-s) % 4, (s * t) % 6, (s * t) // 6, emin(s, t), emax(t, u)]),
)
RELATION = st.builds(lambda f, a, b: f(a, b), st.sampled_from([B.ge, B.lt, B.eq, B.ne]), TERM, TERM)
CONDITION = st.one_of(RELATION, st.builds(B.disj, RELATION, RELATION), st.builds(B.conj, RELATION, RELATION))


def facts():
    f = Facts()
    for x in (s, t, u):
        f.narrow(x, 2)
    return f


@settings(max_examples=600, deadline=None)
@given(VALUES, st.lists(CONDITION, max_size=5), st.lists(CONDITION, min_size=1, max_size=5))
def test_decisions_are_right(point, learned, asked):
    f = facts()
    for c in learned:
        f.learn(c if c.evaluate(point) else B.negate(c))
    for c in [*asked, *learned]:
        assert f.decide(c) in (None, c.evaluate(point)), (c, f.replacements, f.ranges, f.inequalities)
    for c in asked:
        for e in c.parts if isinstance(c, B.Relation) else ():
            assert f.canonical(e).evaluate(point) == e.evaluate(point)


@pytest.mark.parametrize("learned, asked, answer", [
    ([], B.ge(s * t, 4), True), ([], B.eq(s * t, 0), False), ([], B.gt(s * s, s), True), ([], B.ge(s, s // 2), True), ([], B.eq(s * t, t), False),
    ([B.ge(s, t)], B.ge(s + 1, t), True), ([B.ge(s, t)], B.lt(s, t), False), ([B.eq(s, 2 * t)], B.eq(s + t, 3 * t), True),
    ([B.eq(s % 8, 0)], B.eq(8 * (s // 8), s), True), ([B.eq(s % 8, 0)], B.eq(t * (s // 8) * 8, s * t), True), ([B.eq(s, 6)], B.eq(s % 3, 0), True),
    ([B.eq(s // 4, 5), B.eq(s % 4, 0)], B.eq(s, 20), True), ([B.le((-s) % 4, 0)], B.eq(s % 4, 0), True), ([], B.eq((-1) // s, -1), True),
    ([], B.eq(emax(1, s), s), True), ([B.ne(s, t)], B.eq(s, t), False), ([B.ne(s, t)], B.eq(s * u, t * u), False), ([], B.eq(s, t), None),
    ([B.ge(s, 3), B.le(s, 3)], B.eq(s, 3), True), ([B.disj(B.eq(s, 2), B.eq(t, 2))], B.eq(s, 2), None),
])
def test_decides(learned, asked, answer):
    f = facts()
    for c in learned:
        f.learn(c)
    assert f.decide(asked) is answer


def test_implied():
    assert implied(B.ge(s, 3), [B.ge(s, 5)], {}) and not implied(B.ge(s, 5), [B.ge(s, 3)], {}) and implied(B.ge(s, 2), [], {s: (2, None)})
