"""Strides: ATen's rules against ATen, over random layouts."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina_dynshape import layout as L
from lamina_dynshape.promotion import result_type


@st.composite
def tensors(draw, rank=None, sizes=None):
    """A tensor with permuted, sliced or expanded dimensions."""
    if sizes is None:
        rank = draw(st.integers(0, 5)) if rank is None else rank
        sizes = [draw(st.sampled_from([0, 1, 1, 2, 3, 4])) for _ in range(rank)]
    order = draw(st.permutations(range(len(sizes))))
    steps = [draw(st.sampled_from([1, 1, 1, 2])) for _ in sizes]
    kinds = [draw(st.sampled_from(["keep", "keep", "keep", "expand"])) for _ in sizes]
    base = torch.empty([1 if k == "expand" else n * step for n, step, k in zip(sizes, steps, kinds)])
    base = base.permute(order).contiguous().permute([order.index(d) for d in range(len(sizes))])
    for d, (n, step, kind) in enumerate(zip(sizes, steps, kinds)):
        base = base.expand(*base.shape[:d], n, *base.shape[d + 1 :]) if kind == "expand" else base[(slice(None),) * d + (slice(None, None, step),)]
    return base


def significant(sizes, strides):
    return [st for n, st in zip(sizes, strides) if n != 1] if 0 not in sizes else None


@settings(max_examples=400, deadline=None)
@given(tensors())
def test_questions_about_one_tensor(t):
    sizes, strides = tuple(t.shape), t.stride()
    assert L.contiguous(sizes) == torch.empty(sizes).stride()
    assert L.is_contiguous(sizes, strides) == t.is_contiguous()
    assert L.is_dense(sizes, strides) == (torch.empty_like(t).stride() == strides) or 0 in sizes
    assert L.dense_like(sizes, strides) == torch.empty_like(t).stride() or 0 in sizes
    if len(sizes) == 4:
        assert L.is_channels_last(sizes, strides) == t.is_contiguous(memory_format=torch.channels_last)
        assert L.channels_last_strides(sizes) == torch.empty(sizes, memory_format=torch.channels_last).stride()
    relu = torch.relu(t)
    assert significant(sizes, L.iterator_strides(((sizes, strides),), False)[1]) == significant(sizes, relu.stride())
    assert significant(sizes, L.iterator_strides(((sizes, strides),), True)[1]) == significant(sizes, (t + 1).stride())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_elementwise_of_two(data):
    a = data.draw(tensors())
    sizes = [data.draw(st.sampled_from([n, n, 1])) for n in a.shape][data.draw(st.integers(0, a.dim())) :]
    b = data.draw(tensors(sizes=sizes))
    got = L.iterator_strides(((tuple(a.shape), a.stride()), (tuple(b.shape), b.stride())), False)
    want = a + b
    assert got[0] == tuple(want.shape) and significant(got[0], got[1]) == significant(want.shape, want.stride())


@settings(max_examples=300, deadline=None)
@given(tensors(), st.data())
def test_view_strides(t, data):
    count = t.numel()
    factors = [f for f in range(1, count + 1) if count % f == 0] if count else [1]
    first = data.draw(st.sampled_from(factors))
    new = (first, count // first) if count else (0, 3)
    if data.draw(st.booleans()):
        new = (*new[:1], 1, *new[1:])
    new = data.draw(st.sampled_from([new, tuple(t.shape)]))
    got = L.view_strides(tuple(t.shape), t.stride(), new)
    try:
        want = t.view(new).stride()
    except RuntimeError:
        want = None
    assert got == want


def test_broadcast_error_is_eagers():
    with pytest.raises(RuntimeError, match=r"The size of tensor a \(3\) must match the size of tensor b \(4\) at non-singleton dimension 1"):
        L.broadcast((2, 3), (2, 4))


def test_result_type_is_atens():
    class Fake:
        def __init__(self, dtype, sizes):
            self.scalar_type, self.sizes = dtype, sizes

    dtypes = [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
    values = [(Fake(d, n), torch.empty(n, dtype=d)) for d in dtypes for n in ((2,), ())] + [(v, v) for v in (True, 2, 2.5, 1j)]
    for (f, r), (g, q) in itertools.product(values, values):
        if isinstance(r, torch.Tensor) or isinstance(q, torch.Tensor):
            assert result_type((f, g)) is torch.result_type(r, q), (r, q)
