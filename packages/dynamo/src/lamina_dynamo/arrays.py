"""NumPy arrays made from tensors, during capture: stand-ins whose operations are torch calls in the graph.

Between: `tensor.numpy()`, NumPy functions and operators of the program -> torch calls on the tensor that shares the array's memory.
Keeps:   dtypes are NumPy's (`ufunc.resolve_dtypes`, `result_type`: an int array divided is float64); a view in NumPy is a view in torch, so
         writes reach the tensor; what has no entry in the tables is a graph break.
Source:  NEP 13 (`__array_ufunc__`), NEP 18 (`__array_function__`), NEP 50 (promotion of Python scalars).

Warnings that NumPy gives on values (overflow, division by zero) are not repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch

from .control import STANDS_FOR, unsupported

__all__ = ["NUMPY_DTYPES", "TensorArray", "as_tensor_key", "rebuilt"]

NUMPY_DTYPES = {
    np.dtype(n): t
    for n, t in (("bool", torch.bool), ("uint8", torch.uint8), ("int8", torch.int8), ("int16", torch.int16), ("int32", torch.int32), ("int64", torch.int64),
                 ("float16", torch.float16), ("float32", torch.float32), ("float64", torch.float64), ("complex64", torch.complex64), ("complex128", torch.complex128))
}  # fmt: skip
_NUMPY = {t: d for d, t in NUMPY_DTYPES.items()}
_T = torch
_FLOATS = frozenset("fc")


def _break(what: str, saw: str = "") -> NoReturn:
    unsupported("numpy", what, saw=saw, hint="use the torch function of the same name")


def _torch_dtype(dtype: Any) -> torch.dtype:
    found = NUMPY_DTYPES.get(np.dtype(dtype))
    return found if found is not None else _break("a NumPy dtype that torch lacks", str(dtype))


class TensorArray:
    """Plays the array that shares the memory of `tensor`."""

    __slots__ = ("cap", "tensor")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, cap: Any, tensor: torch.Tensor) -> None:
        self.cap, self.tensor = cap, tensor

    # ---- what it says of itself ----
    @property
    def dtype(self) -> Any:
        return _NUMPY.get(self.tensor.dtype) or _break("a dtype that NumPy lacks", str(self.tensor.dtype))

    @property
    def shape(self) -> tuple[Any, ...]:
        return tuple(self.tensor.shape)

    @property
    def ndim(self) -> int:
        return self.tensor.dim()

    @property
    def size(self) -> Any:
        return self.tensor.numel()

    @property
    def itemsize(self) -> int:
        return self.tensor.element_size()

    @property
    def nbytes(self) -> Any:
        return self.tensor.numel() * self.tensor.element_size()

    @property
    def T(self) -> Any:
        return _transpose(self)

    @property
    def real(self) -> Any:
        return self._view(self.tensor.real) if self.dtype.kind == "c" else self

    def __len__(self) -> Any:
        if self.ndim == 0:
            raise TypeError("len() of unsized object")
        return self.tensor.shape[0]

    def __getattr__(self, name: str) -> Any:
        _break("an attribute of an array", name)

    # ---- values ----
    def item(self) -> Any:
        return self.tensor.item()

    __int__ = lambda self: int(self.tensor) if self.dtype.kind == "f" else self.tensor.item()
    __index__ = item
    __float__ = lambda self: torch.sym_float(self.tensor.item())

    def __bool__(self) -> bool:
        return self.cap.tensor_truth(self.tensor)

    def tolist(self) -> Any:
        return self.tensor.tolist()

    def __repr__(self) -> str:
        unsupported("tensor-text", "the text of an array's values", hint="format outside of the compiled function")

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        _break("the values of an array in C code")

    def __iter__(self) -> Any:
        return iter([self[i] for i in range(len(self))])

    # ---- items ----
    def __getitem__(self, key: Any) -> Any:
        keys = key if type(key) is tuple else (key,)
        out = self.tensor[self._keys(keys)]
        if out.dim() == 0 and all(isinstance(k, (int, torch.SymInt, np.integer)) for k in keys):
            return _scalar(self.cap, out.clone())
        return self._view(out)

    def __setitem__(self, key: Any, value: Any) -> None:
        keys = key if type(key) is tuple else (key,)
        self.tensor[self._keys(keys)] = _as_tensor(self.cap, value, self.tensor.dtype)

    def _keys(self, keys: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self._key(k) for k in keys)

    def _key(self, k: Any) -> Any:
        if type(k) is slice:
            if isinstance(k.step, int) and k.step < 0:
                _break("a slice with a negative step")
            return k
        if isinstance(k, TensorArray):
            return k.tensor
        if isinstance(k, np.ndarray):
            return _as_tensor(self.cap, k)
        return list(k) if isinstance(k, list) else int(k) if isinstance(k, np.integer) else k

    def _view(self, t: torch.Tensor) -> TensorArray:
        return TensorArray(self.cap, t)

    # ---- NumPy's protocols ----
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        if method != "__call__" or kwargs or ufunc.nout != 1:
            _break("a form of a NumPy ufunc", f"{ufunc.__name__}.{method}")
        result = _ufunc(self.cap, ufunc, inputs)
        if out is None:
            return result
        target = out[0]
        if not isinstance(target, TensorArray):
            _break("out= an array of another kind", ufunc.__name__)
        return _write(target, result)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        found = _FUNCTIONS.get(func)
        if found is None or kwargs.get("out") is not None:
            _break("a NumPy function without an entry in the table", func.__name__)
        return found(*args, **kwargs)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        _break("an array as argument of a torch function", getattr(func, "__name__", str(func)))


STANDS_FOR[TensorArray] = np.ndarray
_scalar_classes: dict[Any, type] = {}


def _scalar(cap: Any, t: torch.Tensor) -> TensorArray:
    """A NumPy scalar: what full reductions and single items give."""
    dtype = _NUMPY[t.dtype]
    cls = _scalar_classes.get(dtype)
    if cls is None:
        cls = _scalar_classes[dtype] = type(f"Tensor_{dtype.name}", (TensorArray,), {"__slots__": (), "__module__": __name__, "is_scalar": True})
        STANDS_FOR[cls] = dtype.type
    return cls(cap, t)


def rebuilt(v: TensorArray, expr: str) -> str:
    """The text that makes the array from its tensor."""
    return f"{expr}.numpy()[()]" if hasattr(type(v), "is_scalar") else f"{expr}.numpy()"


# ---- operands ------------------------------------------------------------------------------------------------------------
def _as_tensor(cap: Any, v: Any, dtype: torch.dtype | None = None) -> Any:
    """A tensor of an operand; numbers of Python stay numbers."""
    if isinstance(v, TensorArray):
        t = v.tensor
    elif isinstance(v, (np.ndarray, np.generic)):
        cap.refuse_opaque(v)
        _torch_dtype(v.dtype)
        with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
            real = torch.from_numpy(np.array(v))
        t = cap.lift_constant(real)
    elif isinstance(v, torch.Tensor):
        _break("a tensor among arrays")
    elif isinstance(v, (list, tuple)):
        if any(isinstance(x, (TensorArray, torch.Tensor, list, tuple)) for x in v):
            _break("a list of arrays as an array")
        return _as_tensor(cap, np.array(v), dtype)
    elif isinstance(v, (int, float, complex, torch.SymInt, torch.SymFloat)):
        return v
    else:
        _break("an operand that is no array", type(v).__name__)
    return t if dtype is None or t.dtype is dtype else t.to(dtype)


def _kind(v: Any) -> Any:
    """What promotion sees of an operand: a dtype, or the class of a Python number, which is weak."""
    if isinstance(v, (TensorArray, np.ndarray, np.generic)):
        return v.dtype
    if isinstance(v, (list, tuple)):
        return np.array(v).dtype
    if isinstance(v, bool):
        return np.dtype(bool)
    return {torch.SymInt: int, torch.SymFloat: float}.get(type(v), type(v))


_WEAK = {int: 1, float: 1.0, complex: 1j}


def _common(*values: Any) -> torch.dtype:
    kinds = [_kind(v) for v in values]
    return _torch_dtype(np.result_type(*[_WEAK.get(k, k) for k in kinds]))


def _result(cap: Any, t: torch.Tensor) -> Any:
    """A result of a NumPy function: a scalar where it has no dimensions."""
    return _scalar(cap, t) if t.dim() == 0 else TensorArray(cap, t)


def _write(target: TensorArray, result: Any) -> TensorArray:
    if not np.can_cast(result.dtype, target.dtype, "same_kind"):
        _break("a result that NumPy does not cast to the array's dtype", f"{result.dtype} to {target.dtype}")
    target.tensor.copy_(result.tensor)
    return target


# ---- ufuncs --------------------------------------------------------------------------------------------------------------
_UFUNCS: dict[str, Callable[..., Any]] = {
    **{n: getattr(_T, n) for n in ("add", "subtract", "multiply", "fmod", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "square", "sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "arctan2", "hypot", "maximum", "minimum", "fmax", "fmin", "greater", "greater_equal", "less", "less_equal", "not_equal", "logical_and", "logical_or", "logical_xor", "logical_not", "bitwise_and", "bitwise_or", "bitwise_xor", "isnan", "isinf", "isfinite", "floor", "ceil", "trunc", "deg2rad", "rad2deg", "copysign", "logaddexp", "logaddexp2", "negative", "positive", "absolute", "matmul", "signbit")},
    "divide": _T.div, "equal": _T.eq, "power": _T.pow, "rint": _T.round, "invert": _T.bitwise_not, "conjugate": lambda x: x.conj().resolve_conj(), "fabs": _T.abs, "degrees": _T.rad2deg, "radians": _T.deg2rad,
    "floor_divide": _T.floor_divide, "remainder": _T.remainder, "reciprocal": _T.reciprocal, "sign": lambda x: _T.where(_T.isnan(x), x, _T.sign(x)) if x.is_floating_point() else _T.sign(x),
}  # fmt: skip
_ON_FLOATS = frozenset({"floor_divide", "remainder", "fmod", "power", "reciprocal"})  # on integers NumPy has values where torch raises


def _ufunc(cap: Any, ufunc: Any, inputs: Any) -> Any:
    call = _UFUNCS.get(ufunc.__name__)
    if call is None:
        _break("a NumPy ufunc without an entry in the table", ufunc.__name__)
    *operands, result = ufunc.resolve_dtypes((*map(_kind, inputs), None))
    if ufunc.__name__ in _ON_FLOATS and result.kind not in _FLOATS and not (isinstance(inputs[-1], int) and inputs[-1] > 0):
        _break("a NumPy ufunc on integers", ufunc.__name__)
    tensors = [_as_tensor(cap, v, _torch_dtype(d)) for v, d in zip(inputs, operands)]
    if ufunc.__name__ not in ("power", "remainder", "floor_divide", "add", "multiply", "divide", "subtract") or not isinstance(tensors[0], torch.Tensor):
        tensors = [_T.full((), v, dtype=_torch_dtype(d)) if not isinstance(v, torch.Tensor) else v for v, d in zip(tensors, operands)]
    out = call(*tensors)
    return _result(cap, out if out.dtype is _torch_dtype(result) else out.to(_torch_dtype(result)))


def _method(name: str, run: Any) -> None:
    """A method under its name, by which a bound one is found again on the real array."""
    run.__name__ = name
    setattr(TensorArray, name, run)


def _operators() -> None:
    for name, ufunc in (
        ("add", np.add), ("sub", np.subtract), ("mul", np.multiply), ("truediv", np.divide), ("floordiv", np.floor_divide), ("mod", np.remainder), ("pow", np.power), ("matmul", np.matmul),
        ("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor),
    ):  # fmt: skip
        _method(f"__{name}__", lambda self, other, ufunc=ufunc: _ufunc(self.cap, ufunc, (self, other)))
        _method(f"__r{name}__", lambda self, other, ufunc=ufunc: _ufunc(self.cap, ufunc, (other, self)))
        _method(f"__i{name}__", lambda self, other, ufunc=ufunc: _in_place(self, ufunc, other))
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        ufunc = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}[name]
        _method(f"__{name}__", lambda self, other, ufunc=ufunc: _ufunc(self.cap, ufunc, (self, other)))
    for name, ufunc in (("neg", np.negative), ("pos", np.positive), ("invert", np.invert), ("abs", np.absolute)):
        _method(f"__{name}__", lambda self, ufunc=ufunc: _ufunc(self.cap, ufunc, (self,)))


def _in_place(a: TensorArray, ufunc: Any, other: Any) -> Any:
    result = _ufunc(a.cap, ufunc, (a, other))
    return result if hasattr(type(a), "is_scalar") else _write(a, result)


_operators()


# ---- functions and methods -----------------------------------------------------------------------------------------------
def _reduction(call: Any, kind: Any = None) -> Any:
    """`call(tensor, dims, keepdim)`; `kind(dtype)`: the dtype that NumPy computes in."""

    def run(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, **kwargs: Any) -> Any:
        if out is not None or kwargs.keys() - {"ddof"} or a.tensor.numel() == 0:
            _break("a form of a NumPy reduction", ", ".join(kwargs))
        wanted = dtype if dtype is not None else kind(a.dtype) if kind is not None else a.dtype
        dims = tuple(range(a.ndim)) if axis is None else tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
        t = a.tensor if a.tensor.dtype is _torch_dtype(wanted) else a.tensor.to(_torch_dtype(wanted))
        return _result(a.cap, call(t, dims, bool(keepdims), **kwargs))

    return run


def _sums(d: Any) -> Any:
    return d if d.kind in _FLOATS else _break("a sum of unsigned numbers") if d.kind == "u" else np.dtype(np.int64)


def _means(d: Any) -> Any:
    return d if d.kind in _FLOATS else np.dtype(np.float64)


def _over_one(call: Any) -> Any:
    """A reduction over one dimension, or over all of them in order."""

    def run(t: Any, dims: Any, keepdim: bool) -> Any:
        if len(dims) == 1:
            return call(t, dims[0], keepdim)
        if len(dims) != t.dim() or keepdim and dims:
            _break("a NumPy reduction over some dimensions")
        return call(t.reshape(-1), 0, False)

    return run


def _scan(call: Any) -> Any:
    def run(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
        if out is not None:
            _break("out= of a NumPy function")
        t = a.tensor.to(_torch_dtype(dtype or _sums(a.dtype)))
        return TensorArray(a.cap, call(t.reshape(-1), 0) if axis is None else call(t, axis))

    return run


def _spread(correction: str) -> Any:
    return lambda t, dims, keep, ddof=0: getattr(_T, correction)(t, dims, correction=ddof, keepdim=keep)


_REDUCTIONS: dict[str, Any] = {
    "sum": _reduction(lambda t, d, k: _T.sum(t, d, keepdim=k), _sums), "mean": _reduction(lambda t, d, k: _T.mean(t, d, keepdim=k), _means),
    "std": _reduction(_spread("std"), _means), "var": _reduction(_spread("var"), _means), "prod": _reduction(_over_one(_T.prod), _sums),
    "max": _reduction(lambda t, d, k: _T.amax(t, d, k)), "min": _reduction(lambda t, d, k: _T.amin(t, d, k)),
    "any": _reduction(lambda t, d, k: _T.any(t, d, k), lambda d: np.dtype(bool)), "all": _reduction(lambda t, d, k: _T.all(t, d, k), lambda d: np.dtype(bool)),
    "argmax": _reduction(_over_one(_T.argmax)), "argmin": _reduction(_over_one(_T.argmin)), "cumsum": _scan(_T.cumsum), "cumprod": _scan(_T.cumprod),
}  # fmt: skip


def _shape_args(shape: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape


def _transpose(a: Any, *axes: Any) -> Any:
    axes = _shape_args(axes) if axes and axes[0] is not None else tuple(reversed(range(a.ndim)))
    return a._view(a.tensor.permute(axes))


def _reshape(a: Any, *shape: Any, order: str = "C") -> Any:
    return a._view(a.tensor.reshape(_shape_args(shape))) if order == "C" else _break("an order of memory", order)


def _squeeze(a: Any, axis: Any = None) -> Any:
    return a._view(a.tensor.squeeze() if axis is None else a.tensor.squeeze(axis))


def _astype(a: Any, dtype: Any, copy: bool = True, **kwargs: Any) -> Any:
    if kwargs:
        _break("a form of astype", str(dtype))
    t = a.tensor.to(_torch_dtype(dtype), copy=copy)
    return type(a)(a.cap, t) if t.dtype is a.tensor.dtype else _result(a.cap, t) if hasattr(type(a), "is_scalar") else a._view(t)


def _clip(a: Any, a_min: Any = None, a_max: Any = None, **kwargs: Any) -> Any:
    low, high = kwargs.pop("min", a_min), kwargs.pop("max", a_max)
    if kwargs:
        _break("a form of clip", ", ".join(kwargs))
    for bound, ufunc in ((low, np.maximum), (high, np.minimum)):
        a = a if bound is None else _ufunc(a.cap, ufunc, (a, bound))
    return a


def _round(a: Any, decimals: int = 0) -> Any:
    return _ufunc(a.cap, np.rint, (a,)) if decimals == 0 and a.dtype.kind in _FLOATS else _break("a form of round")


_METHODS: dict[str, Any] = {
    **_REDUCTIONS, "reshape": _reshape, "transpose": _transpose, "squeeze": _squeeze, "astype": _astype, "clip": _clip, "round": _round,
    "copy": lambda a, order="C": a._view(a.tensor.clone(memory_format=_T.contiguous_format)), "flatten": lambda a, order="C": _reshape(a, -1, order=order).copy(),
    "ravel": lambda a, order="C": _reshape(a, -1, order=order), "swapaxes": lambda a, i, j: a._view(a.tensor.transpose(i, j)), "dot": lambda a, b: _dot(a, b),
    "fill": lambda a, v: (a.tensor.fill_(_as_tensor(a.cap, v)), None)[1], "conj": lambda a: _ufunc(a.cap, np.conjugate, (a,)) if a.dtype.kind == "c" else a,
}  # fmt: skip


for _name, _run in _METHODS.items():
    _method(_name, lambda self, *args, _run=_run, **kwargs: _run(self, *args, **kwargs))


def _cap_of(*values: Any) -> Any:
    for v in values:
        if isinstance(v, TensorArray):
            return v.cap
        if isinstance(v, (list, tuple)) and (found := _cap_of(*v)) is not None:
            return found
    return None


def _joined(call: Any) -> Any:
    """Functions of several arrays: all of one dtype first."""

    def run(arrays: Any, *args: Any, **kwargs: Any) -> Any:
        cap, dtype = _cap_of(arrays), _common(*arrays)
        tensors = [_as_tensor(cap, v, dtype) for v in arrays]
        return TensorArray(cap, call([t if isinstance(t, torch.Tensor) else _T.full((), t, dtype=dtype) for t in tensors], *args, **kwargs))

    return run


def _dot(a: Any, b: Any) -> Any:
    cap, dtype = _cap_of(a, b), _common(a, b)
    x, y = _as_tensor(cap, a, dtype), _as_tensor(cap, b, dtype)
    if not (isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor)) or x.dim() not in (1, 2) or y.dim() not in (1, 2):
        _break("a form of dot")
    return _result(cap, _T.matmul(x, y))


def _where(cond: Any, *branches: Any) -> Any:
    if len(branches) != 2:
        _break("where with one argument")
    cap, dtype = _cap_of(cond, *branches), _common(*branches)
    chosen = [_as_tensor(cap, v, dtype) for v in branches]
    return TensorArray(cap, _T.where(_as_tensor(cap, cond, torch.bool), *[t if isinstance(t, torch.Tensor) else _T.full((), t, dtype=dtype) for t in chosen]))


def _filled(value: Any) -> Any:
    def run(a: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None) -> Any:
        return TensorArray(a.cap, _T.full_like(a.tensor, value, dtype=_torch_dtype(dtype or a.dtype))) if shape is None else _break("shape= of zeros_like")

    return run


def _einsum(equation: str, *operands: Any, **kwargs: Any) -> Any:
    if kwargs:
        _break("a form of einsum")
    cap, dtype = _cap_of(*operands), _common(*operands)
    return _result(cap, _T.einsum(equation, *[_as_tensor(cap, v, dtype) for v in operands]))


def _on(name: str) -> Any:
    """The function that is a method of its first argument."""
    return lambda a, *args, **kwargs: _METHODS[name](a, *args, **kwargs)


def _made(call: Any) -> Any:
    """The function `call(tensor, ...)` gives another array."""
    return lambda a, *args, **kwargs: TensorArray(a.cap, call(a.tensor, *args, **kwargs))


_FUNCTIONS: dict[Any, Any] = {
    **{getattr(np, n): _on(n) for n in (*_REDUCTIONS, "reshape", "transpose", "squeeze", "clip", "round", "ravel", "swapaxes", "copy")},
    np.concatenate: _joined(lambda ts, axis=0: _T.cat(ts, axis) if axis is not None else _T.cat([t.reshape(-1) for t in ts])), np.stack: _joined(lambda ts, axis=0: _T.stack(ts, axis)),
    np.vstack: _joined(_T.vstack), np.hstack: _joined(_T.hstack), np.where: _where, np.dot: _dot, np.einsum: _einsum,
    np.zeros_like: _filled(0), np.ones_like: _filled(1), np.full_like: lambda a, value, *args, **kwargs: _filled(value)(a, *args, **kwargs),
    np.expand_dims: _made(lambda t, axis: t.unsqueeze(axis)), np.moveaxis: _made(_T.movedim), np.roll: _made(lambda t, shift, axis=None: _T.roll(t, shift, axis)),
    np.tile: _made(lambda t, reps: _T.tile(t, reps if isinstance(reps, tuple) else (reps,))), np.repeat: _made(lambda t, n, axis=None: _T.repeat_interleave(t if axis is not None else t.reshape(-1), n, axis or 0)),
    np.flip: _made(lambda t, axis=None: _T.flip(t, tuple(range(t.dim())) if axis is None else (axis,) if isinstance(axis, int) else axis)),
    np.broadcast_to: _made(lambda t, shape: t.expand(shape)), np.triu: _made(_T.triu), np.tril: _made(_T.tril), np.sort: _made(lambda t, axis=-1: _T.sort(t, axis).values),
    np.argsort: _made(lambda t, axis=-1, kind=None: _T.argsort(t, axis, stable=True) if kind == "stable" else _break("argsort that is not stable")),
    np.shape: lambda a: a.shape, np.ndim: lambda a: a.ndim, np.size: lambda a: a.size,
}  # fmt: skip


def as_tensor_key(key: Any) -> Any:
    """The key of a tensor's items with tensors in place of arrays, and of lists that hold numbers which only the run knows."""
    if type(key) is tuple:
        return tuple(map(as_tensor_key, key))
    if type(key) is list and any(type(k) is torch.SymInt for k in key) and all(type(k) in (int, torch.SymInt) for k in key):
        return torch.tensor(key)
    return key.tensor if isinstance(key, TensorArray) else key
