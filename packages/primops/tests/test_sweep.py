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


SHORT = {
    "forward": {"share": 0.5, "seed": 1}, "gradients": {"share": 0.4, "seed": 2, "backward": True}, "symbolic": {"share": 0.3, "seed": 3, "symbolic": True},
    "bfloat16": {"share": 0.3, "seed": 4, "dtype": torch.bfloat16},
}  # fmt: skip


@pytest.mark.parametrize("name", SHORT)
def test_first_samples_of_some_ops_are_right(name):
    samples, ops = sweep(limit=2, **SHORT[name])
    assert not _wrong(ops)
    assert samples["prims"] / samples.total() > 0.5, samples


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
