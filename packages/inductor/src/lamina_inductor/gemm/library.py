"""The shared library of `core.cpp` and `attention.cpp`: where it is, and what a caller in generated code must declare."""

from __future__ import annotations

from ..native_library import NativeLibrary

__all__ = ["ATTENTION_DECLARATION", "ATTENTION_DEFINITION", "DECLARATION", "DEFINITION", "library", "library_path"]

library = NativeLibrary("gemm", __file__, "core.cpp", "attention.cpp")
library_path = library.path

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

ATTENTION_DECLARATION = """struct lamina_attention_call;
int lamina_attention(const lamina_attention_call*); int lamina_attention_backward(const lamina_attention_call*);"""
ATTENTION_DEFINITION = """struct lamina_attention_call {
  i64 B, H, Q, K, D;
  float scale; int causal;
  const float *q, *k, *v, *mask;
  i64 qs[3], ks[3], vs[3], ms[4];
  float *o, *lse;
  i64 os[3], ls[3];
  const float* go;
  i64 gs[3];
  float *dq, *dk, *dv;
  i64 dqs[3], dks[3], dvs[3];
};"""
