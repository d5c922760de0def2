"""Every prim: its reference against an independent computation, its meta rule against the reference, and what both refuse."""

from __future__ import annotations

import pytest
import torch
from lamina_primops.prims import PRIMS, Spec, register
from lamina_primops.prims.pointwise import PREDICATES, UNARY
from lamina_primops.prims.samples import prim_samples, sample_tensor as _data

np = pytest.importorskip("numpy")
CPU = torch.device("cpu")


SAMPLES = list(prim_samples())


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
