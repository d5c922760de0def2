"""Symbolic sizes through shape rules, autograd and C++: results, guards, marks, unbacked values."""

import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from lamina_dynshape import DataDependent, DimPolicy, FakeMode, ShapeEnv, estimate_of, expr_of, hint_of, mark_dynamic, mark_static
from lamina_dynshape.composites import symbolic_form
from lamina_dynshape.shape_env import UNKNOWN_SIZE
from lamina_dynshape.support.errors import UserError
from torch.utils._python_dispatch import TorchDispatchMode


@pytest.fixture
def env():
    return ShapeEnv()


@pytest.fixture
def mode(env):
    with FakeMode(env) as m:
        yield m


def make(mode, *shape, dims=(0, 1), name="x", dtype=torch.float32):
    with torch._C._DisableTorchDispatch():  # a real tensor, though the mode is on
        real = torch.zeros(*shape, dtype=dtype)
    return mode.from_real(real, source=name, dynamic_dims=list(dims))


def texts(env):
    return [str(g) for g in env.guards]


# Programs on x: (s0, s1, 8), and the layout they must give; none may guard.
PROGRAMS = {
    "view(-1, 8)": (lambda x: x.view(-1, 8), "s0*s1, 8", "8, 1"),
    "view back": (lambda x: x.view(-1, 8).view(x.shape[0], x.shape[1], 8), "s0, s1, 8", "8*s1, 8, 1"),
    "flatten": (lambda x: x.flatten(0, 1), "s0*s1, 8", "8, 1"),
    "heads": (lambda x: x.reshape(x.shape[0], -1, 4), "s0, 2*s1, 4", "8*s1, 4, 1"),
    "transpose, contiguous": (lambda x: x.transpose(0, 1).contiguous(), "s1, s0, 8", "8*s0, 8, 1"),
    "merge after transpose": (lambda x: x.view(x.shape[0], x.shape[1], 2, 4).transpose(1, 2).reshape(x.shape[0] * 2, x.shape[1], 4), "2*s0, s1, 4", "4*s1, 4, 1"),
    "expand": (lambda x: x[:1].expand(x.shape[0], -1, -1), "s0, s1, 8", "0, 8, 1"),
    "slice": (lambda x: x[:, 1:], "s0, s1 - 1, 8", "8*s1, 8, 1"),
    "last": (lambda x: x[:, -1], "s0, 8", "8*s1, 1"),
    "half": (lambda x: x[:, : x.shape[1] // 2], "s0, s1//2, 8", "8*s1, 8, 1"),
    "channels of sizes that may be 1": (lambda x: x.new_empty(x.shape[0], 12, x.shape[1] - 1, x.shape[1] - 1)[:, :4] + 1, "s0, 4, s1 - 1, s1 - 1", "-8*s1 + 4*s1*s1 + 4, -2*s1 + s1*s1 + 1, s1 - 1, 1"),
    "cat": (lambda x: torch.cat([x, x[:, :2]], 1), "s0, s1 + 2, 8", "8*s1 + 16, 8, 1"),
    "stack": (lambda x: torch.stack([x, x], 1), "s0, 2, s1, 8", "16*s1, 8*s1, 8, 1"),
    "matmul": (lambda x: symbolic_form(torch.matmul)(x, x.mT), "s0, s1, s1", "s1*s1, s1, 1"),
    "einsum": (lambda x: torch.einsum("bik,bjk->bij", x, x), "s0, s1, s1", "s1*s1, s1, 1"),
    "linear": (lambda x: symbolic_form(F.linear)(x, torch.zeros(16, 8)), "s0, s1, 16", "16*s1, 16, 1"),
    "layer_norm": (lambda x: F.layer_norm(x, (8,)), "s0, s1, 8", "8*s1, 8, 1"),
    "softmax": (lambda x: x.softmax(1), "s0, s1, 8", "8*s1, 8, 1"),
    "sdpa": (lambda x: F.scaled_dot_product_attention(*[x.view(x.shape[0], x.shape[1], 2, 4).transpose(1, 2)] * 3), "s0, 2, s1, 4", "8*s1, 4, 8, 1"),
    "embedding": (lambda x: F.embedding(torch.arange(x.shape[1]), torch.zeros(50, 8)), "s1, 8", "8, 1"),
    "add a row": (lambda x: x + torch.zeros(x.shape[1], 1), "s0, s1, 8", "8*s1, 8, 1"),
    "causal mask": (lambda x: torch.ones(x.shape[1], x.shape[1]).tril()[None, None], "1, 1, s1, s1", None),
    "pad": (lambda x: F.pad(x, (0, 0, 1, 2)), "s0, s1 + 3, 8", "8*s1 + 24, 8, 1"),
    "dropout": (lambda x: F.dropout(x, 0.5), "s0, s1, 8", "8*s1, 8, 1"),
    "conv1d": (lambda x: F.conv1d(x.mT, torch.zeros(3, 8, 3), padding=1, stride=2), "s0, 3, (s1 + 1)//2", None),
    "conv2d": (lambda x: F.conv2d(x[:, None], torch.zeros(3, 1, 3, 3), padding=1), "s0, 3, s1, 8", "24*s1, 8*s1, 8, 1"),
    "max_pool": (lambda x: F.max_pool1d(x, 2), "s0, s1, 4", "4*s1, 4, 1"),
    "where": (lambda x: torch.where(x > 0, x, 0.0), "s0, s1, 8", "8*s1, 8, 1"),
    "masked_fill": (lambda x: x.masked_fill(x > 0, -1.0), "s0, s1, 8", "8*s1, 8, 1"),
    "index": (lambda x: x[:, torch.arange(3)], "s0, 3, 8", "24, 8, 1"),
    "gather": (lambda x: x.gather(1, torch.zeros(x.shape[0], 1, 8, dtype=torch.long)), "s0, 1, 8", "8, 8, 1"),
    "cumsum": (lambda x: x.cumsum(1), "s0, s1, 8", "8*s1, 8, 1"),
    "topk": (lambda x: x.topk(3)[0], "s0, s1, 3", "3*s1, 3, 1"),
    "chunk": (lambda x: x.chunk(2, -1)[1], "s0, s1, 4", "8*s1, 8, 1"),
    "roll": (lambda x: x.roll(1, 1), "s0, s1, 8", "8*s1, 8, 1"),
    "repeat": (lambda x: x.repeat(2, 1, 1), "2*s0, s1, 8", "8*s1, 8, 1"),
    "zeros of sizes": (lambda x: torch.zeros(x.shape[0], x.shape[1] * 2), "s0, 2*s1", "2*s1, 1"),
    "scale": (lambda x: x / x.shape[1] ** 0.5, "s0, s1, 8", "8*s1, 8, 1"),
    "cross_entropy": (lambda x: F.cross_entropy(x.view(-1, 8), torch.zeros(x.shape[0] * x.shape[1], dtype=torch.long)), "", ""),
    "add_ in a slice": (lambda x: x.clone()[:, 1:].add_(1), "s0, s1 - 1, 8", "8*s1, 8, 1"),
    "batch_norm": (lambda x: F.batch_norm(x, torch.zeros(7), torch.ones(7), training=True) if False else F.group_norm(x.mT, 2), "s0, 8, s1", None),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_stays_symbolic(mode, env, name):
    program, sizes, strides = PROGRAMS[name]
    x = make(mode, 6, 7, 8)
    result = program(x)
    assert ", ".join(map(str, result.sizes)) == sizes
    if strides is not None:
        assert ", ".join(map(str, result.strides)) == strides
    assert texts(env) == []
    with _outside(mode):
        want = program(torch.zeros(6, 7, 8))
    assert tuple(map(hint_of, result.shape)) == want.shape
    assert [hint_of(s) for s, n in zip(result.stride(), want.shape) if n != 1] == [s for s, n in zip(want.stride(), want.shape) if n != 1]


class _outside:
    def __init__(self, mode):
        self.mode = mode

    def __enter__(self):
        self.mode.__exit__(None, None, None)

    def __exit__(self, *exc):
        self.mode.__enter__()


def test_backward_stays_symbolic(mode, env):
    x = make(mode, 6, 7, 8).requires_grad_()
    w = torch.zeros(16, 8, requires_grad=True)
    z = F.layer_norm(F.gelu(symbolic_form(F.linear)(x, w)), (16,))[:, None]
    loss = F.scaled_dot_product_attention(z, z, z)[..., 1:].mean()
    gx, gw = torch.autograd.Variable._execution_engine.run_backward(
        (loss,), (torch.ones(()),), False, False, (x, w), True, accumulate_grad=False
    )
    assert gx.sizes == x.sizes and gw.sizes == (16, 8) and texts(env) == []


def test_functionalization_with_symbols(mode, env):
    functional = torch._to_functional_tensor(make(mode, 6, 7, 8))
    torch._enable_functionalization(reapply_views=True)
    try:
        functional.view(-1, 8)[1:].mul_(2)
    finally:
        torch._disable_functionalization()
    torch._sync(functional)
    assert str(torch._from_functional_tensor(functional).sizes) == "(s0, s1, 8)" and texts(env) == []


@pytest.mark.parametrize("branch, guard", [
    (lambda x: x.shape[0] > 4, "s0 >= 5"), (lambda x: x.shape[0] == x.shape[1], "s0 != s1"), (lambda x: x.shape[0] % 2 == 0, "s0%2 == 0"),
    (lambda x: x.shape[0] * 2 < x.shape[1], "2*s0 >= s1"), (lambda x: 2 * x.shape[0] > 5 and x.shape[0] >= 2, "s0 >= 3"),
    (lambda x: x.shape[0] // 2 == 3, "s0//2 == 3"), (lambda x: x.shape[0] in (3, 6), "s0 == 6"), (lambda x: int(x.shape[0]), "s0 == 6"),
    (lambda x: x.numel() > 10, None), (lambda x: x.shape[0] > 1, None), (lambda x: x.shape[0] != 0, None), (lambda x: x.numel() == 0, None),
    (lambda x: x.is_contiguous(), None), (lambda x: x.is_contiguous(memory_format=torch.channels_last), None), (lambda x: x.shape[0] > 2.5, "s0 >= 3"),
    (lambda x: x.shape[0] / 2 > 2, "s0 >= 5"), (lambda x: x.shape[0] / 4 == x.shape[1] / 2, "s0 != 2*s1"), (lambda x: x.shape[0] * 0.5 >= 1, None),
    (lambda x: torch.sym_sqrt(x.shape[0]) > 2, "sqrt(s0) > 2.0"), (lambda x: x.shape[0] / x.shape[1] < 0.9, "(s0 / s1) < 0.9"),
])
def test_branches_record_minimal_guards(mode, env, branch, guard):
    bool(branch(make(mode, 6, 7, 8)))
    assert ", ".join(texts(env)) == (guard or "")


def test_guards_do_not_repeat_what_follows(mode, env):
    x = make(mode, 6, 7, 8)
    assert x.shape[0] >= 3 and x.shape[0] >= 5 and x.shape[0] + x.shape[1] >= 6 and x.shape[1] <= 9
    assert texts(env) == ["s0 >= 5", "s1 <= 9"]
    assert [str(c) for c in env.conditions()] == ["s1 >= 2", "s0 >= 5", "s1 <= 9"]


def test_equal_sizes_share_a_symbol(mode, env):
    x, y = make(mode, 6, 7, name="x"), make(mode, 7, 6, name="y")
    assert x.sizes == (y.sizes[1], y.sizes[0])
    assert "y.size()[1] == x.size()[0]" in env.format_guards()
    assert str(make(FakeMode(ShapeEnv(duck_sizing=False)), 6, 6).sizes) == "(s0, s1)"


def test_zero_and_one_specialise(mode):
    assert make(mode, 1, 0, 5, dims=(0, 1, 2)).sizes[:2] == (1, 0)


def test_equality_replaces_the_younger_symbol(mode, env):
    x, y = make(mode, 6, 8, dims=[0], name="x"), make(mode, 12, 8, dims=[0], name="y")
    assert y.shape[0] == 2 * x.shape[0]
    z = y + torch.cat([x, x])
    assert texts(env) == ["2*s0 == s1"] and str(env.simplify(z.sizes[0])) == "2*s0"


def test_divisibility_is_learned(mode, env):
    x = make(mode, 6, 8, dims=[0])
    y = x.view(-1, 3, 8)
    assert texts(env) == ["s0%3 == 0"] and str(y.sizes) == "(s0//3, 3, 8)"
    z = y.view(x.shape[0], 8)
    assert texts(env) == ["s0%3 == 0"] and str(z.sizes) == "(s0, 8)"


def test_strides_are_bound(env):
    t = torch.zeros(6, 8, 7).transpose(1, 2)
    f = FakeMode(env).from_real(t, source="t", dynamic_dims=[0, 1])
    assert str(f.strides) == "(8*s1, 1, s1)"
    assert "t.stride()[0] == 8*t.size()[1]" in env.format_guards()


def test_mark_dynamic_with_bounds(env):
    t = torch.zeros(6, 8)
    mark_dynamic(t, 0, min=4, max=100)
    mark_static(t, 1)
    x = FakeMode(env).from_real(t, source="t")
    assert x.shape[0] > 3 and x.shape[0] < 101 and texts(env) == [] and x.sizes[1] == 8
    assert [str(c) for c in env.conditions()] == ["s0 >= 4", "s0 <= 100"]
    with pytest.raises(UserError, match=r"t\.size\(\)\[0\] is marked dynamic"):
        int(x.shape[0])
    one = torch.zeros(1)
    mark_dynamic(one, 0)
    with pytest.raises(UserError, match="always specialised"):
        FakeMode(ShapeEnv()).from_real(one, source="one")


class DimRange(NamedTuple):
    dim: int
    min: int
    max: int


def test_marks_made_for_torch_compile(env):
    t = torch.zeros(6, 8, 9)
    t._dynamo_dynamic_indices = {0}
    t._dynamo_static_indices = {1}
    t._dynamo_dynamic_range = {DimRange(0, 3, 50)}
    x = FakeMode(env).from_real(t, source="t")
    assert str(x.sizes) == "(s0, 8, 9)" and [str(c) for c in env.conditions()] == ["s0 >= 3", "s0 <= 50"]


def test_policy_in_dict(env):
    x = FakeMode(env).from_real(torch.zeros(6, 8), source="t", dynamic_dims={0: DimPolicy.DYNAMIC, 1: DimPolicy.STATIC})
    assert str(x.sizes) == "(s0, 8)"


# -- unbacked -----------------------------------------------------------------------------------------------------------------
@pytest.fixture
def unbacked(env):
    with FakeMode(env, allow_unbacked=True) as m:
        yield m


def test_item_makes_an_unbacked_integer(unbacked, env):
    n = torch.zeros(3, dtype=torch.long)[0].item()
    assert isinstance(n, torch.SymInt) and str(n) == "u0"
    with pytest.raises(DataDependent):
        bool(n > 3)
    torch._check(n > 3)
    assert bool(n > 3) and bool(n > 0) and [str(a.expr) for a in env.runtime_asserts] == ["u0 >= 4"]
    y = torch.zeros(n, 4)
    assert str(y.sizes) == "(u0, 4)" and (y + 1).view(-1).sizes == (y.numel().node.expr,)
    assert isinstance(torch.zeros(3)[0].item(), torch.SymFloat)


@pytest.mark.parametrize("fn", [torch.clone, torch.zeros_like, lambda x: x + 1, lambda x: x + x.sum()])
def test_the_order_of_strides_asserts_nothing(unbacked, env, fn):
    n = torch.zeros(3, dtype=torch.long)[0].item()
    torch._check(n >= 1)
    x = torch.zeros(4, n, 3).transpose(0, 1)
    assert str(x.strides) == "(3, 3*u0, 1)" and fn(x).strides == x.strides
    assert [str(a.expr) for a in env.runtime_asserts] == ["u0 >= 1"]


def test_nonzero_and_masks(unbacked, env):
    x = make(unbacked, 6, 8)
    picked = x[x > 0]
    assert len(picked.sizes) == 1 and not env.has_hint(picked.sizes[0])
    assert bool(picked.shape[0] >= 0) and bool(picked.shape[0] <= x.numel())
    assert torch.nonzero(x).sizes[1] == 2 and (picked * 2).sizes == picked.sizes


def test_estimates_stand_in_for_what_has_no_hint(unbacked, env):
    x = make(unbacked, 6, 8)
    assert estimate_of(x[x > 0].shape[0]) in (48, UNKNOWN_SIZE) and estimate_of(x.shape[0] + 1) == 7
    values, inverse = torch.ops.aten._unique(torch.zeros(5, dtype=torch.long), return_inverse=True)
    assert estimate_of(values.shape[0]) == 5 and inverse.shape == (5,)


COUNTS, WEIGHTS = torch.tensor([1, 2, 3, 1, 5]), torch.tensor([0.5, 1.0, 2.0, 0.0, 1.5])


@pytest.mark.parametrize("kwargs", [{}, {"correction": 0}, {"fweights": COUNTS}, {"aweights": WEIGHTS}, {"fweights": COUNTS, "aweights": WEIGHTS, "correction": 2}, {"fweights": COUNTS, "correction": 20}])
@pytest.mark.parametrize("size", [(3, 5), (5,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.int64])
@pytest.mark.filterwarnings("ignore:cov")
def test_covariance_without_looking_at_values(kwargs, size, dtype):
    x = (torch.randn(size, dtype=torch.complex64) * 4).to(dtype) if dtype.is_complex else (torch.randn(size) * 4).to(dtype)
    expected = torch.cov(x, **kwargs)
    torch.testing.assert_close(symbolic_form(torch.cov)(x, **kwargs), expected, rtol=0, atol=0, equal_nan=True)
    with FakeMode() as mode:
        on_fakes = symbolic_form(torch.Tensor.cov)(mode.from_real(x), **{k: mode.from_real(v) if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()})
    assert on_fakes.shape == expected.shape and on_fakes.dtype == expected.dtype
    if not kwargs:
        torch.testing.assert_close(symbolic_form(torch.corrcoef)(x), torch.corrcoef(x), rtol=0, atol=0)


def test_covariance_checks_weights_when_it_runs():
    x = torch.randn(3, 5)
    for kwargs, said in (({"fweights": -COUNTS}, "fweights cannot be negative"), ({"aweights": WEIGHTS * 0}, "sum to zero")):
        for cov in (torch.cov, symbolic_form(torch.cov)):
            with pytest.raises(RuntimeError, match=said):
                cov(x, **kwargs)


ISTFT = [
    {}, {"hop_length": 3}, {"win_length": 10}, {"center": False, "window": torch.hann_window(16) + 0.1}, {"length": 20}, {"normalized": True, "hop_length": 5}, {"onesided": False},
    {"return_complex": True, "onesided": False}, {"win_length": 11, "window": torch.linspace(0.2, 1, 11)}, {"window": torch.hann_window(16), "center": False},
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:A window was not provided")
@pytest.mark.parametrize("kwargs", ISTFT, ids=str)
@pytest.mark.parametrize("size", [(9, 5), (2, 9, 5), (2, 16, 6)])
def test_inverse_short_time_transform_without_looking_at_values(kwargs, size):
    """Bit for bit what the operator gives, and an error where it gives one: in the last case the windows leave a gap."""
    x = torch.randn(size, dtype=torch.complex64)
    try:
        expected = torch.istft(x, 16, **kwargs)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            symbolic_form(torch.istft)(x, 16, **kwargs)
        return
    got = symbolic_form(torch.istft)(x, 16, **kwargs)
    assert torch.equal(got, expected) and got.stride() == expected.stride()
    with FakeMode() as mode:
        fake = symbolic_form(torch.Tensor.istft)(mode.from_real(x), 16, **{k: mode.from_real(v) if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()})
    assert fake.shape == expected.shape and fake.dtype == expected.dtype


@pytest.mark.parametrize("dtypes", [(torch.complex64, torch.complex64), (torch.float16, torch.float32), (torch.float32, torch.complex64)], ids=str)
def test_a_distance_is_real(dtypes):
    a, b = (torch.randn(3).to(dtype) for dtype in dtypes)
    with FakeMode() as mode:
        assert torch.dist(mode.from_real(a), mode.from_real(b)).dtype is torch.dist(a, b).dtype


# -- matrix products ----------------------------------------------------------------------------------------------------------
PAIRS = [((2, 3, 4), (4, 5)), ((2, 3, 4), (4,)), ((5, 3), (2, 3, 4)), ((3,), (2, 3, 4)), ((6, 2, 3, 4), (4, 5)), ((2, 0, 4), (4, 5)), ((2, 3), (3, 4)), ((2, 3, 4), (2, 4, 5)), ((1, 3, 4), (2, 4, 5)), ((2, 3, 4), (1, 4, 5)), ((6, 1, 3, 4), (2, 4, 5)), ((6, 2, 3, 4), (6, 2, 4, 5))]


COMPUTE = {"aten.mm.default", "aten.mv.default", "aten.bmm.default", "aten.clone.default"}


class Called(TorchDispatchMode):
    """The operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("grads", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("sizes", PAIRS)
def test_matrix_products_of_symbolic_sizes_call_what_eager_calls(sizes, strided, grads):
    a, b = (torch.randn(s).requires_grad_(g) for s, g in zip(sizes, grads))
    if strided and a.dim() > 2:
        a = torch.randn(*sizes[0][1:], sizes[0][0]).movedim(-1, 0).requires_grad_(grads[0])
    with Called() as eager:
        want = torch.matmul(a, b)
    with FakeMode(ShapeEnv()) as mode:
        fakes = [mode.from_real(t, source=name, dynamic_dims=list(range(t.dim()))) for name, t in (("a", a), ("b", b))]
        with Called() as ours:
            got = symbolic_form(torch.matmul)(*fakes)
    assert [n for n in ours.names if n in COMPUTE] == [n for n in eager.names if n in COMPUTE]
    assert tuple(map(hint_of, got.shape)) == want.shape and tuple(map(hint_of, got.stride())) == want.stride()


@pytest.mark.parametrize("size", [(2, 3, 4), (6, 2, 3, 4), (3, 4), (4,)])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_of_symbolic_sizes(size, bias):
    x, w, b = torch.randn(size), torch.randn(5, 4), torch.randn(5) if bias else None
    want = F.linear(x, w, b)
    with FakeMode(ShapeEnv()) as mode:
        fakes = [t if t is None else mode.from_real(t, source=name, dynamic_dims=list(range(t.dim()))) for name, t in (("x", x), ("w", w), ("b", b))]
        got = symbolic_form(F.linear)(*fakes)
    assert tuple(map(hint_of, got.shape)) == want.shape and got.requires_grad == want.requires_grad


# -- numbers ------------------------------------------------------------------------------------------------------------------
def test_symbolic_numbers(mode, env):
    n = make(mode, 6, 7).shape[0]
    assert str(expr_of(2 * n + 1)) == "2*s0 + 1" and hint_of(n * n) == 36 and hint_of(n / 4) == 1.5
    assert str(torch.sym_max(n, 3)) == "emax(3, s0)" and hint_of(torch.sym_min(n, 3)) == 3
    assert str(math.floor(n * 0.5)) == "s0//2" and str(math.ceil(n / 4)) == str(-((-n) // 4))
    assert str(n - n + 4) == "4" and str(torch.sym_sum([n, n, 1])) == "2*s0 + 1" and hint_of(n**2) == 36
    assert texts(env) == []
    assert math.isclose(hint_of(torch.sym_sqrt(n)), 6**0.5)
    assert list(range(n)) == list(range(6)) and texts(env) == ["s0 == 6"]


def test_frozen_environment_refuses_guards(mode, env):
    from lamina_dynshape.support.errors import Unsupported

    x = make(mode, 6, 7)
    env.freeze()
    assert x.shape[0] >= 2
    with pytest.raises(Unsupported, match="after the guards"):
        bool(x.shape[0] > 3)


def test_views_of_sizes_that_only_the_running_program_knows():
    """A run of dimensions is followed to the one that certainly completes it, though `covered < elements` cannot be told."""
    env = ShapeEnv()
    mode = FakeMode(env)
    batch = mode.from_real(torch.zeros(3, 1), source="x", dynamic_dims=[0]).shape[0]
    with mode:
        chunks = 2 * env.create_unbacked(1) - 1
        x = torch.empty_strided((batch, chunks, 32, 32, 1), (1, 1024 * batch, 32 * batch, batch, batch))
        y = x.view(batch, chunks, 32, 32)
    assert y.strides == x.strides[:4]
