"""Expressions: canonical forms, and simplification checked against evaluation at random points inside the bounds."""

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina_dynshape import expr as E
from lamina_dynshape.expr import bounds, emax, emin, exact_div, floordiv, integer, mod, simplify, symbol
from lamina_dynshape.support import memory

i, j, k, s, t = map(symbol, "ijkst")
RANGES = {i: (0, 127), j: (0, 63), k: (-5, 9), s: (2, 40), t: (1, None)}
POINTS = {i: (0, 127), j: (0, 63), k: (-5, 9), s: (2, 40), t: (1, 50)}


def _exprs() -> st.SearchStrategy:
    leaves = st.one_of(st.sampled_from([i, j, k, s, t]), st.integers(-70, 70).map(integer))
    divisors = st.one_of(st.sampled_from([2, 3, 4, 8, 16, 64, -3]).map(integer), st.sampled_from([s, t, s * t]))

    def grow(inner: st.SearchStrategy) -> st.SearchStrategy:
        return st.one_of(
            st.builds(lambda a, b: a + b, inner, inner),
            st.builds(lambda a, b: a - b, inner, inner),
            st.builds(lambda a, c: a * c, inner, st.sampled_from([2, 8, -3, 64])),
            st.builds(lambda a, b: a * b, inner, st.sampled_from([s, t, i])),
            st.builds(floordiv, inner, divisors),
            st.builds(mod, inner, divisors),
            st.builds(emin, inner, inner),
            st.builds(emax, inner, inner),
        )

    return st.recursive(leaves, grow, max_leaves=8)


POINT = st.fixed_dictionaries({sym: st.integers(*r) for sym, r in POINTS.items()})


class _Python:
    """Direct evaluation of the operators as Python does them; the reference for canonical forms."""

    def __init__(self, values):
        self.values = values

    def visit_integer(self, value):
        return value

    def visit_symbol(self, symbol):
        return self.values[symbol]

    def visit_sum(self, terms, const):
        return sum(c * m.visit(self) for m, c in terms) + const

    def visit_product(self, factors):
        result = 1
        for f in factors:
            result *= f.visit(self)
        return result

    def visit_floordiv(self, num, den):
        return num.visit(self) // den.visit(self)

    def visit_mod(self, num, den):
        return num.visit(self) % den.visit(self)

    def visit_min(self, args):
        return min(a.visit(self) for a in args)

    def visit_max(self, args):
        return max(a.visit(self) for a in args)


@settings(max_examples=400, deadline=None)
@given(_exprs(), POINT)
def test_simplify_keeps_the_value(e, point):
    value = e.evaluate(point)
    assert simplify(e, RANGES).evaluate(point) == value
    assert e.visit(_Python(point)) == value


@settings(max_examples=400, deadline=None)
@given(_exprs(), POINT)
def test_bounds_hold(e, point):
    lo, hi = bounds(e, RANGES)
    value = e.evaluate(point)
    assert lo is None or lo <= value
    assert hi is None or value <= hi


@settings(max_examples=300, deadline=None)
@given(_exprs(), _exprs(), st.sampled_from([2, 3, 8, 64, -3]), POINT)
def test_operators_match_integers(a, b, d, point):
    x, y = a.evaluate(point), b.evaluate(point)
    assert (a + b).evaluate(point) == x + y
    assert (a * b).evaluate(point) == x * y
    assert floordiv(a, d).evaluate(point) == x // d
    assert mod(a, d).evaluate(point) == x % d
    assert emin(a, b).evaluate(point) == min(x, y)
    if y:
        assert floordiv(a, b).evaluate(point) == x // y
        assert mod(a, b).evaluate(point) == x % y


@settings(max_examples=200, deadline=None)
@given(_exprs())
def test_text_rebuilds_the_node(e):
    names = {"emin": emin, "emax": emax, "i": i, "j": j, "k": k, "s": s, "t": t}
    assert E.as_expr(eval(str(e), names)) is e
    assert pickle.loads(pickle.dumps(e)) is e
    assert copy.deepcopy(e) is e


@pytest.mark.parametrize("e, text", [
    ((64 * i + j) // 64, "i"), ((64 * i + j) % 64, "j"), (mod(mod(i, 64), 16), "i%16"), (floordiv(floordiv(i, 4), 8), "i//32"),
    ((64 * i + 8 * (j // 8) + 7) // 8, "8*i + j//8"), ((6 * i) // 4, "(3*i)//2"), ((s * t * 3) // (t * s), "3"),
    ((s * i + j) // s, "i + j//s"), ((i + 128 * k) % 128, "i"), (8 * (i // 8) + i % 8, "i"), (i - 8 * (i // 8), "i%8"),
    (emin(i, 200), "i"), (emax(s, 2), "s"), ((2 * i + 1) // 2, "i"), ((2 * i + 1) % 2, "1"), ((i * 32 + (j // 2)) // 32, "i"),
    (((i % 64) // 8), "(i//8)%8"), (((64 * i + j) // 8) % 8, "j//8"), (((64 * i + j) % 512) // 64, "i%8"),
])
def test_simplified_form(e, text):
    expected = eval(text, {"i": i, "j": j, "k": k, "s": s, "t": t})
    assert simplify(e, RANGES) is simplify(E.as_expr(expected), RANGES)


def test_symbolic_ranges():
    ranges = {i: (0, t - 1), j: (0, s - 1), s: (2, None), t: (2, None)}
    assert simplify((s * i + j) // s, ranges) is i
    assert simplify((s * i + j) % s, ranges) is j
    assert simplify((s * i + j) // (s * t), ranges) is integer(0)


def test_identity_and_linear_parts():
    assert i + j - i is j and (i + 1) * 2 is 2 * i + 2 and -(-i) is i
    assert (3 * i + 4 * j + 5).linear_in([i, j]) == {i: 3, j: 4}
    assert (i * j).linear_in([i]) is None and (i // 2).coeff(i) is None and (i // 2 + 7 * j).coeff(j) == 7
    assert exact_div(i * i - 1, i - 1) is i + 1 and exact_div(i + 1, i) is None
    assert (2 * i + j).subs({i: j, j: 3}) is 2 * j + 3


def test_sympy_round_trip():
    for e in (3 * i * j + 4, i // 4 + j % 8, emin(i, j + 1)):
        assert E.from_sympy(E.to_sympy(e)) is e


def test_zero_division():
    with pytest.raises(ZeroDivisionError):
        i // 0
    with pytest.raises(TypeError):
        bool(i + 1)


def test_nodes_that_somebody_holds_outlive_a_release_as_themselves_and_the_others_go():
    a, b = symbol("outlives"), symbol("goes")
    held, sizes = floordiv(a * 3 + 1, 7), []
    for _ in range(3):
        floordiv(b * 5 + 2, 11) * mod(b, 13)
        for forget in memory._tables:
            forget()
        sizes.append(len(E._NODES) + len(E._NODES._held))
        assert floordiv(symbol("outlives") * 3 + 1, 7) is held and held.free_symbols == {a}
        assert symbol("goes") is b
    assert not any("goes" in node.key and node is not b for table in (E._NODES, E._NODES._held) for node in table.values())
    assert sizes[0] == sizes[2]
