"""Shapes, dtypes, strides and aliasing of every ATen call that `op_db`'s samples make, forward and backward, against eager execution."""

import warnings

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db

from lamina_dynshape import DataDependent, FakeMode
from lamina_dynshape.compare_ops import LAYOUTS, Compare, run_op

CHUNKS = 16
OTHER = list(LAYOUTS)[1:]

# Operators whose answer differs from eager's, with the reason. Strict: an entry that no longer differs must go.
KNOWN: dict[str, str] = {}


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_matches_eager(chunk, record_property, capsys):
    compare = Compare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for at, op in enumerate(op_db[chunk::CHUNKS]):
            layouts = {name: LAYOUTS[name] for name in ("dense", OTHER[at % len(OTHER)])}
            try:
                run_op(compare, op, samples=1, layouts=layouts)
            except (IndexError, ValueError):  # no samples on this machine
                continue
    wrong = {name: texts for name, texts in compare.wrong.items() if name not in KNOWN}
    assert not wrong, "\n".join(f"{n}: {t[0]}" for n, t in wrong.items())
    total = sum(compare.served.values())
    share = compare.served["rule"] / total
    record_property("share served by own rules", f"{share:.3f} of {total}")
    assert share > 0.97, compare.served


@pytest.mark.parametrize("driver", ["gelsy", "gels", "gelsd", "gelss"])
@pytest.mark.parametrize("a, b", [((5, 3), (5, 2)), ((5, 3), (5,)), ((3, 5), (3, 2)), ((2, 5, 3), (2, 5)), ((4, 2, 3, 5), (4, 2, 3)), ((1, 3, 5), (4, 3, 2))])
def test_least_squares(driver, a, b):
    """Residuals depend on the data only where a driver finds the rank of a tall matrix; then the rule refuses."""
    a, b = torch.randn(a), torch.randn(b)
    eager, mode = torch.linalg.lstsq(a, b, driver=driver), FakeMode()
    with mode:
        try:
            fake = torch.linalg.lstsq(mode.from_real(a), mode.from_real(b), driver=driver)
        except DataDependent:
            assert driver in ("gelsd", "gelss") and a.shape[-2] > a.shape[-1]
            return
    assert [(t.shape, t.dtype, t.stride()) for t in fake] == [(t.shape, t.dtype, t.stride()) for t in eager]


def test_known_differences_still_differ():
    compare = Compare()
    for op in op_db:
        if any(f"aten.{op.name}." in name for name in KNOWN):
            run_op(compare, op)
    assert set(KNOWN) <= set(compare.wrong)


def test_the_comparison_notices_a_wrong_rule(monkeypatch):
    from lamina_dynshape.shape_rules.registry import RULES

    relu = torch.ops.aten.relu.default
    monkeypatch.setitem(RULES, relu, lambda mode, x: mode.make((*x.sizes, 1), (*x.strides, 1), x.scalar_type, x.dev))
    compare = Compare()
    with compare:
        torch.relu(torch.ones(3))
    assert list(compare.wrong) == [str(relu)]
