"""A backend in an afternoon: every prim on NumPy arrays, the rest by PyTorch. The page to go with it is docs/backend.md.

Between: `lamina.compile(model, backend=afternoon)` -> aotgrad's graphs, lowered to prims, split by what NumPy has -> results as in eager.
A vendor's backend has these same three pieces: a table of prims (`TABLE`), what the device takes (`supports`), a runner of parts (`NumpyPart`).
Here the runner interprets; one that generates code walks the same nodes.

    python ../shared/zoo/bench.py --what infer --impl eager,integration.afternoon_backend
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.special
import torch
from torch import fx

import lamina
from lamina import explain, reset  # noqa: F401 (the zoo's harness takes this module as an implementation)
from lamina_aotgrad import aot_function
from lamina_primops import PRIMS, compile_parts, lower, split_by_support

DTYPES = {
    torch.float32: np.float32, torch.float64: np.float64, torch.float16: np.float16, torch.int8: np.int8, torch.int16: np.int16,
    torch.int32: np.int32, torch.int64: np.int64, torch.uint8: np.uint8, torch.bool: np.bool_,
}  # fmt: skip
Array = Any
TABLE: dict[Any, Callable[..., Any]] = {}  # prim's overload -> function of arrays and plain values, arguments by position


def afternoon(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """The backend: differentiates ahead of time, then runs both graphs on NumPy."""
    return aot_function(gm, example_inputs, fw_compiler=compile_graph)


def compile_graph(gm: fx.GraphModule, fake_inputs: Sequence[Any], *, kind: str, signature: Any) -> Callable[..., Any]:
    """A compiler for aotgrad: `kind` is inference, forward or backward, and all are the same to us."""
    return compile_parts(split_by_support(lower(gm), supports), NumpyPart)


compile = functools.partial(lamina.compile, backend=afternoon)


def supports(node: fx.Node) -> bool:
    """Whether NumPy can run the node: a prim of the table, dtypes that NumPy has (no bfloat16), on the CPU."""
    tensors = [n.meta["val"] for n in (*node.all_input_nodes, node)]
    flat = [t for val in tensors for t in (val if isinstance(val, (tuple, list)) else (val,)) if isinstance(t, torch.Tensor)]
    return node.target in TABLE and all(t.dtype in DTYPES and t.device.type == "cpu" for t in flat)


class NumpyPart:
    """One supported part, run node by node."""

    def __init__(self, part: fx.GraphModule) -> None:
        self.nodes = [n for n in part.graph.nodes if n.op == "call_function"]
        self.inputs = [n for n in part.graph.nodes if n.op == "placeholder"]
        self.outputs = next(n for n in part.graph.nodes if n.op == "output").args[0]

    def __call__(self, *inputs: Any) -> list[torch.Tensor]:
        """Tensors in, tensors out; what leaves the part has memory of its own, since prims are functional and our views are not."""
        env = {n: x.numpy() if isinstance(x, torch.Tensor) else x for n, x in zip(self.inputs, inputs, strict=True)}
        with np.errstate(all="ignore"):
            for node in self.nodes:
                run = TABLE.get(node.target, node.target)  # else `operator.getitem`
                env[node] = run(*fx.node.map_arg(list(node.args), env.__getitem__))
        return [torch.from_numpy(np.array(env[n], DTYPES[n.meta["val"].dtype], order="C")) for n in self.outputs]


# ----------------------------------------------------------------------------------------------------------------- the table
def implements(*names: str) -> Callable[[Any], Any]:
    """Enter a function for these prims."""

    def enter(fn: Any) -> Any:
        for name in names:
            TABLE[PRIMS[name].overload] = fn
        return fn

    return enter


def constant(value: Any, like: Array) -> Array:
    """A Python number in the dtype of `like`; integers wrap."""
    return np.array(value).astype(like.dtype)


SAME_NAME = (
    "abs sign exp exp2 expm1 log log2 log10 log1p sqrt reciprocal sin cos tan sinh cosh tanh floor ceil trunc isnan isinf isfinite signbit logical_not "
    "bitwise_not"
)
RENAMED = {
    "neg": np.negative, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "round": np.rint, "rsqrt": lambda x: 1 / np.sqrt(x), "erf": scipy.special.erf, "erfc": scipy.special.erfc, "erfinv": scipy.special.erfinv,
    "lgamma": scipy.special.gammaln, "digamma": scipy.special.digamma, "sigmoid": scipy.special.expit,
}  # fmt: skip
for _name in SAME_NAME.split():
    implements(_name)(getattr(np, _name))
for _name, _fn in RENAMED.items():
    implements(_name)(_fn)


def truncdiv(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return np.trunc(a / b)
    quotient = floordiv(a, b)
    return quotient + ((quotient < 0) & (quotient * b != a))


def floordiv(a: Array, b: Array) -> Array:
    if a.dtype.kind != "f" and np.any(np.equal(b, 0)):
        raise RuntimeError("ZeroDivisionError")
    return np.floor_divide(a, b)


def power(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f" or not np.any(b < 0):
        return np.power(a, b)
    inverse = np.where(np.abs(a) == 1, np.where(b % 2 == 0, np.abs(a), a), 0)  # 1/a of an integer is 0 unless a is 1 or -1
    return np.where(b < 0, inverse, np.power(a, np.maximum(b, 0))).astype(a.dtype)


def shifted(shift: Callable[..., Array], beyond: Callable[[Array], Array]) -> Callable[..., Array]:
    """A shift whose amount may lie outside of the word."""

    def run(a: Array, b: Array) -> Array:
        outside = (b < 0) | (b >= 8 * a.dtype.itemsize)
        return np.where(outside, beyond(a), shift(a, np.where(outside, 0, b))).astype(a.dtype)

    return run


BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "floordiv": floordiv, "truncdiv": truncdiv, "remainder": np.remainder,
    "fmod": np.fmod, "pow": power, "maximum": np.maximum, "minimum": np.minimum, "fmax": np.fmax, "fmin": np.fmin, "atan2": np.arctan2,
    "hypot": np.hypot, "copysign": np.copysign, "nextafter": np.nextafter, "bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or,
    "bitwise_xor": np.bitwise_xor, "logical_and": np.logical_and, "logical_or": np.logical_or, "logical_xor": np.logical_xor, "eq": np.equal,
    "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "shift_left": shifted(np.left_shift, np.zeros_like), "shift_right": shifted(np.right_shift, lambda a: np.where(a < 0, -1, 0)),
}  # fmt: skip
for _name, _fn in BINARY.items():
    implements(_name)(_fn)
    implements(f"{_name}_scalar")(lambda x, scalar, fn=_fn: fn(x, constant(scalar, x)))
for _name, _fn in (("rsub", np.subtract), ("rdiv", np.divide), ("rpow", power)):
    implements(f"{_name}_scalar")(lambda x, scalar, fn=_fn: fn(constant(scalar, x), x))
implements("where")(np.where)


@implements("fma")
def fma(a: Array, b: Array, c: Array) -> Array:
    wide = np.longdouble if a.dtype == np.float64 else np.float64
    return (a.astype(wide) * b + c).astype(a.dtype)


implements("convert")(lambda x, dtype: x != 0 if dtype is torch.bool else x.astype(DTYPES[dtype]))
implements("bitcast")(lambda x, dtype: np.ascontiguousarray(x).view(DTYPES[dtype]).reshape(x.shape))
implements("full")(lambda size, value, dtype, device: np.full(size, np.array(value).astype(DTYPES[dtype])))
implements("iota")(lambda length, start, step, dtype, device: (np.arange(length) * step + start).astype(DTYPES[dtype]))

# views and joins
implements("expand")(np.broadcast_to)
implements("reshape")(np.reshape)
implements("permute")(np.transpose)
implements("flip")(lambda x, dims: np.flip(x, tuple(dims)))
implements("cat")(lambda tensors, dim: np.concatenate(tensors, dim))
implements("restride")(lambda x, size, stride: x.copy())  # layouts are made at the border of a part


def along(dim: int, start: int, end: int, step: int = 1) -> tuple[slice, ...]:
    return (slice(None),) * dim + (slice(start, end, step),)


@implements("slice")
def slice_(x: Array, dim: int, start: int, end: int, step: int) -> Array:
    return x[along(dim, start, end, step)]


@implements("slice_scatter")
def slice_scatter(x: Array, src: Array, dim: int, start: int, end: int, step: int) -> Array:
    out = x.copy()
    out[along(dim, start, end, step)] = src
    return out


@implements("pad")
def pad(x: Array, low: Sequence[int], high: Sequence[int], value: Any) -> Array:
    return np.pad(x, list(zip(low, high, strict=True)), constant_values=constant(value, x))


@implements("as_strided")
def as_strided(x: Array, size: Sequence[int], stride: Sequence[int], offset: int) -> Array:
    flat = np.ascontiguousarray(x).reshape(-1)[offset:]
    return np.lib.stride_tricks.as_strided(flat, size, [s * x.itemsize for s in stride])


# reductions and scans: float32 is added up in float64
def reduction(fn: Callable[..., Array], wide: bool = False) -> Callable[..., Array]:
    def run(x: Array, dims: Sequence[int], keepdim: bool) -> Array:
        options = {"dtype": np.float64 if x.dtype == np.float32 else x.dtype} if wide else {}
        return np.asarray(fn(x, axis=tuple(dims), keepdims=keepdim, **options)).astype(x.dtype)

    return run


for _name, _fn, _wide in (("sum", np.sum, True), ("prod", np.prod, True), ("amax", np.max, False), ("amin", np.min, False), ("any", np.any, False),
                          ("all", np.all, False)):  # fmt: skip
    implements(_name)(reduction(_fn, _wide))
implements("argmax")(lambda x, dim, keepdim: np.argmax(x, dim, keepdims=keepdim))  # the first; a NaN wins: NumPy's rule is ours
implements("argmin")(lambda x, dim, keepdim: np.argmin(x, dim, keepdims=keepdim))
implements("cumsum")(lambda x, dim: np.cumsum(x, dim, dtype=x.dtype))
implements("cumprod")(lambda x, dim: np.cumprod(x, dim, dtype=x.dtype))


@implements("var_mean")
def var_mean(x: Array, dims: Sequence[int], correction: Any, keepdim: bool) -> tuple[Array, Array]:
    wide, axes = x.astype(np.float64), tuple(dims)
    mean = wide.mean(axes, keepdims=True)
    count = np.prod([x.shape[d] for d in axes])
    var = np.square(wide - mean).sum(axes, keepdims=keepdim) / np.maximum(np.float64(0), count - correction)
    return np.asarray(var).astype(x.dtype), (mean if keepdim else mean.squeeze(axes)).astype(x.dtype)


# indexing
def places(dim: int, index: Array) -> tuple[Array, ...]:
    grid = list(np.ogrid[tuple(slice(n) for n in index.shape)])
    grid[dim] = index
    return tuple(grid)


def indexed(indices: Sequence[Array | None]) -> tuple[Any, ...]:
    return tuple(slice(None) if i is None else i for i in indices)


implements("gather")(lambda x, dim, index: x[places(dim, index)])
implements("index")(lambda x, indices: x[indexed(indices)])
implements("index_select")(lambda x, dim, index: np.take(x, index, dim))
COMBINE = {"add": np.add, "mul": np.multiply, "amax": np.maximum, "amin": np.minimum}


@implements("scatter")
def scatter(x: Array, dim: int, index: Array, src: Array, reduce: str) -> Array:
    out, where, values = x.copy(), places(dim, index), src[tuple(slice(n) for n in index.shape)]
    if reduce == "set":
        out[where] = values
    else:
        COMBINE[reduce].at(out, where, values)
    return out


@implements("index_put")
def index_put(x: Array, indices: Sequence[Array | None], values: Array, accumulate: bool) -> Array:
    out, where = x.copy(), indexed(indices)
    if accumulate:
        np.add.at(out, where, values)
    else:
        out[where] = values
    return out


# contractions
implements("mm")(np.matmul)
implements("bmm")(np.matmul)


@implements("convolution")
def convolution(
    x: Array, w: Array, bias: Array | None, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], transposed: bool,
    output_padding: Sequence[int], groups: int,
) -> Array:  # fmt: skip
    """Windows of `x` times the weights, one matrix product per group. A transposed one is a plain one over `x` with zeros between its elements."""
    kernel, space = w.shape[2:], len(stride)
    low, high = list(padding), list(padding)
    if transposed:
        spread = np.zeros((*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True))), x.dtype)
        spread[(..., *(slice(None, None, s) for s in stride))] = x
        low = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        high = [a + o for a, o in zip(low, output_padding, strict=True)]
        per_group = np.flip(w, tuple(range(2, w.ndim))).reshape(groups, w.shape[0] // groups, *w.shape[1:])
        w = per_group.swapaxes(1, 2).reshape(-1, w.shape[0] // groups, *kernel)
        x, stride = spread, [1] * space
    x = np.pad(x, [(0, 0), (0, 0), *((max(a, 0), max(b, 0)) for a, b in zip(low, high, strict=True))])
    x = x[(..., *(slice(max(-a, 0), n - max(-b, 0)) for a, b, n in zip(low, high, x.shape[2:], strict=True)))]
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, tuple(range(2, x.ndim)))
    windows = windows[(slice(None), slice(None), *(slice(None, None, s) for s in stride), *(slice(None, None, d) for d in dilation))]
    inner, outer = w.shape[1], w.shape[0] // groups
    contract = ([1, *range(2 + space, 2 + 2 * space)], list(range(1, w.ndim)))
    parts = [np.tensordot(windows[:, g * inner : (g + 1) * inner], w[g * outer : (g + 1) * outer], contract) for g in range(groups)]
    out = np.moveaxis(np.concatenate(parts, -1), -1, 1)
    return out if bias is None else out + bias.reshape(-1, *[1] * space)
