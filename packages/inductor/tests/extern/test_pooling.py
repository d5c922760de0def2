"""Max pooling: equal to eager bit for bit, in both layouts."""

import pytest
import torch
from extern_support import same_as_eager

pool = torch.nn.functional.max_pool2d


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel,stride,padding,dilation,ceil", [(3, 2, 1, 1, False), (2, None, 0, 1, False), (3, 1, 1, 2, False), (3, 2, 1, 1, True), (2, 3, 0, 1, True)])
def test_values_and_indices(kernel, stride, padding, dilation, ceil, layout):
    x = torch.randn(2, 5, 13, 10).round().to(memory_format=layout)  # ties
    x[0, 0, 3, 3] = float("nan")
    x[1, 1] = -float("inf")
    args = (kernel, stride, padding, dilation, ceil)
    graph = same_as_eager(lambda x: (*pool(x, *args, return_indices=True), pool(x.neg(), *args)), x, exact=True)
    assert graph.fallbacks == []


@pytest.mark.parametrize("shape,layout", [((1, 1, 3, 2500), torch.contiguous_format), ((1, 1100, 4, 4), torch.channels_last)])
def test_longer_than_a_run(shape, layout):
    same_as_eager(lambda x: pool(x, 3, 1, 1, return_indices=True), torch.randn(shape).round().to(memory_format=layout), exact=True)


def test_other_dtypes_fall_back():
    assert same_as_eager(lambda x: (pool(x, 2),), torch.randn(1, 2, 8, 8).double(), exact=True).fallbacks
