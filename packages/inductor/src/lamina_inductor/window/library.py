"""The shared library of `window.cpp`: where it is, and what a caller in generated code must declare."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lamina_dynshape.support.toolchain import compile_shared

from ..gemm.library import FLAGS

__all__ = ["DECLARATION", "DEFINITION", "library_path"]

DECLARATION = """struct lamina_window_call;
int lamina_depthwise(const lamina_window_call*, const float* x, const float* w, const float* bias, float* y);
int lamina_depthwise_grad_input(const lamina_window_call*, const float* dy, const float* w, float* dx);
int lamina_depthwise_grad_weight(const lamina_window_call*, const float* dy, const float* x, float* dw);
int lamina_max_pool(const lamina_window_call*, int channels_last, const float* x, float* y, i64* where);"""
DEFINITION = "struct lamina_window_call { i64 N, C, H, W, OH, OW, kh, kw, sh, sw, ph, pw, dh, dw; };"


@cache
def _source() -> str:
    return Path(__file__).with_name("window.cpp").read_text()


def library_path() -> str:
    """Absolute path of the library, built now if this machine has none."""
    return str(compile_shared(_source(), name="window", flags=FLAGS))
