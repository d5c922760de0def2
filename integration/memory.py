"""Peak resident memory of training the zoo's models, each implementation in a process of its own: `python -m integration.memory [options]`.

    python -m integration.memory --impl eager,lamina --sample 12 --seed 1
    python -m integration.memory --impl eager,torch,lamina --names 'timm_resnet18,hf_gpt2'

What the zoo's harness calls `peak_mb` is measured while the model, the gradients and the results of every implementation before it are alive (eager
comes first). Here nothing else is alive, and what the process held with the model built is subtracted: gradients, activations, intermediates, and
what a compiler keeps.
    first   from the compilation to the end of the second step
    later   two more steps
Both are in MB; ratios to eager at the end, as geometric means.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from integration.bench import harness

sys.path.insert(0, str(harness().parent))
import bench as zoo  # type: ignore[import-not-found]
import zoo_common as common  # type: ignore[import-not-found]

ENTRIES = str(harness().parent / "zoo_public.py")


def resident_mb() -> float:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def measure(entry: Any, impl: Any, dtype: str) -> dict[str, float]:
    """Peaks of one implementation, in MB above what the process holds with the model built."""
    impl.warmup()
    fn, args, kwargs = entry.build(train=True)
    loss_fn = entry.loss_fn()
    parameters = [p for m in common.modules_of(fn) for p in m.parameters()]
    compiled = impl.compile(lambda *a, **k: loss_fn(fn(*a, **k)))

    def step() -> None:
        for p in parameters:
            p.grad = None
        with zoo.contexts(entry, dtype, True):
            loss = compiled(*common.clone_inputs(args), **common.clone_inputs(kwargs))
        loss.backward()

    gc.collect()
    start, peaks = resident_mb(), {}
    for name in ("first", "later"):
        zoo.hwm_reset()
        step()
        step()
        peaks[name] = zoo.hwm_mb() - start
    return peaks


def worker(spec: dict[str, Any]) -> dict[str, Any]:
    """What the process of one model and implementation does."""
    torch.set_num_threads(spec["threads"])
    return measure(common.load_entries(spec["entries"])[spec["name"]], zoo.Impl(spec["impl"]), spec["dtype"])


def _isolated(spec: dict[str, Any], limits: Any) -> dict[str, Any]:
    """`worker` in a process with an empty kernel cache."""
    cache = tempfile.mkdtemp(prefix="memory_cache_")
    try:
        env = {} if spec["impl"] == "eager" else {zoo.cache_env(spec["impl"]): cache}
        return zoo.isolated(spec, limits, env)[0]
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def chosen(args: argparse.Namespace) -> list[str]:
    """The models to run: the harness's own sample."""
    entries = common.load_entries(args.entries)
    names = [n for n, e in entries.items() if e.train and (args.dtype != "amp" or e.amp)]
    if args.names:
        return [n for n in args.names.split(",") if n in names]
    suites = sorted({entries[n].suite for n in names})
    each = -(-args.sample // len(suites))
    return [n for s in suites for n in zoo.sample([n for n in names if entries[n].suite == s], each, args.seed)]


def limits_of(work: Callable[[dict[str, Any]], dict[str, Any]], timeout: float, mem_gb: float) -> Any:
    """Have the harness's processes do `work`, with the model libraries loaded once; the limits they run under (seconds, GB)."""
    zoo.worker = work
    for library in ("timm", "transformers"):
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    return SimpleNamespace(spawn=False, timeout=timeout, mem_gb=mem_gb)


def line(name: str, found: dict[str, dict[str, Any]]) -> str:
    """One model's row."""
    parts = [f"{i}: {r['fatal'][:80]}" if "fatal" in r else f"{i}: {r['first']:7.0f} {r['later']:7.0f}" for i, r in found.items()]
    return f"{name:36}" + "   ".join(parts)


def summary(results: dict[str, dict[str, dict[str, Any]]], impls: list[str]) -> str:
    """Ratios to the first implementation named."""
    lines = []
    for impl in impls[1:]:
        both = [(r[impls[0]], r[impl]) for r in results.values() if "fatal" not in r[impls[0]] and "fatal" not in r[impl]]
        means = [f"{k} {zoo.geomean([b[k] / a[k] for a, b in both]):.3f}" for k in ("first", "later")]
        lines.append(f"{impl} over {impls[0]}, {len(both)} models: {', '.join(means)}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--impl", default="eager,lamina", help="comma separated; ratios are to the first")
    ap.add_argument("--dtype", choices=["fp32", "amp"], default="fp32")
    ap.add_argument("--entries", default=ENTRIES)
    ap.add_argument("--names", default="", help="comma separated")
    ap.add_argument("--sample", type=int, default=12)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--timeout", type=float, default=400)
    ap.add_argument("--mem-gb", type=float, default=8)
    args = ap.parse_args(arguments)
    limits = limits_of(worker, args.timeout, args.mem_gb)
    impls, results = args.impl.split(","), {}
    for name in chosen(args):
        spec = dict(name=name, entries=args.entries, dtype=args.dtype, threads=args.threads)
        results[name] = {i: _isolated({**spec, "impl": i}, limits) for i in impls}
        print(line(name, results[name]), flush=True)
    print(summary(results, impls))
    return 0


if __name__ == "__main__":
    sys.exit(main())
