"""A short run of the sweep over PyTorch's databases, and that its comparison notices what is wrong."""

from __future__ import annotations

import warnings

import pytest
import torch

import lamina
from integration.opdb_check import check_case, check_entry, compare, entries, lowered_as

OPERATORS = ["nn_functional_conv1d", "sgn", "fmax", "linalg_lstsq", "histogramdd", "nn_functional_dropout", "masked_select", "chalf", "nn_functional_linear_cross_entropy_chunked"]


@pytest.fixture(scope="module")
def rows():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = entries("ops", [torch.float32, torch.complex64, torch.bool]) + entries("modules", [torch.float32])
    return {(row.name, row.dtype): row for row in found}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bool], ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators(rows, name, dtype):
    if (row := rows.get((name, dtype))) is None:
        pytest.skip("not of this dtype")
    result = check_entry(row, "inductor", "lamina", 1)
    assert (result.outcome, result.reason) == ("pass", "")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["nn_BatchNorm1d", "nn_LSTMCell", "nn_Bilinear"])
def test_modules_train_three_steps(rows, name):
    result = check_entry(rows[name, torch.float32], "inductor", "lamina", 1)
    assert result.samples == 2 and result.outcome == "pass", result


def test_a_wrong_backend_is_noticed(rows):
    """Values, strides and errors, through the whole of `check_case`."""
    case = next(rows["nn_functional_conv1d", torch.float32].cases(1))

    def backend(change):
        return lambda gm, inputs: lambda *args: tuple(change(t) for t in gm.forward(*args))

    assert check_case(case, backend(lambda t: t), "lamina")[0] == "pass"
    assert check_case(case, backend(lambda t: t + 1e-3), "lamina")[0] == "wrong"
    assert check_case(case, backend(lambda t: t.mT.contiguous().mT), "lamina")[0] == "strides"
    assert check_case(case, backend(lambda t: t.missing), "lamina")[0] == "error"
    lamina.reset()


def test_comparison():
    x = torch.tensor([1.0, 1.0 + 2**-10])

    def same():
        return [x.double()]

    assert compare([x], [x], same) == ("pass", "")
    assert compare([x], [x * (1 + 1e-4)], same) == ("pass", ""), "nearer to float64 than eager"
    assert compare([x * (1 + 1e-4)], [x], same)[0] == "wrong"
    assert compare([x.int()], [x], same)[0] == "wrong" and compare([], [x], same)[0] == "wrong" and compare([None], [x], same)[0] == "wrong"


def test_where_eager_overflows_float64_decides():
    inf, exact = torch.tensor([float("inf"), 1.0], dtype=torch.float16), torch.tensor([7.64, 1.0], dtype=torch.float64)

    assert compare([exact.half()], [inf], lambda: [exact]) == ("pass", "")
    assert compare([exact.half() * 1.1], [inf], lambda: [exact])[0] == "wrong"
    assert compare([inf], [exact.half()], lambda: [exact])[0] == "wrong"


def test_how_far_an_entry_is_lowered():
    assert lowered_as({}) == "prims"
    assert lowered_as({"aten.sort.stable: sorting": 1}) == "aten"
    assert lowered_as({"aten.sort.stable: sorting": 1, "aten.x.default: no decomposition": 1}) == "fallback"
