"""Convolution forward and backward: kinds, layouts, odd sizes."""

import pytest
import torch
from extern_support import compiled, same_as_eager

aten = torch.ops.aten
LAYOUTS = [torch.contiguous_format, torch.channels_last]
# in channels, out channels, groups, kernel, stride, padding, dilation, transposed
KINDS = {
    "1x1": (8, 12, 1, 1, 1, 0, 1, False), "1x1 wide": (40, 33, 1, 1, 1, 0, 1, False), "1x1 stride": (8, 12, 1, 1, 2, 0, 1, False),
    "depthwise 3": (20, 20, 20, 3, 1, 1, 1, False), "depthwise 5 stride": (33, 33, 33, 5, 2, 2, 1, False), "depthwise 7": (40, 40, 40, 7, 1, 3, 1, False),
    "depthwise few": (5, 5, 5, 3, 1, 1, 1, False), "depthwise dilated": (16, 16, 16, 3, 1, 2, 2, False), "depthwise 4": (17, 17, 17, 4, 3, 1, 1, False),
    "dense": (8, 12, 1, 3, 2, 1, 1, False), "groups": (8, 12, 4, 3, 1, 1, 1, False), "transposed": (8, 12, 1, 3, 2, 1, 1, True),
}


def _inputs(kind, layout):
    c, o, groups, k, s, p, d, transposed = KINDS[kind]
    x = torch.randn(2, c, 11, 9).to(memory_format=layout)
    w = torch.randn(*((c, o // groups) if transposed else (o, c // groups)), k, k)
    return x, w, torch.randn(o), ([s, s], [p, p], [d, d], transposed, [0, 0], groups)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_forward(kind, layout):
    x, w, b, numbers = _inputs(kind, layout)
    graph = same_as_eager(lambda x, w, b: (aten.convolution(x, w, b, *numbers), aten.convolution(x * 2, w, None, *numbers).relu()), x, w, b)
    assert graph.fallbacks == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_backward(kind, layout):
    x, w, b, numbers = _inputs(kind, layout)
    dy = torch.randn_like(aten.convolution(x, w, b, *numbers))
    graph = compiled(lambda dy, x, w: aten.convolution_backward(dy, x, w, [len(b)], *numbers, [True, True, True]), dy, x, w)
    got = graph(dy, x, w)
    truth = aten.convolution_backward(dy.double(), x.double(), w.double(), [len(b)], *numbers, [True, True, True])
    eager = aten.convolution_backward(dy, x, w, [len(b)], *numbers, [True, True, True])
    for g, e, t in zip(got, eager, truth, strict=True):
        assert (g - t).abs().max() <= 2 * (e - t).abs().max() + 4e-7 * t.abs().max()
    assert graph.fallbacks == []


@pytest.mark.parametrize("mask", [[True, False, False], [False, True, False], [False, False, True]])
@pytest.mark.parametrize("kind", ["1x1", "depthwise 3", "dense"])
def test_backward_of_some(kind, mask):
    x, w, b, numbers = _inputs(kind, torch.contiguous_format)
    dy = torch.randn_like(aten.convolution(x, w, b, *numbers))
    got = compiled(lambda dy, x, w: aten.convolution_backward(dy, x, w, [len(b)], *numbers, mask), dy, x, w)(dy, x, w)
    results = aten.convolution_backward(dy, x, w, [len(b)], *numbers, mask)
    want = [t for t, asked in zip(results, mask, strict=True) if asked]  # eager may give more than was asked for
    for g, e in zip(got, want, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-4, atol=1e-4)


def test_one_and_three_dimensions():
    x, w = torch.randn(2, 6, 15), torch.randn(8, 6, 1)
    same_as_eager(lambda x, w: (torch.conv1d(x, w),), x, w)
    x, w = torch.randn(2, 3, 5, 6, 7), torch.randn(4, 3, 2, 2, 2)
    same_as_eager(lambda x, w: (torch.conv3d(x, w),), x, w)


def test_half_types_use_the_library():
    x, w = torch.randn(1, 8, 9, 9).bfloat16(), torch.randn(8, 8, 1, 1).bfloat16()
    assert "lamina_gemm(&" not in same_as_eager(lambda x, w: (torch.conv2d(x, w),), x, w, exact=True).source


def test_sliced_images():
    x, w = torch.randn(2, 9, 12, 10)[:, 1:, ::2, 1:], torch.randn(6, 8, 1, 1)
    same_as_eager(lambda x, w: (torch.conv2d(x, w),), x, w)
    x, w = torch.randn(4, 12, 10, 9).permute(0, 3, 1, 2)[::2, :8], torch.randn(8, 1, 3, 3)
    same_as_eager(lambda x, w: (torch.conv2d(x, w, groups=8),), x, w)
