"""PyTorch's state outside of tensors: modes, flags of backends, the default dtype and device, the random generator.

Between: setters and getters that the program calls -> `state`, nodes of the graph.
Keeps:   what the program reads before it sets it is guarded.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from lamina_primops import rng

from ..calls import rule
from ..control import native, unsupported
from ..guards import GuardKind
from ..recorder import Recorder, function_rule
from ..source import CallSource, ConstantSource
from ..state import Setting, apply

__all__ = ["settled_dtype"]


def _one(getter: Any) -> Callable[..., tuple[Any, ...]]:
    return lambda *key: (getter(*key),)


_C = torch._C
DEFAULT_DTYPE = Setting(_C._set_default_dtype, _one(torch.get_default_dtype), guarded=True)

_DETERMINISTIC = Setting(lambda mode, warn_only: _C._set_deterministic_algorithms(mode, warn_only=warn_only), lambda: (_C._get_deterministic_algorithms(), _C._get_deterministic_algorithms_warn_only()), guarded=True)
_CACHE = Setting(torch.set_autocast_cache_enabled, _one(torch.is_autocast_cache_enabled))
_ANOMALY = Setting(torch.set_anomaly_enabled, lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()))
_ALONE = (
    Setting(_C._set_grad_enabled, _one(torch.is_grad_enabled), guarded=True),
    Setting(torch.set_autocast_enabled, _one(torch.is_autocast_enabled), keys=1, guarded=True),
    Setting(torch.set_autocast_dtype, _one(torch.get_autocast_dtype), keys=1, guarded=True),
    _CACHE,
    DEFAULT_DTYPE,
    _ANOMALY,
)
# Names of getters and setters in torch._C; a getter takes the key.
_FLAGS = (
    ("_get_deterministic_fill_uninitialized_memory", "_set_deterministic_fill_uninitialized_memory", 0),
    ("_get_float32_matmul_precision", "_set_float32_matmul_precision", 0), ("_get_fp32_precision_getter", "_set_fp32_precision_setter", 2),
    ("_get_cudnn_enabled", "_set_cudnn_enabled", 0), ("_get_cudnn_benchmark", "_set_cudnn_benchmark", 0), ("_get_cudnn_deterministic", "_set_cudnn_deterministic", 0),
    ("_get_cudnn_allow_tf32", "_set_cudnn_allow_tf32", 0), ("_get_cudnn_depthwise_kernel", "_set_cudnn_depthwise_kernel", 0), ("_cuda_get_cudnn_benchmark_limit", "_cuda_set_cudnn_benchmark_limit", 0),
    ("_get_cublas_allow_tf32", "_set_cublas_allow_tf32", 0), ("_get_cublas_allow_fp16_accumulation", "_set_cublas_allow_fp16_accumulation", 0),
    ("_get_mkldnn_enabled", "_set_mkldnn_enabled", 0), ("_get_mkldnn_deterministic", "_set_mkldnn_deterministic", 0), ("_get_onednn_allow_tf32", "_set_onednn_allow_tf32", 0),
    ("_get_nnpack_enabled", "_set_nnpack_enabled", 0), ("_get_qengine", "_set_qengine", 0), ("_get_warnAlways", "_set_warnAlways", 0),
    *[(f"_get_{kind}_sdp_enabled", f"_set_sdp_use_{kind}", 0) for kind in ("flash", "mem_efficient", "math", "cudnn", "overrideable")],
    ("_get_math_sdp_allow_fp16_bf16_reduction", "_set_math_sdp_allow_fp16_bf16_reduction", 0), ("_get_sdp_priority_order", "_set_sdp_priority_order", 0),
    ("_is_multithreading_enabled", "_set_multithreading_enabled", 0), ("_is_view_replay_enabled", "_set_view_replay_enabled", 0), ("_is_grad_layout_enforcement_enabled", "_set_grad_layout_enforcement_enabled", 0),
)  # fmt: skip
_IN_PYTHON = (
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_num_interop_threads, torch.set_num_interop_threads),
    (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
    (torch.backends.opt_einsum._get_enabled, torch.backends.opt_einsum._set_enabled),
    (torch.backends.opt_einsum._get_strategy, torch.backends.opt_einsum._set_strategy),
)


def _hashable(v: Any) -> Any:
    return tuple(v) if type(v) is list else v


# ---- set and read -------------------------------------------------------------------------------------------------------
def _setter_rule(s: Setting) -> None:
    rule(s.write)(lambda cap, args, kwargs: apply(cap, s, args, kwargs))
    if s.write.__module__ in (None, "torch", "torch._C") and not hasattr(s.write, "__code__"):  # PyTorch's own Python code sets it, too
        function_rule(s.write)(lambda rec, func, args, kwargs: apply(rec.cap, s, args, kwargs))


@functools.cache
def _reading(getter: Any, key: tuple[Any, ...]) -> Any:
    """A function for `CallSource`; one per getter and key, since sources are interned by identity."""

    def read(_: Any) -> Any:
        return _hashable(getter(*key))

    read.__name__ = getter.__name__
    return read


def _getter_rule(getter: Any, s: Setting) -> None:
    def run(cap: Any, args: Any, kwargs: Any) -> Any:
        value = native(getter, *args, **kwargs)
        if (s, tuple(args[: s.keys])) not in cap.settings:
            cap.guards.add(CallSource(_reading(getter, tuple(args)), ConstantSource(None)), GuardKind.EQUALS, _hashable(value))
        return value

    rule(getter)(run)


def _register() -> None:
    for s in _ALONE:
        _setter_rule(s)
    named = [(getattr(_C, get, None), getattr(_C, put, None), keys) for get, put, keys in _FLAGS]
    for getter, setter, keys in [*named, *[(get, put, 0) for get, put in _IN_PYTHON]]:
        if getter is not None and setter is not None:
            s = Setting(setter, _one(getter), keys)
            _setter_rule(s)
            _getter_rule(getter, s)


_register()
_getter_rule(torch.is_autocast_cache_enabled, _CACHE)  # the state of a call has it where autocast is on
_getter_rule(torch.get_autocast_dtype, next(s for s in _ALONE if s.write is torch.set_autocast_dtype))
_getter_rule(torch.is_anomaly_enabled, _ANOMALY)
_getter_rule(torch.is_anomaly_check_nan_enabled, _ANOMALY)


@rule(torch.use_deterministic_algorithms, _C._set_deterministic_algorithms)
def use_deterministic_algorithms(cap: Any, args: Any, kwargs: Any) -> None:
    """Without what the public function also tells the reference compiler, which it imports for that."""
    mode, warn_only = _SIGNATURE.bind(*args, **kwargs).args[0], kwargs.get("warn_only", False)
    apply(cap, _DETERMINISTIC, (mode, warn_only), {}, in_graph=False)
    cap.recorder.emit(_C._set_deterministic_algorithms, (mode,), {"warn_only": warn_only}, None)


_SIGNATURE = inspect.signature(torch.use_deterministic_algorithms)


# ---- the default dtype ---------------------------------------------------------------------------------------------------
def settled_dtype(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> tuple[Any, Any]:
    """Arguments with which a call gives its result whatever the default dtype, where the frame has set one: a compiled graph does not know it."""
    now, (was,) = torch.get_default_dtype(), rec.cap.settings[DEFAULT_DTYPE, ()]
    if now == was or not isinstance(out, torch.Tensor) or any(out is a for a in args):
        return args, kwargs
    explicit = {**kwargs, "dtype": out.dtype}
    with torch._C.DisableTorchFunction():
        converted = tuple(a.to(now) if isinstance(a, torch.Tensor) and not (a.is_floating_point() or a.is_complex()) else a for a in args)
        torch.set_default_dtype(was)
        try:
            for a, k in ((args, kwargs), (args, explicit), (converted, kwargs)):
                if _result_dtype(func, a, k) == out.dtype:
                    break
            else:
                a = None
        finally:
            torch.set_default_dtype(now)
    if a is not None:
        return tuple(rec.run(torch.Tensor.to, (x, now), {}) if x is not y else x for x, y in zip(args, a)), k
    unsupported("global-state", "an operator whose result depends on a default dtype that the frame set", saw=getattr(func, "__name__", str(func)))


def _result_dtype(func: Any, args: Any, kwargs: Any) -> torch.dtype | None:
    try:
        return func(*args, **kwargs).dtype
    except TypeError:  # no such keyword
        return None


# ---- how tensors are printed ---------------------------------------------------------------------------------------------
@rule(torch.set_printoptions)
def set_printoptions(cap: Any, args: Any, kwargs: Any) -> None:
    unsupported("global-state", "how tensors are printed")


# ---- the random generator ------------------------------------------------------------------------------------------------
@rule(torch.manual_seed)
def manual_seed(cap: Any, args: Any, kwargs: Any) -> torch.Generator:
    seed = args[0] if args else kwargs["seed"]
    if not isinstance(seed, torch.SymInt):
        seed = native(int, seed)
        seed = seed - 2**64 if 2**63 <= seed < 2**64 else seed  # as the operator's signed argument
    _run_rng(cap, rng.manual_seed, seed)
    return torch.default_generator


@rule(torch.cuda.manual_seed, torch.cuda.manual_seed_all)
def cuda_manual_seed(cap: Any, args: Any, kwargs: Any) -> None:
    """Without a device there is nothing to seed."""
    if torch.cuda.is_available():
        unsupported("global-state", "seeding the generators of CUDA devices")


@rule(torch.get_rng_state)
def get_rng_state(cap: Any, args: Any, kwargs: Any) -> Any:
    return _run_rng(cap, rng.get_state)


@rule(torch.set_rng_state)
def set_rng_state(cap: Any, args: Any, kwargs: Any) -> None:
    _run_rng(cap, rng.set_state, args[0] if args else kwargs["new_state"])


def _run_rng(cap: Any, op: Any, *args: Any) -> Any:
    if cap.recorder.scope is not None:
        unsupported("global-state", "the state of the random generator under a transform")
    cap.recorder.impure = True
    args, _ = cap.lift_arguments(args, {})
    with torch._C.DisableTorchFunction():
        out = native(op, *args)
    if out is None:
        cap.recorder.emit(op, args, {}, None)
        return None
    return cap.recorder.note(op, args, {}, out)


# ---- autocast's nesting -------------------------------------------------------------------------------------------------
def _nesting(fn: Any, by: int) -> None:
    @rule(fn)
    def run(cap: Any, args: Any, kwargs: Any) -> int:
        """How deep contexts of autocast are nested: counted, and no part of the graph."""
        cap.autocast_nesting += by
        return native(fn)


_nesting(torch.autocast_increment_nesting, 1)
_nesting(torch.autocast_decrement_nesting, -1)


@rule(torch.clear_autocast_cache)
def clear_autocast_cache(cap: Any, args: Any, kwargs: Any) -> None:
    cap.recorder.emit(torch.clear_autocast_cache, (), {}, None)
    native(torch.clear_autocast_cache)
