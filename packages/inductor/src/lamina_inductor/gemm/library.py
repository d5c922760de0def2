"""The shared library of `core.cpp`: where it is, and what a caller in generated code must declare."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lamina_dynshape.support.toolchain import compile_shared

__all__ = ["DECLARATION", "DEFINITION", "library_path"]

FLAGS = ("-O3", "-std=c++17", "-march=native", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-exceptions", "-fno-rtti")

DECLARATION = "struct lamina_gemm_call; int lamina_gemm(const lamina_gemm_call*);"
DEFINITION = """typedef void (*lamina_epilogue)(void* context, i64 r0, i64 r1, i64 c0, i64 c1);
struct lamina_gemm_call {
  i64 batch, M, N, K;
  const float* A; i64 a_batch, a_row, a_col;
  const float* B; i64 b_batch, b_row, b_col;
  float* C; i64 c_batch, c_row;
  const float* bias;
  const float* row_bias;
  i64 accumulate;
  lamina_epilogue epilogue; void* context;
};"""


@cache
def _source() -> str:
    return Path(__file__).with_name("core.cpp").read_text()


def library_path() -> str:
    """Absolute path of the library, built now if this machine has none."""
    return str(compile_shared(_source(), name="gemm", flags=FLAGS))
