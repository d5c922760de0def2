"""Products of matrices: sizes, tails, layouts, dtypes, threads."""

import pytest
import torch
from extern_support import same_as_eager
from lamina_inductor.extern import matmul as rules

SIZES = [(1, 1, 1), (1, 40, 33), (3, 5, 7), (12, 16, 32), (13, 17, 33), (47, 400, 65), (100, 70, 31), (197, 64, 197), (130, 801, 300)]


@pytest.fixture(autouse=True)
def _own_core(monkeypatch):
    monkeypatch.setattr(rules, "own_is_faster", lambda kind: True)


@pytest.fixture(autouse=True, params=[1, 2])
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("m,k,n", SIZES)
def test_layouts(m, k, n):
    a, at, b, bt = torch.randn(m, k), torch.randn(k, m).t(), torch.randn(k, n), torch.randn(n, k).t()
    graph = same_as_eager(lambda a, at, b, bt: (a @ b, a @ bt, at @ b, at @ bt), a, at, b, bt)
    assert graph.fallbacks == [] and graph.source.count("lamina_gemm(&") == 4


@pytest.mark.parametrize("m,k,n", [(5, 6, 7), (64, 64, 64), (33, 130, 20)])
def test_batches(m, k, n):
    a, b = torch.randn(3, m, k), torch.randn(3, n, k)
    same_as_eager(lambda a, b: (a @ b.transpose(1, 2), (a * 2) @ b.transpose(1, 2).relu()), a, b)


def test_broadcast_batch_and_strided_rows():
    a, b = torch.randn(4, 10, 24)[:, ::2, ::3], torch.randn(8, 6)
    same_as_eager(lambda a, b: (torch.bmm(a, b.expand(4, 8, 6)),), a, b)


def test_linear_with_bias_and_activation():
    x, w, b = torch.randn(2, 50, 70), torch.randn(33, 70), torch.randn(33)
    graph = same_as_eager(lambda x, w, b: (torch.nn.functional.gelu(torch.nn.functional.linear(x, w, b)),), x, w, b)
    assert graph.kernels == 1


@pytest.mark.parametrize("m,k,n", [(0, 4, 5), (4, 0, 5), (4, 5, 0)])
def test_empty(m, k, n):
    same_as_eager(lambda a, b: (a @ b,), torch.randn(m, k), torch.randn(k, n))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_use_the_library(dtype):
    a, b = torch.randn(20, 30).to(dtype), torch.randn(30, 40).to(dtype)
    graph = same_as_eager(lambda a, b: (a @ b, torch.bmm(a[None], b[None])), a, b, exact=True)
    assert "lamina_gemm(&" not in graph.source and graph.fallbacks == []


def test_not_a_number_and_infinity_pass_through():
    a, b = torch.randn(9, 20), torch.randn(20, 11)
    a[3, 4], a[5, 6] = float("nan"), float("inf")
    b = b.abs() + 1
    from extern_support import compiled
    got, = compiled(lambda a, b: (a @ b,), a, b)(a, b)
    assert got[3].isnan().all() and got[5].isinf().all() and got[[0, 1, 2, 4, 6, 7, 8]].isfinite().all()


def test_the_library_when_it_is_faster(monkeypatch):
    monkeypatch.setattr(rules, "own_is_faster", lambda kind: False)
    graph = same_as_eager(lambda a, b: (torch.relu(a @ b.t()),), torch.randn(1, 70), torch.randn(50, 70))
    assert "aoti_torch_cpu_mm_out(" in graph.source and "lamina_gemm(&" not in graph.source
