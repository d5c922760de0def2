"""The shared library of `window.cpp`: where it is, and what a caller in generated code must declare."""

from __future__ import annotations

from ..native_library import NativeLibrary

__all__ = ["DECLARATION", "DEFINITION", "library", "library_path"]

library = NativeLibrary("window", __file__, "window.cpp")
library_path = library.path

DECLARATION = """struct lamina_window_call;
int lamina_depthwise(const lamina_window_call*, const float* x, const float* w, const float* bias, float* y);
int lamina_depthwise_grad_input(const lamina_window_call*, const float* dy, const float* w, float* dx);
int lamina_depthwise_grad_weight(const lamina_window_call*, const float* dy, const float* x, float* dw);
int lamina_max_pool(const lamina_window_call*, int channels_last, const float* x, float* y, i64* where);"""
DEFINITION = "struct lamina_window_call { i64 N, C, H, W, OH, OW, kh, kw, sh, sw, ph, pw, dh, dw; };"
