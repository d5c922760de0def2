"""PyTorch's operator and module databases through lamina: which entries compile and equal eager, where the others stop, is anything silently wrong.

    python -m integration.opdb                                          all operators, float32, first 3 samples, backend aot_eager
    python -m integration.opdb --backend inductor --dtypes float32,bfloat16 --samples 5 --json out.jsonl
    python -m integration.opdb --what modules --backend inductor        state after three training steps as well
    python -m integration.opdb --impl torch --ops "linalg.*"            the same entries through torch.compile
    python -m integration.opdb --dynamic                                every size symbolic
    python -m integration.opdb --shard 0/20                             every twentieth entry

What is compared, and the outcomes: `opdb_check.py`. Entries run in a worker process, so that a crash costs one entry.
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
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lamina_inductor.config import config as inductor_config

from .opdb_check import OUTCOMES, Result, Row, check_entry, entries, lowered_as

LOWERED = ("prims", "aten", "fallback")


def rows(chosen: argparse.Namespace) -> list[Row]:
    """The rows that the command line asks for."""
    import torch

    patterns = chosen.ops.split(",")
    number, of = (int(part) for part in chosen.shard.split("/"))
    found = entries(chosen.what, [getattr(torch, name) for name in chosen.dtypes.split(",")])
    return [row for row in found if any(fnmatch.fnmatch(row.name, p) for p in patterns)][number::of]


def _work(chosen: argparse.Namespace) -> None:
    """Check rows from `chosen.start` on and print one line of JSON before and after each."""
    warnings.filterwarnings("ignore")
    inductor_config.cache = False  # what is counted is what was lowered now

    def too_long(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, too_long)
    for index, row in list(enumerate(rows(chosen)))[chosen.start :]:
        name = {"entry": row.name, "dtype": str(row.dtype)[6:]}
        print(json.dumps({"index": index, **name}), flush=True)
        signal.alarm(chosen.timeout)
        try:
            result = check_entry(row, chosen.backend, chosen.impl, chosen.samples, chosen.dynamic)
        except TimeoutError:
            result = Result(**name, outcome="timeout")
        except Exception as error:  # samples that cannot be made here: nothing to compare
            result = Result(**name, reason=f"no samples: {type(error).__name__}: {error}"[:160])
        finally:
            signal.alarm(0)
        print(json.dumps(asdict(result)), flush=True)


def sweep(arguments: list[str], start: int = 0) -> Iterator[dict[str, Any]]:
    """Results of all rows; the worker is started again after a crash, with the next row."""
    while True:
        command = [sys.executable, "-m", "integration.opdb", *arguments, "--start", str(start)]
        env = {**os.environ, "LAMINA_STRICT": "1", "OMP_NUM_THREADS": "1"}
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
        assert worker.stdout is not None
        running: dict[str, Any] | None = None
        for line in worker.stdout:
            if not line.startswith("{"):
                continue
            record = json.loads(line)
            if "index" in record:
                running = record
                continue
            running = None
            yield record
        worker.wait()
        if running is None:
            if worker.returncode:
                raise SystemExit(f"the worker failed with status {worker.returncode}")
            return
        yield asdict(Result(running["entry"], running["dtype"], "crash", f"status {worker.returncode}"))
        start = running["index"] + 1


def summary(results: list[dict[str, Any]]) -> str:
    """Counts per dtype (at the end, of those that pass with the inductor: how far they are lowered), then why entries are unsupported."""
    lowered = LOWERED if any(r["fallbacks"] for r in results) else ()  # only the inductor lowers
    used = [r for r in results if r["samples"] or r["outcome"] in ("timeout", "crash")]
    lines = [f"{'dtype':<12}{'entries':>8}" + "".join(f"{o:>13}" for o in OUTCOMES) + "".join(f"{k:>10}" for k in lowered)]
    for dtype in dict.fromkeys(r["dtype"] for r in used):
        of = [r for r in used if r["dtype"] == dtype]
        count = Counter(r["outcome"] for r in of)
        kinds = Counter(lowered_as(r["fallbacks"]) for r in of if r["outcome"] == "pass")
        lines.append(f"{dtype:<12}{len(of):>8}" + "".join(f"{count[o]:>13}" for o in OUTCOMES) + "".join(f"{kinds[k]:>10}" for k in lowered))
    reasons: dict[str, list[str]] = {}
    for r in used:
        if r["outcome"] == "unsupported":
            reasons.setdefault(r["reason"].partition(" ")[2][:140], []).append(r["entry"])
    lines += [f"{len(names):4d}  {reason}: {' '.join(dict.fromkeys(names))}" for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1]))]
    return "\n".join([*lines, f"{len(results) - len(used)} without a sample that eager runs"])


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="opdb", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("ops", "modules"), default="ops")
    parser.add_argument("--impl", choices=("lamina", "torch"), default="lamina")
    parser.add_argument("--backend", default="aot_eager")
    parser.add_argument("--dynamic", action="store_true", help="every size of the inputs symbolic")
    parser.add_argument("--dtypes", default="float32", help="comma separated names")
    parser.add_argument("--ops", default="*", help="comma separated patterns of names")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--shard", default="0/1", help="NUMBER/OF: every OF-th row, from NUMBER on")
    parser.add_argument("--timeout", type=int, default=120, help="seconds per row")
    parser.add_argument("--json", type=Path, help="one line of JSON per row")
    parser.add_argument("--start", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.start is not None:
        _work(chosen)
        return 0
    begin = time.monotonic()
    results = []
    with open(chosen.json or os.devnull, "w") as kept:
        for record in sweep(arguments):
            results.append(record)
            print(json.dumps(record), file=kept, flush=True)
            if record["outcome"] not in ("pass", "unsupported"):
                print(f"{record['entry']} {record['dtype']} {record['outcome']}: {record['reason'][:200]}", flush=True)
    print(summary(results))
    print(f"{time.monotonic() - begin:.0f} s, {chosen.impl} {chosen.backend}{' dynamic' * chosen.dynamic}, first {chosen.samples} samples")
    return 1 if any(r["outcome"] in ("wrong", "error", "crash", "strides") for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
