"""PyTorch's operator and module databases through the joint trace, run call by call: what passes each stage, why the rest does not.

    python packages/aotgrad/benchmarks/opdb.py                     all operators, first 4 float32 samples
    python packages/aotgrad/benchmarks/opdb.py --modules           module_db
    python packages/aotgrad/benchmarks/opdb.py --ops "nn.functional.*" --samples 20 --list wrong

Stages: trace (the joint graph is made), forward (results equal eager's), backward (gradients equal). One process, no capture in front.
"""

from __future__ import annotations

import argparse
import fnmatch
import signal
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lamina_aotgrad import aot_function, run_graph
from lamina_dynshape.support.errors import Unsupported
from torch import Tensor
from torch.utils import _pytree as pytree

STAGES = ("trace", "forward", "backward")
UNDEFINED = {"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"}


class Timeout(Exception):
    pass


def flat_program(fn: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Callable[..., tuple[Any, ...]], list[Tensor]]:
    """`fn(*args, **kwargs)` as a function of its tensors that returns a flat tuple, and the tensors."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def program(*tensors: Tensor) -> tuple[Any, ...]:
        filled = list(leaves)
        for i, t in zip(places, tensors, strict=True):
            filled[i] = t
        a, k = pytree.tree_unflatten(filled, spec)
        return tuple(pytree.tree_leaves(fn(*a, **k)))

    return program, [leaves[i] for i in places]


def copies(tensors: list[Tensor]) -> list[Tensor]:
    """Fresh leaves with the same strides."""
    made = []
    for t in tensors:
        with torch.no_grad():
            copy = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype) if t.layout is torch.strided else t.clone()
            copy = copy.copy_(t) if t.layout is torch.strided else copy
        made.append(copy.requires_grad_(t.requires_grad))
    return made


def run(program: Callable[..., Any], tensors: list[Tensor]) -> tuple[list[Any], list[Tensor], list[Any]]:
    """Outputs, inputs afterwards, gradients; the random stream starts at the same place."""
    inputs = copies(tensors)
    torch.manual_seed(42)  # what samples of random operators set inside the call, where a trace cannot see it
    outputs = list(program(*inputs))
    ends = [o for o in outputs if isinstance(o, Tensor) and o.requires_grad]
    gradients: list[Any] = []
    if ends:
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(o.shape, generator=generator, dtype=o.dtype) for o in ends]
        torch.autograd.backward(ends, weights)
        gradients = [t.grad for t in inputs]
    return outputs, inputs, gradients


def equal(mine: Any, eager: Any) -> str:
    """Empty, or what differs."""
    for a, b in zip(mine, eager, strict=True):
        if not isinstance(b, Tensor):
            if type(a) is not type(b) or (a != b and a == a):
                return f"{a!r} is not {b!r}"
            continue
        try:
            torch.testing.assert_close(a, b, equal_nan=True, rtol=1e-5, atol=1e-5)
        except AssertionError as error:
            return str(error).splitlines()[0]
        if a.numel() and a.stride() != b.stride() and max(b.shape) > 1 and [s for s, n in zip(a.stride(), a.shape) if n > 1] != [s for s, n in zip(b.stride(), b.shape) if n > 1]:
            return f"strides {a.stride()} != {b.stride()}"
    return ""


def check(fn: Callable[..., Any], args: Any, kwargs: Any, undefined: bool) -> tuple[str, str]:
    """(stage that failed or 'pass', reason)."""
    program, tensors = flat_program(fn, args, kwargs)
    try:
        eager = run(program, tensors)
    except Exception as error:  # noqa: BLE001 (the sample does not work in eager either)
        return "skip", type(error).__name__
    try:
        compiled = aot_function(program, copies(tensors), fw_compiler=run_graph)
    except Unsupported as error:
        return "trace", f"unsupported: {error.what}"
    except Timeout:
        raise
    except Exception as error:  # noqa: BLE001
        return "trace", f"error: {type(error).__name__} {str(error).splitlines()[0] if str(error) else ''}"[:110]
    if undefined:
        return "pass", ""
    try:
        mine = run(compiled, tensors)
    except Unsupported as error:
        return "forward", f"unsupported: {error.what}"
    except Timeout:
        raise
    except Exception as error:  # noqa: BLE001
        return "forward", f"error: {type(error).__name__} {str(error).splitlines()[0] if str(error) else ''}"[:110]
    for stage, index in (("forward", 0), ("forward", 1), ("backward", 2)):
        if len(mine[index]) != len(eager[index]):
            return stage, "wrong: count"
        if found := equal(mine[index], eager[index]):
            return stage, f"wrong: {found}"
    return "pass", ""


def operators(pattern: str, limit: int) -> Iterator[tuple[str, Iterator[tuple[Any, Any, Any]]]]:
    from torch.testing._internal.common_methods_invocations import op_db

    for op in op_db:
        name = f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name
        if not fnmatch.fnmatch(name, pattern) or torch.float32 not in op.supported_dtypes("cpu"):
            continue

        def samples(op: Any = op) -> Iterator[tuple[Any, Any, Any]]:
            needs = op.supports_autograd
            for n, sample in enumerate(op.sample_inputs("cpu", torch.float32, requires_grad=needs)):
                if n >= limit:
                    return
                yield op.op, (sample.input, *sample.args), sample.kwargs

        yield name, samples()


def modules(pattern: str, limit: int) -> Iterator[tuple[str, Iterator[tuple[Any, Any, Any]]]]:
    from torch.testing._internal.common_modules import module_db

    for info in module_db:
        if not fnmatch.fnmatch(info.name, pattern):
            continue

        def samples(info: Any = info) -> Iterator[tuple[Any, Any, Any]]:
            for training in (True, False):
                given = info.module_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=True, training=training)
                for n, sample in enumerate(given):
                    if n >= limit:
                        break
                    module = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs).train(training)
                    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}

                    def call(state: Any, args: Any, kwargs: Any, module: Any = module) -> Any:
                        return torch.nn.utils.stateless._functional_call(module, state, args, kwargs)

                    yield call, (state, sample.forward_input.args, sample.forward_input.kwargs), {}

        yield info.name, samples()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ops", default="*")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--modules", action="store_true")
    parser.add_argument("--list", default="", help="print each failure whose reason contains this")
    parser.add_argument("--seconds", type=int, default=60, help="limit per operator")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")

    def expire(*_: Any) -> None:
        raise Timeout

    signal.signal(signal.SIGALRM, expire)
    failed_at: dict[str, str] = {}
    reasons: dict[str, list[str]] = defaultdict(list)
    total = 0
    for name, samples in (modules if options.modules else operators)(options.ops, options.samples):
        total += 1
        signal.alarm(options.seconds)
        try:
            for n, (fn, args, kwargs) in enumerate(samples):
                stage, reason = check(fn, args, kwargs, name in UNDEFINED)
                if stage not in ("pass", "skip"):
                    failed_at[name] = stage
                    reasons[f"{stage} {reason}"].append(f"{name}#{n}")
                    break
        except Timeout:
            failed_at[name] = "trace"
            reasons["timeout"].append(name)
        finally:
            signal.alarm(0)
    left = total
    count = Counter(failed_at.values())
    print(f"{total} operators")
    for stage in STAGES:
        left -= count[stage]
        print(f"  {stage:9} {left:4} pass  {100 * left / max(total, 1):5.1f} %")
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        print(f"{len(names):4}  {reason}   {' '.join(names[:8])}")
        if options.list and options.list in reason:
            print("      " + " ".join(names))


if __name__ == "__main__":
    main()
