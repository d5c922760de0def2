"""Every prim: its reference against an independent computation, its meta rule against the reference, and what both refuse."""

from __future__ import annotations

import pytest
import torch
from lamina_primops.prims import PRIMS, Spec, register
from lamina_primops.prims.pointwise import BINARY, COMPARISONS, DOMAINS, PREDICATES, UNARY
from lamina_primops.prims.special import SPECIAL_BINARY, SPECIAL_UNARY

np = pytest.importorskip("numpy")
CPU = torch.device("cpu")


def _data(dtype: torch.dtype, shape: tuple[int, ...] = (3, 4), seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.rand(shape, generator=g) > 0.5
    if dtype.is_floating_point:
        return (torch.rand(shape, generator=g, dtype=torch.float64) * 0.9 + 0.05).to(dtype)
    return torch.randint(1, 5, shape, generator=g).to(dtype)


def _samples():
    x, y = _data(torch.float32), _data(torch.float32, seed=1)
    for table in (UNARY, PREDICATES, SPECIAL_UNARY):
        for name, (_, domain, _doc) in table.items():
            for dtype in sorted(DOMAINS[domain], key=str):
                yield name, (_data(dtype),)
                yield name, (_data(dtype, (4, 3)).t(),)
                yield name, (_data(dtype, ()),)
    for table in (BINARY, COMPARISONS):
        for name, (_, domain, _doc) in table.items():
            for dtype in sorted(DOMAINS[domain], key=str):
                yield name, (_data(dtype), _data(dtype, seed=1))
                yield name, (_data(dtype, (0, 3)), _data(dtype, (0, 3)))
                yield f"{name}_scalar", (_data(dtype), 1 if not dtype.is_floating_point else 0.5)
    for name, (_, domain, _doc) in SPECIAL_BINARY.items():
        for dtype in sorted(DOMAINS[domain], key=str):
            yield name, (_data(dtype), _data(dtype, seed=1))
    for name in ("rsub_scalar", "rdiv_scalar", "rpow_scalar"):
        yield name, (x, 2.5)
    i = torch.tensor([2, 0, 1])
    yield from [
        ("where", (x > y, x, y)), ("fma", (x, y, x)), ("convert", (x, torch.int64)), ("convert", (x, torch.bfloat16)), ("convert", (i, torch.bool)),
        ("bitcast", (x, torch.int32)), ("full", ([2, 3], 7, torch.int32, CPU)), ("full", ([], 0.5, torch.bfloat16, CPU)),
        ("iota", (5, 2, 3, torch.int64, CPU)), ("iota", (0, 0, 1, torch.int32, CPU)),
        ("expand", (x[:, :1], [3, 6])), ("reshape", (x.t(), [2, 6])), ("permute", (x, [1, 0])), ("slice", (x, 1, 1, 4, 2)), ("slice", (x, 0, 1, 1, 1)),
        ("flip", (x, [0, 1])), ("as_strided", (x.t(), [2, 3], [1, 4], 1)), ("cat", ([x, y, x[:1]], 0)), ("pad", (x, [1, 0], [0, 2], -1.0)),
        ("slice_scatter", (x, y[:, :2], 1, 0, 4, 2)), ("restride", (x, [3, 4], [1, 3])),
        *[(n, (x, dims, k)) for n in ("sum", "prod", "amax", "amin") for dims in ([0], [1], [0, 1]) for k in (False, True)],
        *[(n, (x > y, dims, k)) for n in ("any", "all") for dims in ([0], [0, 1]) for k in (False, True)],
        *[(n, (x, d, k)) for n in ("argmax", "argmin") for d in (0, 1) for k in (False, True)],
        ("var_mean", (x, [1], 1, False)), ("var_mean", (x, [0, 1], 0, True)), ("cumsum", (x, 1)), ("logcumsumexp", (x, 1)), ("cummax", (x, 0)), ("cummin", (i, 0)), ("cumprod", (i, 0)),
        ("gather", (x, 0, torch.tensor([[1, 0, 2, 1]]))), ("index", (x, [None, i])), ("index", (torch.arange(60).reshape(3, 4, 5), [i, None, -i])),
        *[("scatter", (x, 0, torch.tensor([[1, 0, 2, 1]]), y, r)) for r in ("set", "add", "mul", "amax", "amin")],
        ("index_put", (x, [i], y, False)), ("index_put", (x, [i - 3], y, True)), ("index_select", (x, 1, i)),
        ("mm", (x, y.t())), ("bmm", (x[None], y.t()[None])),
        ("convolution", (torch.randn(2, 4, 9), torch.randn(6, 2, 3), torch.randn(6), [2], [1], [1], False, [0], 2)),
        ("convolution", (torch.randn(2, 4, 5, 5), torch.randn(4, 3, 3, 3), None, [2, 2], [1, 1], [1, 1], True, [1, 1], 1)),
    ]  # fmt: skip


SAMPLES = list(_samples())


def _spec_of(t: torch.Tensor) -> tuple:
    return tuple(t.shape), t.dtype, t.device


def test_every_prim_has_a_sample():
    assert set(PRIMS) == {name for name, _ in SAMPLES}


@pytest.mark.parametrize("name", sorted(PRIMS))
def test_meta_rule_agrees_with_the_reference(name):
    prim = PRIMS[name]
    for args in (a for n, a in SAMPLES if n == name):
        result, spec = prim.overload(*args), prim.meta(*args)
        results = result if isinstance(result, tuple) else (result,)
        specs = spec if not isinstance(spec, Spec) else (spec,)
        assert len(results) == len(specs)
        for r, s in zip(results, specs, strict=True):
            assert _spec_of(r) == (s.shape, s.dtype, s.device), args
            assert len(s.strides) == len(s.shape)


@pytest.mark.parametrize("name", sorted(PRIMS))
def test_results_are_fresh_and_operands_unchanged(name):
    prim = PRIMS[name]
    for args in (a for n, a in SAMPLES if n == name):
        tensors = [t for a in args for t in (a if isinstance(a, list) else [a]) if isinstance(t, torch.Tensor)]
        before = [t.clone() for t in tensors]
        prim.overload(*args)
        assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


NUMPY = {
    "abs": np.abs, "neg": np.negative, "sign": np.sign, "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2,
    "log10": np.log10, "log1p": np.log1p, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "reciprocal": np.reciprocal, "sin": np.sin, "cos": np.cos,
    "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh,
    "atanh": np.arctanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.round,
    "isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite, "signbit": np.signbit, "add": np.add, "sub": np.subtract, "mul": np.multiply,
    "div": np.divide, "floordiv": np.floor_divide, "truncdiv": lambda a, b: np.trunc(a / b), "remainder": np.mod, "fmod": np.fmod, "pow": np.power,
    "maximum": np.maximum, "minimum": np.minimum, "fmax": np.fmax, "fmin": np.fmin, "atan2": np.arctan2, "hypot": np.hypot, "copysign": np.copysign,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(NUMPY))
def test_pointwise_reference_is_the_mathematical_function(name):
    specials = torch.tensor([0.0, -0.0, 1.0, -1.5, 2.5, float("inf"), float("-inf"), float("nan"), 0.3], dtype=torch.float64)
    args = [specials] if name in UNARY or name in PREDICATES else [specials, specials.flip(0)]
    with np.errstate(all="ignore"):
        want = torch.from_numpy(np.asarray(NUMPY[name](*[a.numpy() for a in args])))
    got = PRIMS[name].overload(*args)
    if name == "sign":  # NaN: PyTorch's sign gives 0
        want = torch.nan_to_num(want)
    if name == "floordiv":  # NumPy gives NaN where the divisor is 0 or an operand infinite
        keep = torch.isfinite(args[0]) & torch.isfinite(args[1]) & (args[1] != 0)
        got, want = got[keep], want[keep]
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0, equal_nan=True)


def test_scalar_form_is_the_tensor_form():
    for name, args in SAMPLES:
        if name.endswith("_scalar") and name.removesuffix("_scalar") in PRIMS:
            x, s = args
            want = PRIMS[name.removesuffix("_scalar")].overload(x, torch.full_like(x, s))
            torch.testing.assert_close(PRIMS[name].overload(x, s), want, rtol=0, atol=0, equal_nan=True)


def test_as_strided_ignores_memory_layout():
    x = torch.arange(12.0).reshape(3, 4)
    a, b = (PRIMS["as_strided"].overload(t, [2, 2], [4, 1], 1) for t in (x, x.t().contiguous().t()))
    assert torch.equal(a, b) and a.tolist() == [[1, 2], [5, 6]]


def test_first_occurrence_and_nan_win():
    x = torch.tensor([[1.0, 3.0, 3.0], [1.0, float("nan"), float("nan")]])
    assert PRIMS["argmax"].overload(x, 1, False).tolist() == [1, 1]
    assert PRIMS["argmin"].overload(-x, 1, False).tolist() == [1, 1]


F, I = _data(torch.float32), torch.tensor([0, 1])
REFUSED = [
    ("add", (F, F.double()), "conversion is explicit"), ("add", (F, F[:1]), "broadcast is explicit"), ("add", (F.bfloat16(), F.bfloat16()), "does not take"),
    ("exp", (I,), "does not take"), ("add_scalar", (I, 0.5), "is a float"), ("where", (F, F, F), "not bool"), ("full", ([1], 0.5, torch.int64, CPU), "is a float"),
    ("iota", (3, 0, 1, torch.float32, CPU), "makes integers"), ("expand", (F, [2, 3, 4]), "keeps the rank"), ("expand", (F, [5, 4]), "does not broadcast"),
    ("reshape", (F, [-1]), "-1 is not allowed"), ("reshape", (F, [5]), "number of elements"), ("permute", (F, [0, 0]), "not a permutation"),
    ("slice", (F, -1, 0, 1, 1), "canonical"), ("slice", (F, 0, 0, 9, 1), "not clamped"), ("slice", (F, 0, 0, 2, 0), "not positive"), ("flip", (F, [0, 0]), "repeats"),
    ("as_strided", (F, [3], [9], 0), "outside"), ("cat", ([F, F[:, :1]], 0), "differ"), ("cat", ([], 0), "no tensors"), ("pad", (F, [-1, 0], [0, 0], 0.0), "not negative"),
    ("slice_scatter", (F, F, 0, 0, 1, 1), "the slice"), ("restride", (F, [4, 3], [3, 1]), "keeps the shape"), ("sum", (F, [], False), "no dimensions"),
    ("sum", (F, [0, 0], False), "repeats"), ("sum", (F.bfloat16(), [0], False), "convert first"), ("var_mean", (I, [0], 1, False), "convert first"),
    ("any", (F, [0], False), "convert first"), ("cumsum", (F > 0, 0), "convert first"), ("gather", (F, 0, F), "not int64"), ("gather", (F, 0, I), "rank"),
    ("index", (F, [None]), "no index"), ("index", (F, [I, I[:1]]), "broadcast is explicit"), ("scatter", (F, 0, I[None], F, "mean"), "unknown reduction"),
    ("index_put", (F, [I], F, False), "the place"), ("index_select", (F, 0, I[None]), "rank"), ("mm", (F, F), "mm of"), ("bmm", (F[None], F[None]), "bmm of"),
    ("bitcast", (F, torch.int64), "element size"),
    ("convolution", (F[None], F[None], None, [1, 1], [0], [1], False, [0], 1), "spatial"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "message"), REFUSED, ids=[f"{n}-{m}" for n, _, m in REFUSED])
def test_meta_rule_refuses(name, args, message):
    with pytest.raises((TypeError, ValueError), match=message):
        PRIMS[name].meta(*args)


@pytest.mark.parametrize(
    ("schema", "kind", "doc", "message"),
    [
        ("add(Tensor a, Tensor b) -> Tensor", "pointwise", "again", "registered already"),
        ("brand_new(Tensor a) -> Tensor", "wiggly", "doc", "unknown kind"),
        ("brand_new(Tensor a) -> Tensor", "view", " ", "no doc"),
        ("brand_new(Tensor(a!) a) -> Tensor", "view", "doc", "mutates or aliases"),
        ("brand_new(Tensor(a) a) -> Tensor(a)", "view", "doc", "mutates or aliases"),
        ("brand_new(Tensor a, int b=1) -> Tensor", "view", "doc", "defaults"),
        ("brand_new(Tensor a, Tensor b) -> Tensor", "pointwise", "doc", "the meta rule takes 1"),
    ],
)
def test_registration_refuses(schema, kind, doc, message):
    with pytest.raises(ValueError, match=message):
        register(schema, kind, meta=lambda x: None, reference=lambda x: x, doc=doc)
    assert "brand_new" not in PRIMS
