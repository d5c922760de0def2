"""Static against dynamic at one size, run time and compile time: `python -m integration.static_dynamic [options]`.

    python -m integration.static_dynamic                                        the eight models, inference
    python -m integration.static_dynamic --what train --names 'hf_*'
    python -m integration.static_dynamic --entries ../shared/zoo/zoo_public.py --sample 20

Both compiled forms (`dynamic=False`, `dynamic=True`) live in one process and take turns. Times are processor time; compile time is that of
the first call, C++ compiler included, less a later call's, with no graph in the kernel cache (what is built once per machine is).
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import json
import math
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from integration.bench import ENTRIES as EIGHT
from integration.dynamic import Program, common, zoo

FORMS = {"static": False, "dynamic": True}
PART_SECONDS = 0.15  # of one form's turn


def _used() -> float:
    """Processor seconds of this process and of the compilers it has run."""
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def _forget_graphs(folder: Path) -> None:
    """Drop compiled graphs from a cache, and keep what is built once per machine."""
    for path in [*folder.glob("graphs/*"), *folder.glob("so/graph_*")]:
        path.unlink()


class Form:
    """One compiled form of a program."""

    def __init__(self, entry: Any, train: bool, impl: Any, dynamic: bool) -> None:
        self.program = Program(entry, train)
        self.train = train
        self.compiled = impl.compile(self.program.target(), dynamic=dynamic)
        self.inputs = common.clone_inputs(self.program.args), common.clone_inputs(self.program.kwargs)
        self.contexts = lambda: zoo.contexts(entry, "fp32", train)

    def call(self) -> None:
        args, kwargs = self.inputs
        with self.contexts():
            out = self.compiled(*args, **kwargs)
        if self.train:
            for _, p in self.program.parameters:
                p.grad = None
            out.backward()

    def compile_seconds(self) -> float:
        before = _used()
        self.call()
        first = _used() - before
        self.call()
        before = _used()
        self.call()
        return first - (_used() - before)

    def turn(self, calls: int) -> float:
        """Seconds per call."""
        start = time.process_time()
        for _ in range(calls):
            self.call()
        return (time.process_time() - start) / calls


def measure(entry: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds per call and compile seconds of both forms."""
    impl = zoo.Impl("lamina")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LAMINA_CACHE_DIR"] = folder
        for dynamic in FORMS.values():  # what is built or measured once per machine
            Form(entry, spec["train"], impl, dynamic).call()
        impl.reset()
        seconds: dict[str, list[float]] = {name: [] for name in FORMS}
        for _ in range(spec["compiles"]):
            for name, dynamic in FORMS.items():
                impl.reset()
                _forget_graphs(Path(folder))
                seconds[name].append(Form(entry, spec["train"], impl, dynamic).compile_seconds())
        impl.reset()
        forms = {name: Form(entry, spec["train"], impl, dynamic) for name, dynamic in FORMS.items()}
        for form in forms.values():
            form.compile_seconds()
        calls = max(1, int(PART_SECONDS / max(forms["static"].turn(1), 1e-6)))
        turns: dict[str, list[float]] = {name: [] for name in FORMS}
        for _ in range(spec["rounds"]):
            for name, form in forms.items():
                turns[name].append(form.turn(calls))
    return {"ms": {n: 1e3 * statistics.median(t) for n, t in turns.items()}, "compile": {n: min(s) for n, s in seconds.items()}}


def worker(spec: dict[str, Any]) -> dict[str, Any]:
    """What the process of one model does."""
    torch.set_num_threads(1)
    return measure(common.load_entries(spec["entries"])[spec["name"]], spec)


def line(name: str, result: dict[str, Any]) -> str:
    if "fatal" in result:
        return f"{name:34} FATAL {result['fatal'][:160]}"
    run, made = result["ms"], result["compile"]
    return (f"{name:34} ms {run['static']:9.3f} {run['dynamic']:9.3f}  static/dynamic {run['static'] / run['dynamic']:.3f}   "
            f"compile s {made['static']:6.2f} {made['dynamic']:6.2f}  dynamic/static {made['dynamic'] / made['static']:.2f}")  # fmt: skip


def summary(results: dict[str, Any]) -> str:
    rows = [r for r in results.values() if "ms" in r]
    mean = lambda values: math.exp(statistics.fmean(map(math.log, values))) if rows else math.nan
    speed = mean([r["ms"]["static"] / r["ms"]["dynamic"] for r in rows])
    return f"{len(rows)} of {len(results)}: static/dynamic time {speed:.3f} (geometric mean), dynamic/static compile time {mean([r['compile']['dynamic'] / r['compile']['static'] for r in rows]):.3f}"


def main(arguments: list[str] | None = None) -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--what", choices=["infer", "train"], default="infer")
    ap.add_argument("--entries", default=str(EIGHT))
    ap.add_argument("--names", default="*", help="comma separated patterns")
    ap.add_argument("--sample", type=int, default=0)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--rounds", type=int, default=7)
    ap.add_argument("--compiles", type=int, default=2, help="compilations of each form, the fastest counts")
    ap.add_argument("--timeout", type=float, default=400)
    ap.add_argument("--mem-gb", type=float, default=6)
    ap.add_argument("--json", default="")
    args = ap.parse_args(arguments)
    zoo.worker = worker
    for library in ("timm", "transformers", "lamina"):  # loaded once, shared by the forked processes
        importlib.import_module(library)
    names = [n for n in common.load_entries(args.entries) if any(fnmatch.fnmatch(n, p) for p in args.names.split(","))]
    if args.sample:
        names = zoo.sample(names, args.sample, args.seed)
    spec = dict(what=args.what, train=args.what == "train", entries=args.entries, rounds=args.rounds, compiles=args.compiles)
    results = {}
    for name in names:
        results[name], _, _ = zoo.isolated({**spec, "name": name}, SimpleNamespace(spawn=False, timeout=args.timeout, mem_gb=args.mem_gb), {})
        print(line(name, results[name]), flush=True)
        if args.json:
            Path(args.json).write_text(json.dumps(results, indent=1))
    print(summary(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
