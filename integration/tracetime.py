"""Seconds spent between the captured graph and the prims (joint trace, partition, decomposition), by both stacks' own timers: `python -m integration.tracetime`.

    python -m integration.tracetime --sample 12 --seed 1
    python -m integration.tracetime --names timm_resnet18,hf_gpt2 --entries integration/zoo_eight.py

lamina: the stages `aot trace`, `partition` and `lower`. The peer: `create_aot_dispatcher_function`, with inductor's decompositions and partitioner, which
decomposes as it traces. No C++ is made on either side: the graphs run operator by operator. A training step of each model, a process each; wall-clock
timers, so that a busy machine shows in both.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch

from integration import memory
from integration.memory import ENTRIES, common, zoo

STAGES = ("aot trace", "partition", "lower")


def _to_prims(gm: Any, fake_inputs: Any, *, kind: str, signature: Any) -> Any:
    """A compiler that lowers, and runs the graph it was given."""
    from lamina_dynshape.support.timers import stage
    from lamina_primops import lower

    with stage("lower"):
        lower(gm, to="prims")
    return gm.forward


def _ours(target: Any) -> tuple[Any, Any]:
    """(compiled function, its seconds)."""
    import lamina
    from lamina_aotgrad import aot_function
    from lamina_dynshape.support.timers import clear_stages, stage_seconds

    clear_stages()
    compiled = lamina.compile(target, backend=lambda gm, inputs: aot_function(gm, inputs, fw_compiler=_to_prims))
    return compiled, lambda: sum(stage_seconds().get(name, 0.0) for name in STAGES)


def _peers(target: Any) -> tuple[Any, Any]:
    from functorch.compile import min_cut_rematerialization_partition
    from torch._dynamo.backends.common import aot_autograd
    from torch._dynamo.utils import compilation_time_metrics
    from torch._inductor.decomposition import select_decomp_table

    run = lambda gm, inputs: gm.forward
    backend = aot_autograd(fw_compiler=run, bw_compiler=run, partition_fn=min_cut_rematerialization_partition, decompositions=select_decomp_table())
    torch._dynamo.reset()
    compilation_time_metrics.clear()
    return torch.compile(target, backend=backend), lambda: sum(compilation_time_metrics.get("create_aot_dispatcher_function", [0.0]))


def _step(entry: Any, make: Any) -> float:
    fn, args, kwargs = entry.build(train=True)
    loss_fn = entry.loss_fn()
    compiled, seconds = make(lambda *a, **k: loss_fn(fn(*a, **k)))
    with zoo.contexts(entry, "fp32", True):
        loss = compiled(*args, **kwargs)
    loss.backward()
    return seconds()


def worker(spec: dict[str, Any]) -> dict[str, Any]:
    """Both stacks on one model, after a small program that pays for imports."""
    torch.set_num_threads(spec["threads"])
    entry = common.load_entries(spec["entries"])[spec["name"]]
    layer = torch.nn.Linear(3, 3)
    found = {}
    for name, make in (("lamina", _ours), ("torch", _peers)):
        make(lambda x: layer(x).relu())[0](torch.ones(2, 3)).sum().backward()
        found[name] = _step(entry, make)
    return found


def main(arguments: list[str] | None = None) -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--entries", default=ENTRIES)
    ap.add_argument("--names", default="", help="comma separated")
    ap.add_argument("--sample", type=int, default=12)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--timeout", type=float, default=400)
    args = ap.parse_args(arguments)
    args.dtype = "fp32"
    limits = memory.limits_of(worker, args.timeout, mem_gb=8)
    both = []
    for name in memory.chosen(args):
        found = zoo.isolated(dict(name=name, entries=args.entries, threads=args.threads), limits, {})[0]
        if "fatal" in found:
            print(f"{name:36} {found['fatal'][:120]}", flush=True)
            continue
        both.append(found)
        print(f"{name:36} lamina {found['lamina']:7.2f} s   torch {found['torch']:7.2f} s   ratio {found['lamina'] / found['torch']:.3f}", flush=True)
    sums = [sum(f[n] for f in both) for n in ("lamina", "torch")]
    if both:
        print(f"{len(both)} models: sums {sums[0]:.1f} and {sums[1]:.1f} s, ratio of sums {sums[0] / sums[1]:.3f}, geometric mean {zoo.geomean([f['lamina'] / f['torch'] for f in both]):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
