"""Fusion patterns: right results, and the number of kernels that a missed fusion would raise."""

import pytest
import torch
import torch.nn.functional as F
from loops_support import check

X = (4, 16, 96)


def test_pointwise_chain_is_one_kernel():
    check(lambda x, y: (F.silu(x) * y + 1).tanh(), torch.randn(X), torch.randn(X), kernels=1)


def test_softmax_is_one_kernel():
    check(lambda x: F.softmax(x, -1), torch.randn(X), kernels=1)


def test_softmax_over_a_middle_dimension():
    check(lambda x: F.softmax(x, 1), torch.randn(X))


@pytest.mark.parametrize("shape", [(4, 16, 96), (7, 33), (2, 3, 5000)])
def test_layer_norm_is_one_kernel(shape):
    check(lambda x, w, b: F.layer_norm(x, shape[-1:], w, b), torch.randn(shape), torch.randn(shape[-1]), torch.randn(shape[-1]), kernels=1)


def test_rms_norm_is_one_kernel():
    check(lambda x, w: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * w, torch.randn(X), torch.randn(96), kernels=1)


def test_residual_and_two_norms():
    def f(x, y, w):
        h = x + y
        return F.layer_norm(h, (96,), w), h
    check(f, torch.randn(X), torch.randn(X), torch.randn(96), kernels=1)


def test_batch_norm_statistics_and_normalisation_in_one_kernel():
    check(lambda x, w, b: F.relu(F.batch_norm(x, None, None, w, b, True)), torch.randn(4, 8, 14, 14), torch.randn(8), torch.randn(8), kernels=1)


def test_batch_norm_channels_last():
    x = torch.randn(4, 8, 14, 14).contiguous(memory_format=torch.channels_last)
    check(lambda x, w, b: F.batch_norm(x, None, None, w, b, True), x, torch.randn(8), torch.randn(8), kernels=2)


def test_group_norm():
    check(lambda x, w, b: F.group_norm(x, 4, w, b), torch.randn(2, 16, 7, 7), torch.randn(16), torch.randn(16), kernels=1)


def test_horizontal_reductions_share_one_pass():
    check(lambda x: (x.sum(-1), x.amax(-1), (x * x).sum(-1)), torch.randn(X), kernels=1)


def test_column_reductions_share_one_pass():
    check(lambda x, y: (x.sum(0), (x * y).sum(0)), torch.randn(300, 70), torch.randn(300, 70), kernels=1)


def test_row_and_column_reductions_are_two_kernels():
    check(lambda x: (x.sum(0), x.sum(1)), torch.randn(65, 70), kernels=2)


def test_full_reductions_with_epilogue():
    check(lambda x: ((x * 2).sum() / 3, x.amax(), x.var()), torch.randn(300, 500), kernels=1, tol=1e-3)


def test_reduction_result_used_by_everything():
    check(lambda x: x - x.mean(), torch.randn(40, 50))


def test_rotary_embedding_is_one_kernel():
    def f(q, cos, sin):
        half = torch.cat([-q[..., 16:], q[..., :16]], -1)
        return q * cos + half * sin
    check(f, torch.randn(2, 3, 8, 32), torch.randn(8, 32), torch.randn(8, 32), kernels=1)


def test_cross_entropy():
    check(lambda x, t: F.cross_entropy(x, t), torch.randn(64, 100), torch.randint(0, 100, (64,)))


def test_cross_entropy_ignores():
    t = torch.randint(0, 100, (64,))
    t[::3] = -100
    check(lambda x, t: F.cross_entropy(x, t), torch.randn(64, 100), t)


def test_attention_scores():
    def f(q, k, m):
        return F.softmax(torch.where(m, (q[:, :, None] * k[:, None]).sum(-1), float("-inf")), -1)
    check(f, torch.randn(2, 9, 16), torch.randn(2, 9, 16), torch.ones(9, 9, dtype=torch.bool).tril())


def test_equal_kernels_are_emitted_once():
    def f(x, w):
        for _ in range(4):
            x = torch.mm(x, w).relu() + 1
        return x
    compiled = check(f, torch.randn(16, 16), torch.randn(16, 16) * 0.1, reference=False)
    assert compiled.kernels < compiled.data.kernel_calls or compiled.data.kernel_calls <= 1


def test_diamond_has_no_cycle():
    def f(x, w):
        a = x.exp()
        b = torch.mm(a, w)
        return a + b, (a * 2).sum(0)
    check(f, torch.randn(16, 16), torch.randn(16, 16), reference=False)
