"""Random programs over sizes, compared with brute force over a small domain.

Each case draws symbols, expressions and conditions; a `ShapeEnv` answers the conditions by its hints and records guards. Then, for every
assignment of the domain: what the facts decide is true of all sizes that the facts allow; the guards accept a size exactly where every answer
is the one given (sound: no wrong acceptance; complete: no needless refusal).

    python packages/dynshape/tests/test_properties.py 100000 [seed]       a long run
"""

import itertools
import operator
import random
import sys

from lamina_dynshape import ShapeEnv
from lamina_dynshape import boolean as B
from lamina_dynshape.expr import as_expr, emax, emin, floordiv, integer, mod
from lamina_dynshape.sym_node import expr_of

DOMAIN = range(2, 10)  # the smallest size of a backed symbol is 2
COMPARISONS = (B.eq, B.ne, B.lt, B.le, B.gt, B.ge)
HELD = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)


def random_expr(rnd, symbols, depth=2):
    """An integer expression, biased to what shape rules make."""
    if depth == 0 or rnd.random() < 0.25:
        return rnd.choice(symbols) if rnd.random() < 0.75 else integer(rnd.randint(-3, 9))
    a, b = random_expr(rnd, symbols, depth - 1), random_expr(rnd, symbols, depth - 1)
    kind = rnd.randrange(8)
    if kind < 3:
        return (a + b, a - b, a * rnd.randint(-3, 4))[kind]
    if kind == 3:
        return a * b
    divisor = integer(rnd.randint(1, 5))
    return {4: floordiv, 5: mod, 6: lambda x, _: emin(x, b), 7: lambda x, _: emax(x, b)}[kind](a, divisor)


def check_case(seed):
    """One random program; raises AssertionError naming what is wrong. -> number of decisions compared."""
    rnd = random.Random(seed)
    env = ShapeEnv(duck_sizing=False)
    hints = [rnd.choice(DOMAIN) for _ in range(rnd.randint(1, 3))]
    symbols = [expr_of(env.create_symbol(h, f"x.size()[{i}]")) for i, h in enumerate(hints)]
    points = [dict(zip(symbols, values)) for values in itertools.product(DOMAIN, repeat=len(symbols))]
    compared, trace = 0, []
    for _ in range(rnd.randint(1, 4)):
        which = rnd.randrange(len(COMPARISONS))
        a, b = random_expr(rnd, symbols), random_expr(rnd, symbols, 1)
        condition, held = COMPARISONS[which](a, b), HELD[which]
        truth = [held(as_expr(a).evaluate(p), as_expr(b).evaluate(p)) for p in points]
        allowed = [all(held_before[i] is answer for held_before, answer in trace) for i in range(len(points))]
        known = env.facts.decide(condition)
        compared += 1
        if known is not None:
            wrong = [p for p, ok, t in zip(points, allowed, truth) if ok and t is not known]
            assert not wrong, f"seed {seed}: {condition} decided {known} given {env.guards}, false at {wrong[0]}"
        answer = env.evaluate(condition)
        here = points.index(dict(zip(symbols, hints)))
        assert answer is truth[here], f"seed {seed}: {condition} answered {answer} at its own hints {hints}"
        trace.append((truth, answer))
    conditions = env.conditions()
    for i, p in enumerate(points):
        accepted, holds = all(c.evaluate(p) for c in conditions), all(truth[i] is answer for truth, answer in trace)
        assert accepted or not holds, f"seed {seed}: {conditions} refuse {p}, for which the trace holds"
        assert holds or not accepted, f"seed {seed}: {conditions} accept {p}, for which the trace does not hold"
        compared += 1
    for e in (random_expr(rnd, symbols) for _ in range(2)):
        simple = as_expr(env.simplify(e))
        for i, p in enumerate(points):
            if all(truth[i] is answer for truth, answer in trace):
                assert simple.evaluate(p) == as_expr(e).evaluate(p), f"seed {seed}: {e} simplified to {simple}, other value at {p}"
    return compared


def test_decisions_and_guards_against_brute_force():
    assert sum(check_case(seed) for seed in range(600)) > 20_000


if __name__ == "__main__":
    count, first = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, int(sys.argv[2]) if len(sys.argv) > 2 else 0
    print(f"{sum(check_case(seed) for seed in range(first, first + count))} decisions of {count} programs compared, none wrong")
