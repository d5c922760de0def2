"""Symbolic sizes: one compilation, several sizes."""

import pytest
import torch
import torch.nn.functional as F
from lamina_dynshape import FakeMode, ShapeEnv
from lamina_dynshape.boolean import eq
from lamina_dynshape.support.counters import counters
from lamina_inductor.compile import compile_graph, compile_prims
from lamina_primops import lower, trace
from loops_support import assert_same


def compile_dynamic(fn, x, dims, *rest):
    """Compile `fn(x, *rest)` with the given dimensions of `x` symbolic; returns a callable of (x, *rest) and the compiled graph."""
    mode = FakeMode(ShapeEnv())
    fx = mode.from_real(x, source=None, dynamic_dims=set(dims))
    sizes = [fx.shape[d] for d in dims]
    symbols = list({str(s): s for s in sizes}.values())
    fakes = [mode.from_real(t) for t in rest]
    names = [str(s) for s in symbols]
    prims = lower(trace(lambda *a: fn(*a[len(symbols):]), [*symbols, fx, *fakes]))
    compiled = compile_prims(prims)
    first = {str(s): d for d, s in reversed(list(zip(dims, sizes, strict=True)))}

    def call(y, *others):
        return compiled(*[y.shape[first[n]] for n in names], y, *others)
    return call, compiled


CASES = {
    "pointwise": lambda x, w: F.gelu(x) * w + x.size(0),
    "softmax": lambda x, w: F.softmax(x * w, -1),
    "layer norm": lambda x, w: F.layer_norm(x, (24,), w),
    "columns": lambda x, w: (x * w).sum(0),
    "all": lambda x, w: (x * w).sum() + x.amax(),
    "over the symbolic one": lambda x, w: F.softmax(x, 0).var(0),
    "cat": lambda x, w: torch.cat([x, x * w, x[:2]], 0),
    "reshape": lambda x, w: (x + w).reshape(-1, 8).sum(-1),
    "transpose": lambda x, w: (x * w).t().contiguous() + 1,
    "slice": lambda x, w: x[1:-1] * w,
    "product": lambda x, w: torch.mm(x, x.t()).relu(),
    "fallback": lambda x, w: torch.sort(x * w, 0)[0] + 1,
    "mask": lambda x, w: torch.tril(x @ x.t()),
    "scan": lambda x, w: (x * w).cumsum(0),
}


@pytest.mark.parametrize("name", CASES)
def test_one_compilation_for_all_sizes(name):
    fn = CASES[name]
    w = torch.randn(24)
    call, _ = compile_dynamic(fn, torch.randn(16, 24), [0], w)
    for n in (16, 3, 7, 200, 1000):
        x = torch.randn(n, 24)
        want = fn(x, w)
        assert_same(call(x, w), want if isinstance(want, tuple) else (want,), tol=2e-4)


def test_real_numbers_of_sizes_are_what_python_computes():
    """They are computed once per call with the C library's functions, and kernels and results get their bits."""
    from lamina_dynshape.real_functions import GRAPH_FUNCTIONS

    def real(n):
        half = n / 2.5
        ones = [GRAPH_FUNCTIONS[f](1 / n) for f in ("acos", "asin", "atan", "atanh", "cos", "cosh", "exp", "expm1", "log", "log10", "log1p", "log2", "sin", "sinh", "sqrt", "tan", "tanh", "asinh")]
        twos = [GRAPH_FUNCTIONS[f](half, 1.75) for f in ("atan2", "copysign", "fmod", "mod", "floordiv", "pow", "min", "max")]
        return sum(ones) + sum(twos) + GRAPH_FUNCTIONS["acosh"](half)

    call, _ = compile_dynamic(lambda x: (x * real(x.size(0)), real(x.size(0))), torch.randn(7, 3, dtype=torch.float64), [0])
    for n in (7, 3, 16, 101):
        x = torch.ones(n, 3, dtype=torch.float64)
        y, number = call(x)
        assert number == real(n) and (y == number).all()


def test_conditions_on_sizes_are_results():
    def fn(x):
        n, half = x.size(0), x.size(0) / 2.5
        return x + 1, n > 4, n != 7, half < 3.1, torch.sym_not((n >= 4) & (half < 6)), (n < 4) | (n % 3 == 1)

    call, compiled = compile_dynamic(fn, torch.randn(7, 3), [0])
    for n in (7, 3, 4, 16):
        got, expected = call(torch.randn(n, 3))[1:], fn(torch.randn(n, 3))[1:]
        assert list(map(str, got)) == list(map(str, expected)) and all(type(v) is bool for v in got)


def test_a_graph_of_numbers_alone():
    env = ShapeEnv()
    n = env.create_number(5, "n")
    compiled = compile_prims(lower(trace(lambda n: (n * 2 + 1, n > 3), [n])))
    assert [compiled(k) for k in (5, 2)] == [(11, True), (5, False)]


def test_a_stored_graph_is_used_where_what_it_was_compiled_under_holds(monkeypatch, tmp_path):
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path))
    fn = lambda n, x: (torch.renorm(x, 2, 0, n / 4.0),)  # the rule takes the bound as a plain number
    hits = []
    for n in (5, 7, 7):
        mode = FakeMode(ShapeEnv())
        x = torch.randn(3, n)
        fake = mode.from_real(x, source=None, dynamic_dims={1})
        gm = trace(fn, [fake.shape[1], fake])
        counters.clear()
        assert_same(compile_graph(gm)(n, x), fn(n, x))
        hits.append(counters["cache"]["graph_hit"])
        assert [str(c) for c in mode.shape_env.taken] == [str(eq(fake.shape[1].node.expr, n))]
    assert hits == [0, 1, 1]


def test_large_intermediates_of_symbolic_size():
    fn = lambda x, w: ((x @ w).relu() @ w).tanh() @ w
    w = torch.randn(256, 256) / 16
    call, compiled = compile_dynamic(fn, torch.randn(600, 256), [0], w)
    assert compiled.source.count("_pb.drop();") >= 2
    for n in (600, 3, 2000):
        x = torch.randn(n, 256)
        assert_same(call(x, w), (fn(x, w),), tol=2e-4)


def test_two_symbolic_dimensions():
    fn = lambda x, w: (F.softmax(x * w, -1), x.sum(0), x.transpose(0, 1).contiguous())
    call, _ = compile_dynamic(fn, torch.randn(6, 24, 5), [0, 1], torch.randn(5))
    for a, b in ((6, 24), (3, 50), (17, 2)):
        x, w = torch.randn(a, b, 5), torch.randn(5)
        assert_same(call(x, w), fn(x, w), tol=1e-4)


def test_kernels_that_differ_in_sizes_only_are_one():
    fn = lambda x, w: (torch.mm(x, x.t()).sin(), x.sin())
    call, compiled = compile_dynamic(fn, torch.randn(6, 24), [0], torch.randn(24))
    assert compiled.kernels == 1 and compiled.data.kernel_calls == 2
    x = torch.randn(9, 24)
    assert_same(call(x, torch.randn(24)), fn(x, None), tol=1e-4)


def test_what_follows_from_sizes_is_computed_once():
    fn = lambda x, w: ((x[::2] @ w).relu() @ w).softmax(0) @ w
    w = torch.randn(24, 24) / 5
    call, compiled = compile_dynamic(fn, torch.randn(16, 24), [0], w)
    assert compiled.source.count("size0 + 1)") == 1
    for n in (16, 5):
        x = torch.randn(n, 24)
        assert_same(call(x, w), (fn(x, w),), tol=1e-4)
