"""Decompositions as plain functions on real tensors (the prims' references) against the ATen op they stand for, and through `lower`.

Forms: dense, transposed, strided, broadcast, rank 0, empty, bfloat16. op_db is swept in test_sweep; here are the forms op_db has few of.
"""

from __future__ import annotations

import pytest
import torch
from helpers import aten, fakes
from lamina_primops import DECOMPOSITIONS, interpret, lower, trace

A = aten
g = torch.Generator().manual_seed(0)


def t(*shape, dtype=torch.float32, low=-2.0, high=2.0):
    return (torch.rand(shape, generator=g) * (high - low) + low).to(dtype)


def forms(rows=4, columns=6):
    """The same kind of matrix in several layouts."""
    return {
        "dense": t(rows, columns), "transposed": t(columns, rows).t(), "strided": t(rows, 2 * columns)[:, ::2], "broadcast": t(1, columns).expand(rows, columns),
        "bfloat16": t(rows, columns).bfloat16(), "half": t(rows, columns).half(), "double": t(rows, columns).double(), "offset": t(rows + 2, columns)[2:],
    }  # fmt: skip


def compare(overload, args, kwargs=None, *, exact=False):
    """The decomposition on real tensors, and the lowered graph, against ATen."""
    kwargs = kwargs or {}
    expected = overload(*args, **kwargs)
    direct = DECOMPOSITIONS[overload].rule(*args, **kwargs)
    assert direct is not NotImplemented, "the decomposition does not cover this"
    reals = [a for a in args if isinstance(a, torch.Tensor)]
    it = iter(range(len(reals)))
    places = [next(it) if isinstance(a, torch.Tensor) else None for a in args]
    gm = trace(lambda *xs: overload(*[a if i is None else xs[i] for a, i in zip(args, places, strict=True)], **kwargs), fakes(*reals))
    lowered = interpret(lower(gm), *reals)
    flat = list(expected) if isinstance(expected, (tuple, list)) else [expected]
    for result in (list(direct) if isinstance(direct, (tuple, list)) else [direct], lowered):
        for want, got in zip(flat, result, strict=True):
            if want is None or (isinstance(want, torch.Tensor) and got is None):
                continue
            assert (want.shape, want.dtype) == (got.shape, got.dtype)
            tolerance = {"rtol": 0, "atol": 0} if exact else {}
            if not _more_accurate(got, want, overload, args, kwargs):
                torch.testing.assert_close(got, want, equal_nan=True, check_stride=False, **tolerance)


def _more_accurate(got, want, overload, args, kwargs):
    """For half types only: whether our rounding error is not larger than that of eager, whose kernels may round in between."""
    if got.dtype not in (torch.float16, torch.bfloat16) or isinstance(overload(*args, **kwargs), tuple):
        return False
    exact = overload(*[a.double() if isinstance(a, torch.Tensor) and a.dtype.is_floating_point else a for a in args], **kwargs)
    ours, theirs = ((v.double() - exact).abs() for v in (got, want))
    return torch.equal(ours.isnan(), theirs.isnan()) and bool(ours.nanmean() <= theirs.nanmean())


UNARY = """abs acos acosh asin asinh atan atanh ceil cos cosh digamma erf erfc erfinv exp exp2 expm1 floor frac gelu hardsigmoid hardswish isnan isinf isfinite
    lgamma log log10 log1p log2 logical_not logit mish neg reciprocal relu round rsqrt sgn sigmoid sign silu sin sinh softplus sqrt square tan tanh trunc elu
    leaky_relu hardtanh log_sigmoid_forward nan_to_num sinc softshrink hardshrink""".split()  # fmt: skip
EXACT = {"abs", "ceil", "floor", "round", "trunc", "relu", "neg", "sign", "sgn", "isnan", "isinf", "isfinite", "logical_not", "frac", "hardtanh", "nan_to_num", "hardshrink"}


@pytest.mark.parametrize("form", [*forms(), "rank 0", "empty", "specials"])
@pytest.mark.parametrize("name", UNARY)
def test_unary(name, form):
    special = {"rank 0": t(), "empty": t(0, 3), "specials": torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-40, 3e38, 0.5])}
    x = special[form] if form in special else forms()[form]
    if form == "specials" and name == "gelu":
        x = x[~(x.abs() > 1e30)]  # eager's vectorised kernel gives NaN for gelu(inf) and overflows before, its scalar one does not
    compare(getattr(A, name).default, [x], exact=name in EXACT)


BINARY = [
    (A.add.Tensor, {}), (A.add.Tensor, {"alpha": 3}), (A.sub.Tensor, {}), (A.sub.Tensor, {"alpha": 0.5}), (A.rsub.Tensor, {}), (A.mul.Tensor, {}), (A.div.Tensor, {}),
    (A.maximum.default, {}), (A.minimum.default, {}), (A.fmax.default, {}), (A.fmin.default, {}), (A.atan2.default, {}), (A.remainder.Tensor, {}), (A.fmod.Tensor, {}),
    (A.hypot.default, {}), (A.copysign.Tensor, {}), (A.eq.Tensor, {}), (A.lt.Tensor, {}), (A.ge.Tensor, {}), (A.logical_and.default, {}), (A.xlogy.Tensor, {}),
    (A.pow.Tensor_Tensor, {}), (A.logaddexp.default, {}), (A.heaviside.default, {}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "kwargs"), BINARY, ids=[f"{o}-{k}" for o, k in BINARY])
def test_binary_layouts_and_broadcast(op, kwargs):
    low = 0.1 if op is A.pow.Tensor_Tensor else -2.0
    for x in forms().values():
        x = x.abs() + 0.1 if low > 0 else x
        for y in (t(4, 6, low=low), t(6, low=low), t(4, 1, low=low), t(6, 4, low=low).t(), t(1, 1, low=low)):
            compare(op, [x, y.to(x.dtype)], kwargs)
    compare(op, [t(0, 3), t(1, 3)], kwargs)
    compare(op, [t(low=0.1), t(low=0.1)], kwargs)


PROMOTIONS = [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("left", PROMOTIONS, ids=str)
@pytest.mark.parametrize("right", [*PROMOTIONS, "rank 0 double", "rank 0 long", 2, 2.5, True], ids=str)
def test_type_promotion_is_eagers(left, right):
    x = (t(3, 4) > 0) if left is torch.bool else t(3, 4, low=1, high=4).to(left)
    special = {"rank 0 double": torch.tensor(1.5, dtype=torch.float64), "rank 0 long": torch.tensor(3)}
    if isinstance(right, torch.dtype):
        y = (t(3, 4) > 0) if right is torch.bool else t(3, 4, low=1, high=4).to(right)
    else:
        y = special.get(right, right) if isinstance(right, str) else right
    for op in (A.add.Tensor, A.mul.Tensor, A.div.Tensor, A.gt.Tensor, A.where.self):
        if op is A.gt.Tensor and not isinstance(y, torch.Tensor):
            op = A.gt.Scalar
        if op is A.where.self:
            op = A.where.self if isinstance(y, torch.Tensor) else A.where.ScalarOther
            compare(op, [x > 1 if x.dtype is not torch.bool else x, x, y])
        else:
            compare(op, [x, y])


REDUCTIONS = [
    (A.sum.dim_IntList, [[1]]), (A.sum.dim_IntList, [[0, 1], True]), (A.sum.default, []), (A.mean.dim, [[0]]), (A.mean.default, []), (A.amax.default, [[1], True]),
    (A.amin.default, [[0]]), (A.prod.dim_int, [1]), (A.prod.default, []), (A.var.correction, [[1]]), (A.std.correction, [[0, 1]]), (A.var_mean.correction, [[0]]),
    (A.argmax.default, [1]), (A.argmin.default, []), (A.max.dim, [1]), (A.min.dim, [0, True]), (A.any.dim, [1]), (A.all.default, []), (A.logsumexp.default, [[1]]),
    (A._softmax.default, [1, False]), (A._log_softmax.default, [0, False]), (A.cumsum.default, [1]), (A.cumprod.default, [0]), (A.linalg_vector_norm.default, [2, [1]]),
    (A.linalg_vector_norm.default, [3.5, None]), (A.count_nonzero.dim_IntList, [[0]]), (A.nansum.default, [[1]]),
]  # fmt: skip


@pytest.mark.parametrize(("op", "args"), REDUCTIONS, ids=[f"{o}-{a}" for o, a in REDUCTIONS])
def test_reductions_on_layouts(op, args):
    for x in forms().values():
        compare(op, [x, *args])


NORM_X, NORM_W, NORM_B = t(2, 6, 5), t(6), t(6)
ROW_W, ROW_B = t(5), t(5)
BATCH = [NORM_X, NORM_W, NORM_B, t(6), t(6, low=0.5)]
LN = A.native_layer_norm.default(NORM_X, [5], ROW_W, ROW_B, 1e-5)
GN = A.native_group_norm.default(NORM_X, NORM_W, NORM_B, 2, 6, 5, 3, 1e-5)
BN = A._native_batch_norm_legit.no_stats(NORM_X, NORM_W, NORM_B, True, 0.1, 1e-5)
LOGITS, CLASSES = t(5, 7), torch.tensor([0, 6, 2, -100, 3])
IMAGE = t(2, 3, 8, 6)
CASES = [
    (A.native_layer_norm.default, [NORM_X, [5], ROW_W, ROW_B, 1e-5]), (A.native_layer_norm.default, [NORM_X, [6, 5], None, None, 1e-5]),
    (A.native_layer_norm.default, [NORM_X.bfloat16(), [5], ROW_W.bfloat16(), ROW_B.bfloat16(), 1e-5]),
    (A.native_layer_norm_backward.default, [t(2, 6, 5), NORM_X, [5], LN[1], LN[2], ROW_W, ROW_B, [True, True, True]]),
    (A.native_group_norm.default, [NORM_X, NORM_W, NORM_B, 2, 6, 5, 3, 1e-5]), (A.native_group_norm.default, [NORM_X, None, None, 2, 6, 5, 2, 1e-5]),
    (A.native_group_norm_backward.default, [t(2, 6, 5), NORM_X, GN[1], GN[2], NORM_W, 2, 6, 5, 3, [True, True, True]]),
    (A._native_batch_norm_legit_no_training.default, [*BATCH, 0.1, 1e-5]), (A._native_batch_norm_legit.no_stats, [NORM_X, NORM_W, NORM_B, True, 0.1, 1e-5]),
    (A._native_batch_norm_legit_functional.default, [*BATCH, True, 0.1, 1e-5]), (A.native_batch_norm.default, [*BATCH, False, 0.1, 1e-5]),
    (A.native_batch_norm_backward.default, [t(2, 6, 5), NORM_X, NORM_W, t(6), t(6, low=0.5), BN[1], BN[2], True, 1e-5, [True, True, True]]),
    (A.native_batch_norm_backward.default, [t(2, 6, 5), NORM_X, NORM_W, t(6), t(6, low=0.5), BN[1], BN[2], False, 1e-5, [True, True, True]]),
    *[(A.nll_loss_forward.default, [LOGITS, CLASSES, w, r, -100]) for w in (None, t(7, low=0.1)) for r in (0, 1, 2)],
    *[(A.nll_loss_backward.default, [t(5) if r == 0 else t(), LOGITS, CLASSES, w, r, -100, torch.tensor(3.5)]) for w in (None, t(7, low=0.1)) for r in (0, 1, 2)],
    (A.nll_loss2d_forward.default, [t(2, 4, 3, 3), torch.randint(0, 4, (2, 3, 3), generator=g), None, 1, -100]),
    *[(A.mse_loss.default, [t(3, 4), t(3, 4), r]) for r in (0, 1, 2)], (A.mse_loss_backward.default, [t(), t(3, 4), t(3, 4), 1]),
    (A.smooth_l1_loss.default, [t(3, 4), t(3, 4), 1, 0.7]), (A.smooth_l1_loss_backward.default, [t(), t(3, 4), t(3, 4), 1, 0.7]),
    (A.huber_loss.default, [t(3, 4), t(3, 4), 1, 0.7]), (A.huber_loss_backward.default, [t(), t(3, 4), t(3, 4), 1, 0.7]),
    (A.binary_cross_entropy.default, [t(3, 4, low=0, high=1), t(3, 4, low=0, high=1)]),
    (A.binary_cross_entropy_with_logits.default, [t(3, 4), t(3, 4), None, t(4, low=0.5), 1]),
    *[(A.gelu_backward.default, [t(3, 4), t(3, 4)], {"approximate": m}) for m in ("none", "tanh")], (A.gelu.default, [t(3, 4)], {"approximate": "tanh"}),
    *[(getattr(A, f"{n}_backward").default, [t(3, 4), t(3, 4)]) for n in ("silu", "mish", "hardswish", "hardsigmoid", "sigmoid", "tanh")],
    (A.threshold_backward.default, [t(3, 4), t(3, 4), 0]), (A.softplus_backward.default, [t(3, 4), t(3, 4), 1, 20]), (A.glu.default, [t(3, 4), 1]),
    (A.elu_backward.default, [t(3, 4), 1, 1, 1, False, t(3, 4)]), (A.leaky_relu_backward.default, [t(3, 4), t(3, 4), 0.1, False]),
    (A.glu_backward.default, [t(3, 2), t(3, 4), 1]), (A._softmax_backward_data.default, [t(3, 4), torch.softmax(t(3, 4), 1), 1, torch.float32]),
    (A._log_softmax_backward_data.default, [t(3, 4), torch.log_softmax(t(3, 4), 1), 1, torch.float32]), (A.log_sigmoid_backward.default, [t(3, 4), LOGITS[:3, :4], A.log_sigmoid_forward.default(LOGITS[:3, :4])[1]]),
    (A.embedding.default, [t(9, 4), torch.tensor([[1, 8], [0, 3]])]), (A.embedding_dense_backward.default, [t(2, 2, 4), torch.tensor([[1, 8], [1, 3]]), 9, 3, False]),
    (A.index.Tensor, [t(4, 5, 6), [torch.tensor([1, -1]), None, torch.tensor([[0], [2]])]]), (A.index.Tensor, [t(4, 5, 6), [None, torch.tensor([1, -1, 0])]]),
    (A.index_put.default, [t(4, 5), [torch.tensor([1, 1])], t(5), True]), (A.index_put.default, [t(4, 5), [t(4, 5) > 0], torch.tensor(7.0)]),
    (A.scatter_add.default, [t(4, 5), 1, torch.randint(0, 5, (3, 4), generator=g), t(4, 6)]), (A.scatter.value, [t(4, 5), 0, torch.tensor([[1, 2]]), 9.0]),
    (A.gather.default, [t(4, 5), 1, torch.randint(0, 5, (3, 4), generator=g)]), (A.index_add.default, [t(4, 5), 1, torch.tensor([0, 0, 4]), t(4, 3)], {"alpha": 2}),
    (A.select_scatter.default, [t(4, 5), t(4), 1, -1]), (A.slice_scatter.default, [t(4, 5), t(4, 2), 1, 1, 5, 2]), (A.diagonal_scatter.default, [t(4, 5), t(4), 1]),
    (A.slice_backward.default, [t(4, 2), [4, 5], 1, 1, 5, 2]), (A.select_backward.default, [t(4), [4, 5], 1, -2]), (A.unfold_backward.default, [t(4, 2, 3), [4, 5], 1, 3, 2]),
    (A.unfold.default, [t(4, 5), 1, 3, 2]), (A.diagonal.default, [t(4, 5), -1]), (A.roll.default, [t(4, 5), [1, -2], [0, 1]]), (A.repeat.default, [t(2, 3), [2, 1, 3]]),
    (A.constant_pad_nd.default, [t(4, 5), [1, -1, 2, 0], 3.0]), (A.reflection_pad2d.default, [IMAGE, [1, 2, 3, 0]]), (A.replication_pad2d.default, [IMAGE, [1, 2, 0, 3]]),
    (A.reflection_pad2d_backward.default, [t(2, 3, 11, 9), IMAGE, [1, 2, 3, 0]]), (A.replication_pad2d_backward.default, [t(2, 3, 11, 9), IMAGE, [1, 2, 0, 3]]),
    (A._adaptive_avg_pool2d.default, [IMAGE, [2, 3]]), (A._adaptive_avg_pool2d_backward.default, [t(2, 3, 2, 3), IMAGE]), (A.avg_pool2d.default, [IMAGE, [2, 3]]),
    (A.upsample_nearest2d.default, [IMAGE, [16, 12]]), (A.upsample_nearest2d.default, [IMAGE, [5, 13]]), (A.upsample_nearest2d_backward.default, [t(2, 3, 16, 12), [16, 12], [2, 3, 8, 6]]),
    *[(A.upsample_bilinear2d.default, [IMAGE, [11, 9], align]) for align in (True, False)],
    (A.addmm.default, [t(6), t(4, 5), t(6, 5).t()], {"alpha": 0.5, "beta": 2}), (A.baddbmm.default, [t(2, 4, 6), t(2, 4, 5), t(2, 5, 6)]), (A.mv.default, [t(4, 5), t(5)]),
    (A.dot.default, [t(5), t(5)]), (A.addmv.default, [t(4), t(4, 5), t(5)]), (A.mm.default, [t(4, 5).bfloat16(), t(5, 6).bfloat16()]),
    (A.convolution.default, [IMAGE, t(4, 3, 3, 3), t(4), [2], [1], [1], False, [0], 1]),
    (A.arange.start_step, [1, 10, 3]), (A.arange.start_step, [0.0, 1.0, 0.1]), (A.linspace.default, [0.0, 1.0, 7]), (A.eye.m, [3, 4]), (A.tril.default, [t(2, 4, 5), -1]),
    (A.triu.default, [t(4, 5), 1]), (A.clamp.default, [t(3, 4), -0.5, None]), (A.clamp.Tensor, [t(3, 4), t(4), t(3, 1)]), (A.lerp.Scalar, [t(3), t(3), 0.7]),
    (A.addcmul.default, [t(3, 4), t(4), t(3, 1)], {"value": 0.5}), (A.addcdiv.default, [t(3, 4), t(3, 4), t(3, 4, low=1)]), (A.pow.Tensor_Scalar, [t(3, 4, low=0.1), 2.5]),
    *[(A.pow.Tensor_Scalar, [t(3, 4, low=0.1), e]) for e in (0, 1, 2, 3, -1, -2, 0.5, -0.5)], (A.pow.Scalar, [2.0, t(3, 4)]), (A.masked_fill.Scalar, [t(3, 4), t(4) > 0, -1e9]),
    (A.div.Tensor_mode, [t(3, 4), t(3, 4)], {"rounding_mode": "floor"}), (A.floor_divide.default, [torch.tensor([7, -7]), torch.tensor([2, 2])]),
    (A.cat.default, [[t(2, 3), t(2, 1).double()], 1]), (A.stack.default, [[t(2, 3), t(2, 3)], -1]), (A._to_copy.default, [t(3)], {"dtype": torch.int64}),
    (A._weight_norm_interface.default, [t(4, 5), t(4, 1)]), (A.pixel_shuffle.default, [t(2, 8, 3, 3), 2]), (A.as_strided.default, [t(4, 5), [3, 2], [2, 3], 1]),
    *[(getattr(A, f"{w}_window").periodic, [n, q]) for w in ("hann", "hamming", "blackman", "bartlett", "kaiser") for n in (0, 1, 2, 9) for q in (True, False)],
    (A.hamming_window.periodic_alpha, [9, True, 0.3]), (A.hamming_window.periodic_alpha_beta, [9, True, 0.3, 0.6]), (A.kaiser_window.beta, [9, False, 5.0]),
    *[(getattr(A, f"{side}_indices").default, [*shape]) for side in ("tril", "triu") for shape in ((3, 4, 0), (4, 3, 1), (3, 5, 2), (5, 2, -3), (2, 2, 5), (2, 2, -5))],
    (A.fft_fftfreq.default, [7, 0.3]), (A.fft_rfftfreq.default, [8, 0.3]), (A.range.step, [1, 7, 2]), (A.logspace.default, [0.0, 3.0, 5, 2.0]),
    (A.block_diag.default, [[t(2, 3), t(3), t()]]), (A._weight_norm_interface_backward.default, [t(4, 5), t(4, 5), t(4, 1), t(4, 1, low=0.5), 0]),
    (A.embedding_renorm.default, [t(6, 4), torch.tensor([1, 1, 4]), 1.0, 2.0]), (A.renorm.default, [t(4, 5), 3, 0, 1.0]), (A.linalg_cross.default, [t(4, 3), t(1, 3)]),
    *[(A.round.decimals, [t(3, 4) * 40], {"decimals": d}) for d in (0, 2, -1)], (A.frexp.Tensor, [torch.tensor([0.0, -0.0, 1.0, -3.5, 1e-40, 3e38, float("inf"), float("nan")])]),
    (A.frexp.Tensor, [torch.tensor([5e-324, -1e-310, 0.75, 1e300], dtype=torch.float64)]), *[(A.polygamma.default, [n, t(3, 4, low=-2.5, high=3)]) for n in (0, 1, 2, 4)],
    (A.mvlgamma.default, [t(3, 4, low=3, high=6), 3]), (A.lcm.default, [torch.tensor([4, 0, -6, 7]), torch.tensor([6, 0, 4, 0])]),
    (A.special_log_ndtr.default, [t(3, 4, low=-30, high=5)]), (A.special_spherical_bessel_j0.default, [torch.tensor([0.0, 0.3, -0.49, 0.51, 9.0, float("inf")])]),
    *[(A._cdist_forward.default, [t(2, 3, 5), t(4, 5), q, 2]) for q in (0.0, 0.5, 1.0, 2.0, 3.0, float("inf"))], (A._cdist_forward.default, [t(30, 5), t(28, 5), 2.0, None]),
    *[(A._cdist_backward.default, [t(3, 4), t(3, 5), t(4, 5), q, t(3, 4, low=0.5)]) for q in (0.5, 1.0, 1.5, 2.0, 3.0)], (A._pdist_forward.default, [t(6, 3), 2.0]),
    *[(A.avg_pool2d.default, [t(2, 3, 9, 7), [3, 2], [2, 2], [1, 0], ceil, pad, divisor]) for ceil in (True, False) for pad in (True, False) for divisor in (None, 3)],
    *[(A.avg_pool2d_backward.default, [t(2, 3, 5, 4), t(2, 3, 9, 7), [3, 2], [2, 2], [1, 0], True, pad, None]) for pad in (True, False)],
    (A._adaptive_avg_pool2d.default, [IMAGE, [5, 4]]), (A._adaptive_avg_pool2d.default, [IMAGE, [11, 4]]), (A._adaptive_avg_pool2d_backward.default, [t(2, 3, 5, 4), IMAGE]),
    (A._adaptive_avg_pool3d.default, [t(3, 4, 5, 6), [3, 2, 4]]), (A._adaptive_avg_pool3d_backward.default, [t(3, 3, 2, 4), t(3, 4, 5, 6)]),
    *[(A.upsample_bilinear2d_backward.default, [t(2, 3, *o), [*o], [2, 3, 8, 6], align]) for align in (True, False) for o in ((16, 12), (11, 9), (5, 3), (1, 20))],
    *[(A.upsample_nearest2d_backward.default, [t(2, 3, *o), [*o], [2, 3, 8, 6]]) for o in ((11, 9), (5, 13))],
    *[(A._upsample_nearest_exact2d_backward.default, [t(2, 3, *o), [*o], [2, 3, 8, 6]]) for o in ((11, 9), (5, 13))],
    *[(A.upsample_bicubic2d.default, [IMAGE, [11, 9], align]) for align in (True, False)], (A.upsample_trilinear3d.default, [t(1, 2, 4, 3, 5), [6, 5, 3], False]),
    *[(A.grid_sampler_2d.default, [IMAGE, t(2, 5, 4, 2) * 1.5, m, q, align]) for m in (0, 1, 2) for q in (0, 1, 2) for align in (True, False)],
    *[(A.grid_sampler_3d.default, [t(1, 2, 4, 3, 5), t(1, 2, 3, 4, 3), m, q, False]) for m in (0, 1) for q in (0, 1, 2)],
    (A.searchsorted.Tensor, [torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.tensor([0.0, 2.0, 5.0, 9.0, float("nan")])]),
    (A.searchsorted.Tensor, [torch.tensor([1.0, 2.0, 2.0, 5.0]), torch.tensor([0.0, 2.0, 5.0, float("nan")])], {"right": True, "out_int32": True}),
    *[(A.bucketize.Tensor, [torch.arange(12).reshape(3, 4), torch.arange(1, 2 * n, 2)]) for n in (1, 2, 3, 5, 8)],
    *[(A.scatter_reduce.two, [t(4, 5), 1, torch.randint(0, 5, (3, 4), generator=g), t(4, 6), r], {"include_self": s}) for r in ("sum", "prod", "mean", "amax", "amin") for s in (True, False)],
    *[(A.index_reduce.default, [t(4, 5), 1, torch.tensor([0, 0, 4]), t(4, 3), r], {"include_self": s}) for r in ("prod", "mean", "amax", "amin") for s in (True, False)],
    (A.put.default, [t(4, 5), torch.tensor([0, -1, 0]), t(3), True]), (A.fake_quantize_per_tensor_affine_cachemask.default, [t(3, 4) * 4, 0.05, 3, -20, 20]),
    (A.fake_quantize_per_channel_affine_cachemask.default, [t(3, 4), t(3, low=0.01), torch.tensor([0, 1, -2], dtype=torch.int32), 0, -20, 20]),
    (A._fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default, [t(3, 4), torch.tensor([0.05]), torch.tensor([3]), torch.tensor([1]), -20, 20]),
    (A._masked_softmax.default, [t(3, 4), t(3, 4) > 0, 1]), (A._addmm_activation.default, [t(6), t(4, 5), t(5, 6)], {"use_gelu": True}),
    (A.isin.Tensor_Tensor, [torch.arange(6), torch.tensor([1, 4])]), (A.bitwise_and.Tensor, [torch.tensor([6, 5]), torch.tensor([3, 4])]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{c[0]}" for i, c in enumerate(CASES)])
def test_case(case):
    op, args, *kwargs = case
    if any(isinstance(a, list) and any(isinstance(x, torch.Tensor) for x in a) for a in args):
        expected, got = op(*args, **(kwargs[0] if kwargs else {})), DECOMPOSITIONS[op].rule(*args, **(kwargs[0] if kwargs else {}))
        torch.testing.assert_close(got, expected, check_stride=False)
    else:
        compare(op, args, kwargs[0] if kwargs else None)


@pytest.mark.parametrize("op", [A._softmax.default, A._log_softmax.default])
def test_softmax_of_nothing(op):
    compare(op, [t(3, 0), 1, False])
    compare(op, [t(0, 3), 0, False])


def test_every_decomposition_says_what_it_is():
    for rule in DECOMPOSITIONS.values():
        assert rule.doc, f"{rule.overload} has no docstring"


def test_parameters_are_the_schemas():
    """A decomposition can be called the way the overload is: as many positional parameters, the same keyword-only names."""
    import inspect

    for overload, rule in DECOMPOSITIONS.items():
        parameters = inspect.signature(rule.rule).parameters.values()
        if any(q.kind is q.VAR_POSITIONAL for q in parameters):
            continue
        positional = sum(q.kind is q.POSITIONAL_OR_KEYWORD for q in parameters)
        names = {q.name for q in parameters}
        for i, a in enumerate(overload._schema.arguments):
            if a.kwarg_only:
                assert a.name in names, f"{overload}: {a.name}"
            else:
                assert i < positional, f"{overload}: {a.name}"
