"""Sizes that change, on the zoo and in text generation: compilations, correctness and time: `python -m integration.dynamic [options]`.

    python -m integration.dynamic --sample 12 --backend eager                    the zoo at eight sizes, inference
    python -m integration.dynamic --what train --impl lamina,torch --names 'hf_*'
    python -m integration.dynamic --what generate                                lengths 4..256 with a key/value cache, prefill

A compilation is counted once per call that caused one, so that a program in several graphs is not counted several times. Correct
is what the zoo's harness calls so (a float64 run decides, `compare`), at every size. Each model runs in its own process.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import json
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from integration.bench import ENTRIES as EIGHT
from integration.bench import harness
from integration.vary import variations

sys.path.insert(0, str(harness().parent))
import bench as zoo  # type: ignore[import-not-found]
import zoo_common as common  # type: ignore[import-not-found]

ENTRIES = str(harness().parent / "zoo_public.py")
MOST_COMPILES = 2


class Counting:
    """A backend that counts the graphs made and run: a call that runs none was not compiled."""

    def __init__(self, impl: Any, name: str) -> None:
        self.graphs = self.runs = 0
        self.inner = _backend(impl, name)

    def __call__(self, gm: Any, example_inputs: Any, **options: Any) -> Any:
        self.graphs += 1
        compiled = self.inner(gm, example_inputs, **options)

        def run(*args: Any) -> Any:
            self.runs += 1
            return compiled(*args)

        return run


def _backend(impl: Any, name: str) -> Any:
    if impl.name == "torch":
        from torch._dynamo import lookup_backend

        return lookup_backend(name)
    return impl.mod.lookup_backend(name)


# --------------------------------------------------------------------------------------------------------------------------
# the zoo
# --------------------------------------------------------------------------------------------------------------------------
class Program:
    """An entry ready to run at any of its sizes: inference, or loss and gradients."""

    def __init__(self, entry: Any, train: bool) -> None:
        self.entry, self.train = entry, train
        self.fn, self.args, self.kwargs = entry.build(train=train)
        self.parameters = [(f"grad {i}.{n}", p) for i, m in enumerate(common.modules_of(self.fn)) for n, p in m.named_parameters()]

    def target(self) -> Any:
        loss = self.entry.loss_fn()
        return (lambda *a, **k: loss(self.fn(*a, **k))) if self.train else self.fn

    def run(self, compiled: Any, args: Any, kwargs: Any) -> dict[str, Any]:
        """Outputs by path; in training the loss and the gradients."""
        args, kwargs = common.clone_inputs(args), common.clone_inputs(kwargs)
        for _, p in self.parameters:
            p.grad = None
        with zoo.contexts(self.entry, "fp32", self.train):
            out = compiled(*args, **kwargs)
        result = zoo.snapshot(out)
        if self.train:
            out.backward()
            result.update({n: p.grad.detach().clone() for n, p in self.parameters if p.grad is not None})
        return result


def _runs(program: Program) -> Any:
    def runs(args: Any, kwargs: Any) -> bool:
        try:
            program.run(program.target(), args, kwargs)
        except Exception:
            return False
        return True

    return runs


def sweep(entry: Any, impls: list[str], spec: dict[str, Any]) -> dict[str, Any]:
    """One entry at its sizes: per implementation the compilations and what was wrong."""
    train, count = spec["train"], spec["sizes"]
    trial = Program(entry, train)
    names, inputs = variations((trial.args, trial.kwargs), _runs(trial), common.map_tensors, count)
    result: dict[str, Any] = {"axes": names}
    if not inputs:
        return result
    eager = Program(entry, train)
    want = [eager.run(eager.target(), *i) for i in inputs]
    for name in impls:
        result[name] = _guarded(lambda n: _sweep_one(entry, n, spec, inputs, want), name)
    return result


def _sweep_one(entry: Any, name: str, spec: dict[str, Any], inputs: Any, want: Any) -> dict[str, Any]:
    impl, program = zoo.Impl(name), Program(entry, spec["train"])
    backend = Counting(impl, spec["backend"])
    compiled = impl.compile(program.target(), backend=backend, dynamic=spec["dynamic"])
    compiles, wrong = [], []
    for i, (given, expected) in enumerate(zip(inputs, want, strict=True)):
        graphs, runs = backend.graphs, backend.runs
        got = program.run(compiled, *given)
        if backend.graphs > graphs:
            compiles.append(i)
        bad = "ran eagerly" if backend.runs == runs else _differs(entry, spec["train"], given, got, expected)
        if bad:
            wrong.append(f"size {i}: {bad}")
    return {"compiles": len(compiles), "at": compiles, "graphs": backend.graphs, "wrong": wrong}


def _differs(entry: Any, train: bool, given: Any, got: dict[str, Any], expected: dict[str, Any]) -> str:
    """What differs from eager; a float64 run is made only where the plain comparison fails."""
    share = (1e-2 if train else 1e-3) * entry.tol
    ok, _, message = zoo.compare(got, expected, None, share)
    if ok or not entry.fp64:
        return message
    exact = Program(entry, train)
    common.to_double(exact.fn, (), {})
    double = lambda t: t.double() if t.is_floating_point() else t
    reference = exact.run(exact.target(), common.map_tensors(double, given[0]), common.map_tensors(double, given[1]))
    return zoo.compare(got, expected, reference, share)[2]


# --------------------------------------------------------------------------------------------------------------------------
# text generation
# --------------------------------------------------------------------------------------------------------------------------
def generation(name: str, impls: list[str], spec: dict[str, Any]) -> dict[str, Any]:
    """One generating model: compilations with dynamic=True and None, correctness at every length, time per call."""
    from integration.generate import GENERATORS, Generation

    entry = common.load_entries(str(EIGHT))[GENERATORS[name].entry]
    case = Generation(GENERATORS[name], entry.build()[0], spec["lengths"])
    result = {n: _guarded(lambda n: case.measure(zoo.Impl(n), spec, lambda i: Counting(i, spec["backend"])), n) for n in impls}
    if spec["time"]:
        result |= _guarded(lambda _: case.timed([zoo.Impl(n) for n in impls], spec), "time")
    return result


def _guarded(work: Any, name: str) -> dict[str, Any]:
    try:
        return work(name)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).strip()[:600]}", "trace": traceback.format_exc()[-2500:]}


# --------------------------------------------------------------------------------------------------------------------------
# processes and tables
# --------------------------------------------------------------------------------------------------------------------------
def worker(spec: dict[str, Any]) -> dict[str, Any]:
    """What the process of one model does."""
    torch.set_num_threads(spec["threads"])
    if spec["what"] == "generate":
        return generation(spec["name"], spec["impls"], spec)
    return sweep(common.load_entries(spec["entries"])[spec["name"]], spec["impls"], spec)


def line(name: str, result: dict[str, Any], impls: list[str]) -> str:
    if "fatal" in result:
        return f"{name:34} FATAL {result['fatal'][:120]}"
    out = [f"{name:34} {result.get('axes', ''):14}"]
    for n in impls:
        r = result.get(n)
        if r is None:
            out.append("not varied")
        elif "error" in r:
            out.append(f"{n}: ERROR {r['error'][:200]}")
        else:
            out.append(f"{n}: compiles {r['compiles']} (graphs {r['graphs']}) {'WRONG ' + r['wrong'][0][:160] if r['wrong'] else 'ok'}")
    if "ms" in result:
        out.append(" ".join(f"{k} {v:.2f}ms" for k, v in result["ms"].items()))
    return "  ".join(out)


def summary(results: dict[str, Any], impls: list[str]) -> str:
    """Per implementation: models that vary, with few compilations, correct, both."""
    lines = []
    for n in impls:
        rows = [r.get(n, r) for r in results.values() if r.get("axes", "all") or "fatal" in r]
        few = [r for r in rows if r.get("compiles", 99) <= MOST_COMPILES]
        right = [r for r in rows if "wrong" in r and not r["wrong"]]
        both = [r for r in few if r in right]
        lines.append(f"{n}: {len(rows)} vary; at most {MOST_COMPILES} compilations {len(few)}; correct {len(right)}; both {len(both)} ({100 * len(both) / max(1, len(rows)):.1f}%)")
    return "\n".join(lines)


def chosen(args: argparse.Namespace) -> list[str]:
    """The models to run."""
    if args.what == "generate":
        from integration.generate import GENERATORS

        names = list(GENERATORS)
        suites = dict.fromkeys(names, "")
    else:
        entries = common.load_entries(args.entries)
        names = [n for n, e in entries.items() if not e.grad and not e.stateful and (e.train or args.what != "train")]
        suites = {n: entries[n].suite for n in names}
    if args.names:
        names = [n for n in names if any(fnmatch.fnmatch(n, p) for p in args.names.split(","))]
    if args.sample:
        each = -(-args.sample // len(set(suites.values())))
        names = [n for s in sorted(set(suites.values())) for n in zoo.sample([n for n in names if suites[n] == s], each, args.seed)]
    return names


def main(arguments: list[str] | None = None) -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--what", choices=["infer", "train", "generate"], default="infer")
    ap.add_argument("--impl", default="lamina", help="comma separated: lamina, torch")
    ap.add_argument("--backend", default="inductor", help="eager, aot_eager, inductor")
    ap.add_argument("--dynamic", choices=["auto", "true"], default="auto")
    ap.add_argument("--entries", default=ENTRIES)
    ap.add_argument("--names", default="", help="comma separated patterns")
    ap.add_argument("--sample", type=int, default=0)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--sizes", type=int, default=8, help="sizes per model, at most 8")
    ap.add_argument("--lengths", type=int, default=256, help="longest text in generation")
    ap.add_argument("--time", action="store_true", help="generation: milliseconds per call beside eager")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--timeout", type=float, default=400)
    ap.add_argument("--mem-gb", type=float, default=6)
    ap.add_argument("--json", default="")
    args = ap.parse_args(arguments)
    zoo.worker = worker
    for library in ("timm", "transformers", *args.impl.split(",")):  # loaded once, shared by the forked processes
        importlib.import_module(library)
    impls = args.impl.split(",")
    common_part = dict(what=args.what, impls=impls, backend=args.backend, train=args.what == "train", sizes=args.sizes, entries=args.entries)
    common_part |= dict(dynamic=True if args.dynamic == "true" else None, lengths=args.lengths, threads=args.threads, time=args.time)
    limits = SimpleNamespace(spawn=False, timeout=args.timeout, mem_gb=args.mem_gb)
    results = {}
    for name in chosen(args):
        results[name], seconds, _ = zoo.isolated({**common_part, "name": name}, limits, {})
        print(line(name, results[name], impls), f"({seconds:.0f} s)", flush=True)
        if args.json:
            Path(args.json).write_text(json.dumps(results, indent=1))
    print(summary(results, impls))
    return 0


if __name__ == "__main__":
    sys.exit(main())
