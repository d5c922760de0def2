"""The C shim that `libtorch_cpu` exports: prototypes of what we call, and whether this torch has them.

A tensor handle is `void*`; each function returns 0 or an error. Optional tensors and numbers are passed by pointer.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..ir.extern import CallWriter

__all__ = ["declare", "has", "i64_array"]

_PROTOTYPES = {
    "aoti_torch_cpu_mm_out": "(void* out, void* self, void* mat2)",
    "aoti_torch_cpu_bmm_out": "(void* out, void* self, void* mat2)",
    "aoti_torch_cpu_convolution":
        "(void* input, void* weight, void** bias, const i64* stride, i64, const i64* padding, i64, const i64* dilation, i64, int transposed, "
        "const i64* output_padding, i64, i64 groups, void** out)",
    "aoti_torch_cpu_convolution_backward":
        "(void* grad, void* input, void* weight, const i64** bias_sizes, i64, const i64* stride, i64, const i64* padding, i64, const i64* dilation, i64, "
        "int transposed, const i64* output_padding, i64, i64 groups, const int* mask, i64, void** dx, void** dw, void** db)",
    "aoti_torch_cpu__scaled_dot_product_flash_attention_for_cpu":
        "(void* q, void* k, void* v, double dropout, int causal, void** mask, double* scale, void** out, void** logsumexp)",
    "aoti_torch_cpu__scaled_dot_product_flash_attention_for_cpu_backward":
        "(void* grad, void* q, void* k, void* v, void* out, void* logsumexp, double dropout, int causal, void** mask, double* scale, "
        "void** dq, void** dk, void** dv)",
}


@cache
def _library() -> ctypes.CDLL:
    folder = Path(torch.__file__).parent / "lib"
    return ctypes.CDLL(str(folder / "libtorch_cpu.so"))


@cache
def has(name: str) -> bool:
    """Does the running torch export the function?"""
    return hasattr(_library(), name)


def declare(w: CallWriter, name: str) -> str:
    """Declare a shim function in the graph's source; returns its name."""
    w.declare(f"int {name}{_PROTOTYPES[name]};")
    return name


def i64_array(w: CallWriter, values: Any) -> str:
    """`pointer, length` arguments of a list of integers."""
    if not values:
        return "0, 0"
    return f"(const i64[]){{{', '.join(w.expr(v) for v in values)}}}, {len(values)}"
