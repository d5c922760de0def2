"""Each family of prims against eager and the interpreter, on dense, transposed, strided, broadcast, empty, 0-d and low-precision inputs."""

import pytest
import torch
import torch.nn.functional as F
from extern_support import compiled, same_as_eager
from lamina_inductor.compile import compile_prims
from loops_support import check, prims_of

FORMS = {
    "dense": lambda: torch.randn(6, 8, 10),
    "transposed": lambda: torch.randn(10, 8, 6).transpose(0, 2),
    "strided": lambda: torch.randn(12, 8, 20)[::2, :, ::2],
    "offset": lambda: torch.randn(7, 8, 10)[1:],
    "broadcast": lambda: torch.randn(6, 1, 10).expand(6, 8, 10),
    "channels": lambda: torch.randn(6, 10, 8).permute(0, 2, 1),
    "empty": lambda: torch.randn(6, 0, 10),
    "scalar": lambda: torch.randn(()),
    "bf16": lambda: torch.randn(6, 8, 10).bfloat16(),
    "f16": lambda: torch.randn(6, 8, 10).half(),
    "f64": lambda: torch.randn(6, 8, 10).double(),
    "special": lambda: torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0, -2.5, 1e-40] * 5),
}
FLOAT_UNARY = "abs neg sign exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf erfc erfinv lgamma digamma sigmoid floor ceil trunc round isnan isinf isfinite signbit".split()


@pytest.mark.parametrize("form", FORMS)
def test_pointwise_and_reductions(form):
    x = FORMS[form]()

    def f(x):
        y = F.gelu(x) * 2 - x
        out = [y, y.sum()]
        if x.ndim == 3 and x.numel():
            out += [y.sum(-1), y.sum(0), y.amax(1), y.mean((0, 2)), x.transpose(1, 2).contiguous() + 1, x.reshape(x.shape[0], -1)]
        return tuple(out)
    check(f, x, tol=1e-4)


@pytest.mark.parametrize("special", [False, True])
def test_unary(special):
    x = FORMS["special"]() if special else torch.rand(1000) * 0.9 + 0.05
    check(lambda x: tuple(getattr(torch, n)(x) for n in FLOAT_UNARY), x, tol=1e-4)


SPECIAL = "i0 i0e i1 i1e erfcx modified_bessel_k0 modified_bessel_k1 scaled_modified_bessel_k0 scaled_modified_bessel_k1".split()
BESSEL = "bessel_j0 bessel_j1 bessel_y0 bessel_y1".split()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_special_functions_fuse(dtype):
    edges = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 8.0, 2.0, 5e-7, 1e10, -27.5], dtype=dtype)
    x = torch.cat([torch.linspace(-20, 20, 401, dtype=dtype), edges])
    p = torch.cat([torch.linspace(0, 1, 301, dtype=dtype), 10.0 ** torch.linspace(-37, -1, 80, dtype=dtype), torch.tensor([-1.0, 2.0, float("nan")], dtype=dtype)])
    tol = 2e-5 if dtype is torch.float32 else 1e-13
    check(lambda x: tuple(getattr(torch.special, n)(x) for n in SPECIAL), x, kernels=1, tol=tol)
    check(lambda p: torch.special.ndtri(p) * 2, p, kernels=1, tol=tol)
    check(lambda a, b: torch.special.zeta(a, b) + 1, torch.linspace(0.5, 30, len(x), dtype=dtype), x.clamp_min(-15.5), kernels=1, tol=tol)


def test_bessel_functions_of_doubles_are_those_of_eager():
    x = torch.linspace(-20, 20, 401)
    fn = lambda x: tuple(getattr(torch.special, n)(x) for n in BESSEL)
    check(fn, x, kernels=1)
    check(fn, x.double(), fallbacks=4, tol=0)
    x = x[x > 0]
    j0, j1, y0, y1 = (t.double() for t in compile_prims(prims_of(fn, x))(x))
    torch.testing.assert_close(j1 * y0 - j0 * y1, 2 / (torch.pi * x.double()), rtol=1e-6, atol=1e-8)  # their Wronskian


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8], ids=str)
def test_greatest_common_divisor(dtype):
    limits = torch.iinfo(dtype)
    a, b = (torch.randint(max(limits.min, -500), min(limits.max, 500), (300,)).to(dtype) for _ in range(2))
    a[:3], b[:3] = torch.tensor([0, limits.min, limits.min], dtype=dtype), torch.tensor([0, 0, 6], dtype=dtype)
    check(torch.gcd, a, b, kernels=1)


def test_binary():
    a, b = torch.randn(500), torch.randn(500)
    a[::7], b[::5] = float("nan"), float("inf")
    check(lambda a, b: (a + b, a - b, a * b, a / b, torch.maximum(a, b), torch.minimum(a, b), torch.fmax(a, b), torch.fmin(a, b), torch.atan2(a, b),
                        torch.hypot(a, b), torch.copysign(a, b), a < b, a >= b, a == b, a != b), a, b, tol=1e-5)


def test_float_division_family():
    a, b = torch.randn(500) * 5, torch.randn(500)
    check(lambda a, b: (torch.floor_divide(a, b), torch.remainder(a, b), torch.fmod(a, b), torch.div(a, b, rounding_mode="trunc")), a, b)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
def test_integers(dtype):
    low = 0 if dtype == torch.uint8 else -50
    a, b = torch.randint(low, 50, (300,)).to(dtype), torch.randint(1, 9, (300,)).to(dtype)
    check(lambda a, b: (a + b, a - b, a * b, a // b, a % b, torch.fmod(a, b), a & b, a | b, a ^ b, ~a, torch.bitwise_left_shift(a, b), torch.bitwise_right_shift(a, b), a < b, torch.maximum(a, b), a.sum(), a.amax(), a.abs() if dtype != torch.uint8 else a), a, b)


def test_integer_division_by_zero_is_eagers_error():
    a = torch.arange(5)
    c = check(lambda a, b: a // b, a, a + 1)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        c(a, a)


def test_bool():
    a, b = torch.rand(100) > 0.5, torch.rand(100) > 0.5
    check(lambda a, b: (a & b, a | b, a ^ b, ~a, a.any(), a.all(), a.float(), a.long() + 1, torch.where(a, 1.0, 2.0)), a, b)


def test_conversions():
    x = torch.randn(200) * 100
    check(lambda x: (x.long(), x.int(), x.to(torch.int8), x.bfloat16(), x.half(), x.double(), x.bool(), x.bfloat16().float(), x.long().float()), x)


def test_joins():
    a, b, c = torch.randn(3, 4), torch.randn(3, 5), torch.randn(3, 0)
    check(lambda a, b, c: (torch.cat([a, b * 2, c, a.exp()], 1), torch.stack([a, a + 1]), F.pad(a, (1, 2, 0, 3), value=1.5), torch.cat([a, a], 0)), a, b, c)


def test_views():
    x = torch.randn(4, 6, 8)
    check(lambda x: (x.flip(0, 2) + x, x[:, 1:5:2] * 2, x.reshape(24, 8) + 1, (x + 1).reshape(4, 48).reshape(2, 2, 6, 8), x.transpose(0, 2).reshape(8, 24) + 1,
                     x.unsqueeze(1).expand(4, 3, 6, 8) * 2, torch.slice_scatter(x, x[:, :2] + 1, 1, 3, 5)), x)


def test_iota_and_masks():
    check(lambda x: (torch.arange(16)[None] <= torch.arange(16)[:, None], torch.arange(16) * x, torch.full((3, 4), 2.5), torch.tril(x.expand(16, 16))), torch.randn(16))


def test_gathers():
    x, i = torch.randn(10, 7), torch.randint(0, 7, (10, 3))
    rows = torch.tensor([1, -1, 3, 3])
    check(lambda x, i, r: (torch.gather(x, 1, i), x[r], x[:, r], x[r, r], F.embedding(i, x), torch.index_select(x, 0, i[:, 0])), x, i, rows)


@pytest.mark.parametrize("bad", [10, -11])
def test_index_out_of_range_raises(bad):
    x = torch.randn(10, 7)
    c = check(lambda x, i: x[i] * 2, x, torch.tensor([1, 2]))
    with pytest.raises(IndexError):
        c(x, torch.tensor([1, bad]))


def test_scatters():
    x, i, v = torch.randn(10, 7), torch.randint(0, 7, (10, 3)), torch.randn(10, 3)
    rows = torch.tensor([1, 1, 3])
    check(lambda x, i, v, r: (x.scatter_add(1, i, v), x.index_put((r,), x[r] * 2, True),
                              x.scatter_reduce(1, i, v, "amax")), x, i, v, rows)


def test_embedding_backward():
    def f(g, i):
        return torch.ops.aten.embedding_dense_backward(g, i, 20, -1, False)
    check(f, torch.randn(30, 40), torch.randint(0, 20, (30,)))


def test_scans():
    x = torch.randn(5, 100)
    check(lambda x: (x.cumsum(-1), x.cumsum(0), (x * 0.1 + 1).cumprod(-1)), x, tol=1e-4)
    check(lambda x: (x.logcumsumexp(-1), (x * 100).logcumsumexp(0)), x, kernels=2, tol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8], ids=str)
def test_running_extremes(dtype):
    x = torch.randint(0, 5, (4, 6, 9)).to(dtype)
    check(lambda x: (*x.cummax(1), *x.cummin(-1)), x, kernels=4)
    if dtype.is_floating_point:
        x = torch.tensor([-float("inf"), -1.0, float("nan"), 2.0, float("nan"), 3.0], dtype=dtype)
        check(lambda x: (*x.cummax(0), *x.cummin(0), x.logcumsumexp(0), x[:2].logcumsumexp(0)), x)


def test_arg_reductions():
    x = torch.randn(5, 300)
    x[2, 17] = float("nan")
    check(lambda x: (x.argmax(-1), x.argmin(-1), x.argmax(0)), x)


def test_long_sums_are_as_accurate_as_eager():
    x = torch.rand(1 << 20) + 1
    c = check(lambda x: (x.sum(), x.mean(), x.var()), x, tol=1e-3)
    got, exact = c(x)[0].double(), x.double().sum()
    assert abs(got - exact) <= 2 * abs(x.sum().double() - exact) + 1e-7 * exact


def test_var_of_large_mean_is_stable():
    x = torch.randn(64, 3000) + 1e4
    c = check(lambda x: (x.var(-1), x.var(0)), x, tol=1e-2)
    for got, dim in zip(c(x), (-1, 0), strict=True):
        torch.testing.assert_close(got.double(), x.double().var(dim), rtol=1e-3, atol=1e-3)


ROWS = {
    "equal": lambda n: torch.randn(6, 1).mul(1000).expand(6, n).clone(),
    "large mean": lambda n: torch.randn(6, n) + 1e4,
    "outlier first": lambda n: torch.randn(6, n).index_fill(1, torch.tensor([0]), 1e4),
    "outlier last": lambda n: torch.randn(6, n).index_fill(1, torch.tensor([n - 1]), 1e4),
}
STATISTICS = [  # of the rows of x, which are the columns of y
    lambda x, y: F.layer_norm(x, x.shape[-1:]), lambda x, y: F.group_norm(x[:, None], 1), lambda x, y: F.batch_norm(x[None], None, None, training=True),
    lambda x, y: F.batch_norm(y, None, None, training=True), lambda x, y: x.std(-1), lambda x, y: y.var(0), lambda x, y: x[0].var(),
]  # fmt: skip


@pytest.mark.parametrize("n", [33, 768, 2500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_variances_are_as_accurate_as_eagers(rows, dtype, n):
    x = ROWS[rows](n).to(dtype)
    same_as_eager(lambda x, y: tuple(f(x, y) for f in STATISTICS), x, x.t().contiguous())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n", [2, 33, 768, 2500])
def test_equal_numbers_have_no_variance(n, dtype):
    x = ROWS["equal"](n).to(dtype)
    y = x.t().contiguous()
    var, mean, columns, column_mean, normed = compiled(lambda x, y: (*torch.var_mean(x, -1), *torch.var_mean(y, 0), F.layer_norm(x, (n,))), x, y)(x, y)
    assert torch.equal(mean, x[:, 0]) and torch.equal(column_mean, x[:, 0])
    assert not var.any() and not columns.any() and not normed.any()


def test_fallback_runs_and_is_counted():
    check(lambda x: torch.sort(x * 2)[0] + 1, torch.randn(3, 10), fallbacks=1)


def test_outputs_that_are_inputs_and_views():
    check(lambda x: (x, x + 1, (x + 1).t(), x.clone()), torch.randn(4, 5))


def test_large_results_are_recycled_and_never_shared_while_alive():
    x = torch.randn(512, 1024)
    c = check(lambda x: x * 2, x)
    kept = [c(x)[0] for _ in range(4)]
    assert len({k.data_ptr() for k in kept}) == 4 and all(torch.equal(k, x * 2) for k in kept)
    assert all(k.device == x.device and k.is_contiguous() and k.storage_offset() == 0 for k in kept)
    freed = kept.pop().data_ptr()
    assert c(x)[0].data_ptr() == freed
    view = kept.pop()[3:5]
    assert c(x)[0].data_ptr() != view.untyped_storage().data_ptr()


def test_threads_share_a_graph():
    import threading
    x = torch.randn(64, 300)
    c = check(lambda x, w: torch.softmax(x @ w, -1).sum(0), x, torch.randn(300, 300), reference=False, tol=1e-4)
    inputs = [(torch.randn(64, 300), torch.randn(300, 300)) for _ in range(4)]
    wrong = []

    def work(a, w):
        want = torch.softmax(a @ w, -1).sum(0)
        wrong.extend(k for k in range(30) if not torch.allclose(c(a, w)[0], want, atol=1e-4))
    threads = [threading.Thread(target=work, args=i) for i in inputs]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong


@pytest.mark.parametrize("dtype", [torch.complex32, torch.complex64, torch.float8_e5m2, torch.float8_e4m3fn, torch.uint16])
def test_dtypes_without_arithmetic_go_through_the_library(dtype):
    x = torch.randn(3, 4).abs()
    compiled = compile_prims(prims_of(lambda x: (x + 1).to(dtype).t().contiguous(), x))
    got, want = compiled(x)[0], (x + 1).to(dtype).t().contiguous()
    assert (got.dtype, got.stride()) == (want.dtype, want.stride()) and torch.equal(got.view(torch.uint8), want.view(torch.uint8))


@pytest.mark.parametrize("view", [torch.view_as_complex, lambda y: torch.view_as_complex(y).unsqueeze(1).expand(64, 3)], ids=["dense", "expanded"])
def test_views_made_by_the_library_outlive_their_base(view):
    """The base's memory is given to a later intermediate; the view, which the plan knows as a value of its own, must not change with it."""
    def f(a, b):
        first = view(a.sin())
        second = view(b.cos())
        return first, second
    a, b = torch.randn(64, 2), torch.randn(64, 2)
    compiled = compile_prims(prims_of(f, a, b))
    for got, want in zip(compiled(a, b), f(a, b), strict=True):
        torch.testing.assert_close(got, want)
        assert got.stride() == want.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_zeros_without_memory_are_given_some(dtype):
    compiled = compile_prims(prims_of(lambda x: torch.view_as_real(torch._efficientzerotensor([4], dtype=dtype).to(torch.complex64)) + x, torch.ones(4, 2)))
    assert torch.equal(compiled(torch.ones(4, 2))[0], torch.ones(4, 2))


def test_error_of_a_fallback_is_eagers():
    c = check(lambda x: torch.histc(x * 2, 4), torch.randn(20), fallbacks=1)
    with pytest.raises(RuntimeError, match="is not finite"):
        c(torch.full((20,), float("inf")))
    assert c(torch.ones(20))[0].sum() == 20  # and the graph still works


def test_gather_from_nothing_raises_as_eager():
    c = check(lambda x, i: x[i], torch.randn(0, 3), torch.zeros(0, dtype=torch.int64), fallbacks=1)
    assert c(torch.randn(0, 3), torch.zeros(0, dtype=torch.int64))[0].shape == (0, 3)


def test_a_boxed_call_owns_its_inputs_and_drops_each_after_its_last_use():
    import gc
    import weakref

    alive: list[bool] = []
    with torch.library._scoped_library("lamina_box", "DEF") as library:
        library.define("look(Tensor x) -> Tensor")
        library.impl("look", lambda x: torch.empty_like(x), "Meta")
        library.impl("look", lambda x: (alive.append(first() is not None), x.clone())[1], "CPU")
        look = torch.ops.lamina_box.look
        graph = prims_of(lambda a, b, unused: (look(torch.mm(look(b), a)), b.t()), *[torch.randn(30, 30) for _ in range(3)])
        compiled = compile_prims(graph, kind="backward")
        box = [torch.randn(30, 30) for _ in range(3)]
        first, unused = weakref.ref(box[0]), weakref.ref(box[2])
        want = torch.mm(box[1], box[0])
        transposed = box[1].t()
        alive.clear()
        out = compiled.boxed(box)
        gc.collect()
        assert box == [] and alive == [True, False] and unused() is None
        torch.testing.assert_close(out[0], want)
        assert torch.equal(out[1], transposed)
        args = [torch.randn(30, 30) for _ in range(3)]
        first, copy = weakref.ref(args[0]), args[0].clone()
        compiled(*args)
        assert alive[2:] == [True, True] and torch.equal(args[0], copy)
        with pytest.raises(TypeError, match="3 positional"):
            compiled.boxed([args[0]])
        with pytest.raises(TypeError, match="one list"):
            compiled.boxed(args[0])
