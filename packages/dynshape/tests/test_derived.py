"""`out=` and in-place overloads without a rule of their own."""

import pytest
import torch

from lamina_dynshape import FakeMode
from lamina_dynshape.support.counters import counters


@pytest.fixture
def mode():
    with FakeMode() as m:
        yield m


def test_out_is_resized_and_returned(mode):
    counters["fake"].clear()
    a, out = torch.ones(3, 4), torch.empty(0)
    result = torch.mul(a, a, out=out)
    assert result is out and out.shape == (3, 4) == out.sizes and not counters["fake"]
    values, indices = torch.empty(3), torch.empty(3, dtype=torch.long)
    torch.max(a, 1, out=(values, indices))
    with pytest.raises(RuntimeError, match="can't be cast"):
        torch.mul(a, a, out=torch.empty(3, 4, dtype=torch.long))


def test_in_place_keeps_the_target_and_checks_it(mode):
    a = torch.ones(3, 4)
    assert a.fmod_(2) is a and a.atan2_(a) is a
    with pytest.raises(RuntimeError, match="broadcast shape"):
        torch.ones(1, 4).pow_(a)
    with pytest.raises(RuntimeError, match="can't be cast"):
        torch.ones(2, dtype=torch.long).exp_()
