"""PyTorch's operator database through the stages: which operators pass, where the others stop, and is anything silently wrong.

    python -m integration.opdb                          all operators, first 3 samples, backend aot_eager
    python -m integration.opdb --backend inductor --ops "nn.functional.*" --samples 8 --json out.json

Each sample goes through these stages, and counts for the first that it does not pass:
    capture     one graph, run as it is, equals eager            (backend="eager", fullgraph=True)
    forward     the compiled forward equals eager                (the backend under test)
    backward    the gradients of the compiled function equal eager's
An operator passes a stage when all its samples do. "unsupported" is a clear refusal, "wrong" a result that differs.
Operators run in worker processes, so that a crash costs one operator.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

STAGES = ("capture", "forward", "backward")
UNDEFINED_VALUES = frozenset({"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"})
OUTCOMES = ("pass", "unsupported", "error", "wrong", "timeout", "crash")


# --------------------------------------------------------------------------------------------------------------------------
# one operator, inside a worker
# --------------------------------------------------------------------------------------------------------------------------


def _tensors(value: Any) -> list[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [t for item in value for t in _tensors(item)]
    if isinstance(value, dict):
        return [t for item in value.values() for t in _tensors(item)]
    return []


def _clone(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_clone(item) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_clone(item) for item in value)
    if isinstance(value, dict):
        return {key: _clone(item) for key, item in value.items()}
    return value


def _run(fn: Any, sample: Any, backward: bool) -> tuple[list[Any], list[Any]]:
    """Outputs and gradients of one call, from the same random state."""
    import torch

    args, kwargs = _clone((sample.input, *sample.args)), _clone(sample.kwargs)
    torch.manual_seed(0)
    out = fn(*args, **kwargs)
    outputs = _tensors(out)
    if not backward:
        return [t.detach() for t in outputs], []
    leaves = [t for t in _tensors((args, kwargs)) if t.requires_grad and t.is_leaf]
    wanted = [t for t in outputs if t.requires_grad]
    if not leaves or not wanted:
        return [t.detach() for t in outputs], []
    weights = [torch.ones_like(t) if t.numel() < 2 else torch.linspace(0.5, 1.5, t.numel(), dtype=torch.float64).view(t.shape).to(t.dtype) for t in wanted]
    torch.autograd.backward(wanted, weights)
    return [t.detach() for t in outputs], [t.grad for t in leaves]


def _same(got: list[Any], expected: list[Any], values: bool) -> str | None:
    """What differs first; only shapes and types where the operator promises no values."""
    import torch

    if len(got) != len(expected):
        return f"{len(got)} values, eager {len(expected)}"
    for index, (g, e) in enumerate(zip(got, expected, strict=True)):
        if (g is None) != (e is None):
            return f"value {index}: {'missing' if g is None else 'extra'} gradient"
        if e is None:
            continue
        if g.shape != e.shape or g.dtype != e.dtype:
            return f"value {index}: {g.dtype}{tuple(g.shape)}, eager {e.dtype}{tuple(e.shape)}"
        if not values:
            continue
        if e.is_sparse or e.layout != torch.strided:
            g, e = g.to_dense(), e.to_dense()
        if not torch.allclose(g, e, rtol=1e-4, atol=1e-5, equal_nan=True):
            return f"value {index}: values differ by {(g.double() - e.double()).abs().max().item() if not e.is_complex() else 'complex'}"
    return None


def _stage(stage: str, op: Any, sample: Any, backend: str) -> tuple[str, str]:
    import lamina

    lamina.reset()
    backward = stage == "backward"
    call = op.op
    fn = lamina.compile(lambda *args, **kwargs: call(*args, **kwargs), backend="eager" if stage == "capture" else backend, fullgraph=stage == "capture")
    expected = _run(call, sample, backward)
    try:
        got = _run(fn, sample, backward)
    except lamina.exc.Unsupported as error:
        return "unsupported", error.what + (f" ({error.saw})" if error.saw else "")
    except Exception as error:
        return "error", f"{type(error).__name__}: {error}".split("\n")[0][:160]
    values = op.name not in UNDEFINED_VALUES
    said = _same(got[0], expected[0], values) or _same(got[1], expected[1], values)
    return ("wrong", said) if said else ("pass", "")


def check_operator(op: Any, backend: str, samples: int, only: list[str]) -> dict[str, Any]:
    """Outcome per stage of one operator: the worst over its samples."""
    import torch

    result: dict[str, Any] = {"op": op.formatted_name, "stages": {}, "notes": {}}
    differentiable = op.supports_autograd
    try:
        listed = []
        for sample in op.sample_inputs("cpu", torch.float32, requires_grad=differentiable):
            listed.append(sample)
            if len(listed) >= samples:
                break
    except Exception as error:
        return {**result, "skipped": f"{type(error).__name__}: {error}"[:160]}
    usable = []
    for sample in listed:
        try:
            _run(op.op, sample, differentiable)
        except Exception:
            continue  # eager refuses it: nothing to compare with
        usable.append(sample)
    if not usable:
        return {**result, "skipped": "eager runs none of the samples"}
    for stage in only:
        if stage == "backward" and not differentiable:
            continue
        worst, note = "pass", ""
        for sample in usable:
            outcome, said = _stage(stage, op, sample, backend)
            if OUTCOMES.index(outcome) > OUTCOMES.index(worst):
                worst, note = outcome, said
        result["stages"][stage] = worst
        if note:
            result["notes"][stage] = note
    return result


def _worker(names: list[str], chosen: argparse.Namespace) -> None:
    warnings.filterwarnings("ignore")
    from torch.testing._internal.common_methods_invocations import op_db

    by_name = {op.formatted_name: op for op in op_db}

    def too_long(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, too_long)
    for name in names:
        print(json.dumps({"start": name}), flush=True)
        signal.alarm(chosen.timeout)
        try:
            result = check_operator(by_name[name], chosen.backend, chosen.samples, chosen.stages.split(","))
        except TimeoutError:
            result = {"op": name, "stages": {}, "notes": {}, "timeout": True}
        finally:
            signal.alarm(0)
        print(json.dumps(result), flush=True)


# --------------------------------------------------------------------------------------------------------------------------
# the sweep
# --------------------------------------------------------------------------------------------------------------------------


def operator_names(pattern: str) -> list[str]:
    """Names of the operators that match, in the order of the database."""
    code = "from torch.testing._internal.common_methods_invocations import op_db; print('\\n'.join(o.formatted_name for o in op_db))"
    listed = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return [name for name in dict.fromkeys(listed) if any(fnmatch.fnmatch(name, part) for part in pattern.split(","))]


def sweep(names: list[str], chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Results of all operators; workers are restarted after a crash, with the next operator."""
    results: list[dict[str, Any]] = []
    remaining = list(names)
    while remaining:
        command = [sys.executable, "-m", "integration.opdb", "--worker", "--backend", chosen.backend, "--samples", str(chosen.samples)]
        command += ["--timeout", str(chosen.timeout), "--stages", chosen.stages]
        env = {**os.environ, "LAMINA_STRICT": "1", "OMP_NUM_THREADS": "1"}
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write("\n".join(remaining))
        worker.stdin.close()
        running = None
        for line in worker.stdout:
            if not line.startswith("{"):
                continue
            record = json.loads(line)
            if "start" in record:
                running = record["start"]
                continue
            running = None
            results.append(record)
            remaining.remove(record["op"])
            if len(results) % 25 == 0:
                print(f"  {len(results)}/{len(names)}", file=sys.stderr, flush=True)
        worker.wait()
        if running is not None:
            results.append({"op": running, "stages": {}, "notes": {}, "crash": worker.returncode})
            remaining.remove(running)
        elif worker.returncode:
            raise SystemExit(f"the worker failed with status {worker.returncode}")
    return results


def summary(results: list[dict[str, Any]], stages: list[str]) -> str:
    """Pass share per stage, then every operator that is wrong, and the most frequent reasons."""
    lines = [f"{len(results)} operators, {sum('skipped' in r for r in results)} without a usable sample"]
    lines += [f"{sum('timeout' in r for r in results)} timed out, {sum('crash' in r for r in results)} crashed"]
    lines += ["", f"{'stage':<10}{'operators':>10}{'pass':>7}{'share':>8}" + "".join(f"{o:>13}" for o in OUTCOMES[1:4])]
    for stage in stages:
        count = Counter(r["stages"][stage] for r in results if stage in r["stages"])
        total = sum(count.values())
        share = count["pass"] / total if total else 0.0
        lines.append(f"{stage:<10}{total:>10}{count['pass']:>7}{share:>8.1%}" + "".join(f"{count[o]:>13}" for o in OUTCOMES[1:4]))
    for stage in stages:
        wrong = [f"{r['op']}: {r['notes'].get(stage, '')}" for r in results if r["stages"].get(stage) == "wrong"]
        if wrong:
            lines += ["", f"wrong in {stage}:", *("  " + text for text in wrong)]
        reasons = Counter(r["notes"].get(stage, "")[:110] for r in results if r["stages"].get(stage) in ("unsupported", "error"))
        if reasons:
            lines += ["", f"most frequent in {stage}:", *(f"  {n:4d}  {text}" for text, n in reasons.most_common(25))]
    bad = [f"{r['op']} ({'timeout' if 'timeout' in r else 'crash'})" for r in results if "timeout" in r or "crash" in r]
    return "\n".join(lines + (["", "timed out or crashed: " + ", ".join(bad)] if bad else []))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="opdb", description="PyTorch's operator database through the stages.")
    parser.add_argument("--backend", default="aot_eager")
    parser.add_argument("--ops", default="*", help="comma separated patterns of names")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--timeout", type=int, default=60, help="seconds per operator")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.worker:
        _worker(sys.stdin.read().split(), chosen)
        return 0
    start = time.monotonic()
    results = sweep(operator_names(chosen.ops), chosen)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1))
    print(summary(results, chosen.stages.split(",")))
    print(f"{time.monotonic() - start:.0f} s, backend {chosen.backend}, first {chosen.samples} samples, float32")
    return 1 if any("wrong" in r["stages"].values() for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
