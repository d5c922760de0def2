"""The op_db sweep: trace each sample, lower it, interpret it, compare with eager. Used by the tests and by the script that writes docs/opsets.md.

Outcome of a sample: `prims` (only prims), `aten` (keeps ATen calls that are listed as extern), `fallback` (keeps an ATen call because there is no
decomposition), `untraced` (data dependent or not supported by fakes, nothing to lower), `wrong` (differs from eager or raises in our code).
"""

from __future__ import annotations

import warnings
import zlib
from collections import Counter
from typing import Any

import torch
from lamina_dynshape import FakeMode, ShapeEnv
from lamina_primops import TraceMode, Tracer, interpret, lower, verify
from lamina_primops.fxtools import output_of
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree

RANDOM = {
    "bernoulli", "cauchy", "exponential", "geometric", "log_normal", "multinomial", "normal", "rand_like", "randint", "randint_like", "randn", "randn_like", "uniform",
    "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided", "nn.functional.dropout", "nn.functional.dropout2d",
    "nn.functional.dropout3d", "nn.functional.alpha_dropout", "nn.functional.feature_alpha_dropout", "nn.functional.rrelu",
    "nn.functional.fractional_max_pool2d", "nn.functional.fractional_max_pool3d", "nn.functional.multi_head_attention_forward",
    "nn.functional.scaled_dot_product_attention", "torch.ops.aten._flash_attention_forward", "torch.ops.aten._efficient_attention_forward", "svd_lowrank",
    "pca_lowrank", "resize_", "resize_as_", "nn.functional.feature_alpha_dropout", "signal.windows.bartlett",
}  # fmt: skip  (no value to compare with, or drawn from a generator)


def functional_trace(fn: Any, reals: list[torch.Tensor], *, symbolic: bool = False) -> Any:
    """The aten graph of fn(*reals), functionalization above the tracer; `symbolic` makes every size above 1 a symbol."""
    mode = FakeMode(ShapeEnv() if symbolic else None)
    tracer = Tracer(mode)
    fakes = [mode.from_real(t, source=f"x{i}", dynamic_dims=set(range(t.ndim))) if symbolic else mode.from_real(t) for i, t in enumerate(reals)]
    for i, f in enumerate(fakes):
        tracer.placeholder(f"arg{i}", f)
    with mode, TraceMode(tracer), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        functional = [torch._to_functional_tensor(f) for f in fakes]
        torch._enable_functionalization(reapply_views=True)
        try:
            out = fn(*functional)
        finally:
            torch._disable_functionalization()
        flat, spec = pytree.tree_flatten(out)
        outputs = []
        for o in flat:
            if isinstance(o, torch.Tensor) and torch._is_functional_tensor(o):
                torch._sync(o)
                o = torch._from_functional_tensor(o)
            outputs.append(o)
    kept = [o if isinstance(o, (torch.Tensor, int, float, bool)) else None for o in outputs]
    tracer.output(kept)
    return tracer.graph_module(), spec


def differences(expected: Any, got: Any) -> str | None:
    """What differs between eager's outputs and ours, or None."""
    if isinstance(expected, torch.Tensor) != isinstance(got, torch.Tensor):
        return f"{type(got).__name__} instead of {type(expected).__name__}"
    if not isinstance(expected, torch.Tensor):
        return None
    if expected.dtype != got.dtype or expected.shape != got.shape:
        return f"{got.dtype}{list(got.shape)} instead of {expected.dtype}{list(expected.shape)}"
    try:
        torch.testing.assert_close(got, expected, equal_nan=True, check_stride=False)
    except AssertionError as e:
        return str(e).replace("\n", " ")[:160]
    return None


def misplaced(promised: Any, got: Any) -> str | None:
    """Strides that are not those of the aten graph's metadata (which is PyTorch's Meta kernel for rare ops, and not always eager's)."""
    if not isinstance(got, torch.Tensor) or not got.numel() or not isinstance(promised, torch.Tensor) or not all(type(s) is int for s in promised.stride()):
        return None
    if any(s != t and d > 1 for s, t, d in zip(promised.stride(), got.stride(), got.shape, strict=True)):
        return f"strides {got.stride()} instead of {promised.stride()}"
    return None


def _as_accurate(call: Any, reals: list[torch.Tensor], i: int, eager: Any, got: Any) -> bool:
    """Whether our rounding error, measured against float64, is of the size of eager's, or one place of a half type."""
    if not isinstance(eager, torch.Tensor) or eager.dtype != got.dtype or eager.shape != got.shape or not eager.dtype.is_floating_point:
        return False
    try:
        exact = pytree.tree_leaves(call(*[t.double() if t.dtype.is_floating_point else t.clone() for t in reals]))[i].detach().double()
    except Exception:
        return False
    finite = torch.isfinite(exact)
    if not torch.equal(got[~finite].nan_to_num(7), eager[~finite].nan_to_num(7)) or not finite.any():
        return False
    exact = exact[finite]
    ours, theirs = ((v[finite].double() - exact).abs().max().item() for v in (got, eager))
    ulp = torch.finfo(eager.dtype).eps * exact.abs().max().item()
    return bool(ours <= 2 * theirs or (eager.dtype in (torch.float16, torch.bfloat16) and ours <= ulp))


def gradients(call: Any, tensors: Any) -> list[Any]:
    """Outputs of call(*tensors) and the gradients of their sum of squares, through the engine itself (torch.autograd.grad would import the peer)."""
    inputs = [t for t in tensors if t.requires_grad]
    outputs = [o for o in pytree.tree_leaves(call(*tensors)) if isinstance(o, torch.Tensor)]
    roots = [o for o in outputs if o.requires_grad and o.dtype.is_floating_point]
    if not roots or not inputs:
        return outputs
    seeds = tuple(o.detach() * 0.25 + 0.5 for o in roots)
    found = torch.autograd.Variable._execution_engine.run_backward(tuple(roots), seeds, False, False, tuple(inputs), True, accumulate_grad=False)
    return [*outputs, *found]


def run_sample(op: Any, sample: Any, *, backward: bool = False, symbolic: bool = False) -> tuple[str, str, list[str]]:
    """(outcome, explanation, ATen calls kept) of one sample of an OpInfo; `backward` also lowers the gradients of its float inputs."""
    leaves, spec = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    places = [i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)]
    reals = [leaves[i].detach() for i in places]
    wanted = [leaves[i].requires_grad for i in places]

    def call(*tensors: torch.Tensor) -> Any:
        if not backward:
            return forward(*tensors)
        return gradients(forward, [t.requires_grad_() if w else t for t, w in zip(tensors, wanted, strict=True)])

    def forward(*tensors: torch.Tensor) -> Any:
        now = list(leaves)
        for i, t in zip(places, tensors, strict=True):
            now[i] = t
        x, args, kwargs = pytree.tree_unflatten(now, spec)
        return op.op(x, *args, **kwargs)

    try:
        with torch.set_grad_enabled(backward):
            expected = pytree.tree_leaves(call(*[t.clone() for t in reals]))
            expected = [e.detach() if isinstance(e, torch.Tensor) else e for e in expected]
    except Exception as e:
        return "untraced", f"eager: {e}"[:80], []
    try:
        gm, _ = functional_trace(call, reals, symbolic=symbolic)
    except Exception as e:
        return "untraced", f"{type(e).__name__}: {e}".replace("\n", " ")[:120], []
    expected = [e if isinstance(e, (torch.Tensor, int, float, bool)) else None for e in expected]
    try:
        aten_got = interpret(gm, *reals)
    except Exception as e:
        return "untraced", f"the aten graph does not run: {e}"[:120], []
    try:
        verify(gm, "aten")
        lowered = lower(gm)
        got = interpret(lowered, *reals)
    except Exception as e:
        return "wrong", f"{type(e).__name__}: {e}".replace("\n", " ")[:300], []
    for i, (e, g) in enumerate(zip(expected, got, strict=True)):
        if (d := differences(e, g)) is not None and not _as_accurate(call, reals, i, e, g):
            if differences(e, aten_got[i]) is not None:
                return "untraced", f"the aten graph differs already: {d}", []
            return "wrong", d, []
    promised = [n.meta["val"] if hasattr(n, "meta") else None for n in output_of(gm.graph).args[0]]
    for d in map(misplaced, promised, got):
        if d is not None:
            return "wrong", d, []
    kept = [(str(n.target), n.meta["fallback"]) for n in lowered.graph.nodes if "fallback" in n.meta]
    if not kept:
        return "prims", "", []
    missing = [k for k, reason in kept if reason.startswith(("no decomposition", "decomposition does not"))]
    return ("fallback" if missing else "aten"), "", sorted({k for k, _ in kept})


def sweep(
    dtype: torch.dtype = torch.float32, *, names: Any = None, limit: int = 1000, progress: bool = False, backward: bool = False, symbolic: bool = False,
    share: float = 1.0, seed: int = 0,
) -> tuple[Counter, dict[str, Any]]:  # fmt: skip
    """Outcomes per sample, and per op the worst outcome with its explanation. `share` of the ops, chosen by `seed`."""
    order = ["prims", "aten", "fallback", "untraced", "wrong"]
    samples: Counter = Counter()
    ops: dict[str, Any] = {}
    for op in op_db:
        name = op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")
        if (backward and not op.supports_autograd) or op.name in RANDOM or dtype not in op.dtypes or (names is not None and name not in names and op.name not in names):
            continue
        if zlib.crc32(f"{seed}{name}".encode()) % 1000 >= share * 1000:
            continue
        try:
            found = list(op.sample_inputs("cpu", dtype, requires_grad=backward))[:limit]
        except Exception:
            continue
        worst = ("prims", "", [])
        for s in found:
            torch.manual_seed(0)
            result = run_sample(op, s, backward=backward, symbolic=symbolic)
            samples[result[0]] += 1
            if order.index(result[0]) > order.index(worst[0]):
                worst = result
        ops[name] = worst
        if progress and worst[0] in ("wrong", "untraced"):
            print(name, worst[0], worst[1], flush=True)
    return samples, ops
