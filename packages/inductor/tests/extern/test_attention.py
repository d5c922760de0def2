"""Attention: shapes, masks, causal, logsumexp, gradients."""

import pytest
import torch
from extern_support import compiled

forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _truth(q, k, v, grad, causal, mask, scale):
    q, k, v = (t.double().requires_grad_() for t in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask.double(), is_causal=causal, scale=scale)
    return out.detach(), torch.autograd.grad(out, (q, k, v), grad.double())


def _close(got, eager, truth):
    assert got.shape == eager.shape and got.stride() == eager.stride()
    assert (got - truth).abs().max() <= 2 * (eager - truth).abs().max() + 1e-6 * truth.abs().max()


CASES = {
    "self": (2, 3, 17, 17, 8, False, None, None), "causal": (1, 4, 130, 130, 64, True, None, None), "cross": (2, 2, 70, 33, 20, False, None, 0.3),
    "causal, more keys": (1, 2, 20, 50, 16, True, None, None), "causal, fewer keys": (1, 2, 90, 50, 16, True, None, None),
    "one query": (2, 3, 1, 40, 32, False, None, None), "long": (1, 1, 300, 900, 40, False, None, None),
    "mask of keys": (2, 3, 20, 33, 16, False, (2, 1, 1, 33), None), "mask of all": (2, 3, 20, 33, 16, False, (2, 3, 20, 33), None),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_forward_and_backward(case, threads):
    b, h, nq, nk, d, causal, mask_shape, scale = CASES[case]
    q, k, v = (torch.randn(b, n, h, d).transpose(1, 2) for n in (nq, nk, nk))
    mask = None if mask_shape is None else torch.randn(mask_shape).expand(b, mask_shape[1], nq, nk)
    masks = [] if mask is None else [mask]
    grad = torch.randn(b, nq, h, d).transpose(1, 2)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fw = compiled(lambda q, k, v, *m: forward(q, k, v, 0.0, causal, attn_mask=m[0] if m else None, scale=scale), q, k, v, *masks)
        out, lse = fw(q, k, v, *masks)
        eager_out, eager_lse = forward(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)
        truth, gradients = _truth(q, k, v, grad, causal, mask, scale)
        _close(out, eager_out, truth)
        torch.testing.assert_close(lse, eager_lse, rtol=1e-5, atol=1e-5)
        bw = compiled(lambda g, q, k, v, o, s, *m: backward(g, q, k, v, o, s, 0.0, causal, attn_mask=m[0] if m else None, scale=scale), grad, q, k, v, out, lse, *masks)
        eager = backward(grad, q, k, v, eager_out, eager_lse, 0.0, causal, attn_mask=mask, scale=scale)
        for g, e, t in zip(bw(grad, q, k, v, out, lse, *masks), eager, gradients, strict=True):
            _close(g, e, t)
        assert fw.fallbacks == bw.fallbacks == []
    finally:
        torch.set_num_threads(before)


def test_rows_without_keys_give_zero():
    q, k, v = (torch.randn(1, 2, 6, 8) for _ in range(3))
    mask = torch.zeros(1, 1, 6, 6)
    mask[:, :, 2] = -float("inf")
    got = compiled(lambda q, k, v, m: forward(q, k, v, 0.0, False, attn_mask=m), q, k, v, mask)(q, k, v, mask)
    want = forward(q, k, v, 0.0, False, attn_mask=mask)
    for g, e in zip(got, want, strict=True):
        torch.testing.assert_close(g, e)


def test_not_a_number_stays():
    q, k, v = (torch.randn(1, 1, 20, 8) for _ in range(3))
    q[0, 0, 3, 0] = float("nan")
    out = compiled(lambda q, k, v: forward(q, k, v), q, k, v)(q, k, v)[0]
    assert out[0, 0, 3].isnan().all() and out[0, 0, [0, 1, 2, 4]].isfinite().all()


def test_other_dtypes_use_the_library():
    q, k, v = (torch.randn(1, 2, 6, 8).bfloat16() for _ in range(3))
    assert compiled(lambda q, k, v: forward(q, k, v), q, k, v).fallbacks


def test_symbolic_sizes():
    lamina = pytest.importorskip("lamina")
    fast = lamina.compile(lambda q, k: torch.nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True), dynamic=True)
    with torch.no_grad():
        for n, width in [(4, 16), (7, 16), (9, 24)]:
            q, k = torch.randn(2, 3, n, width), torch.randn(2, 3, n + 3, width)
            torch.testing.assert_close(fast(q, k), torch.nn.functional.scaled_dot_product_attention(q, k, k, is_causal=True))
