"""PyTorch's op_db through trace, lower and interpret. A short seeded sweep by default; all samples under `-m slow`."""

from __future__ import annotations

import pytest
import torch

for _module in ("numpy", "expecttest"):  # op_db imports them
    pytest.importorskip(_module)
from sweep import sweep  # noqa: E402

# PyTorch's own deprecation and beta warnings
pytestmark = pytest.mark.filterwarnings("ignore")


def _wrong(ops):
    return {name: why for name, (outcome, why, _) in ops.items() if outcome == "wrong"}


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "gradients"])
def test_first_samples_are_right(backward):
    samples, ops = sweep(limit=1, backward=backward)
    assert not _wrong(ops)
    assert samples["prims"] / samples.total() > 0.55, samples


def test_first_samples_with_symbolic_sizes_are_right():
    samples, ops = sweep(limit=1, symbolic=True)
    assert not _wrong(ops)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.bool], ids=str)
def test_all_samples_are_right(dtype):
    assert not _wrong(sweep(dtype)[1])


@pytest.mark.slow
def test_all_gradients_are_right():
    assert not _wrong(sweep(backward=True)[1])


@pytest.mark.slow
def test_all_samples_with_symbolic_sizes_are_right():
    assert not _wrong(sweep(symbolic=True)[1])
