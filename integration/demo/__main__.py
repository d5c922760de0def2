"""Command line of the demo: `python -m integration.demo [--all] [--peer] [model ...] [module:function ...]`."""

from __future__ import annotations

import argparse
import sys
import warnings

import torch

from integration import models
from integration.demo.live import LiveTable
from integration.demo.measure import Case, Row, run_case


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; exit status 1 if a result is not correct."""
    parser = argparse.ArgumentParser(prog="demo", description="Compile real models: eager against lamina.")
    parser.add_argument("models", nargs="*", help=f"any of {', '.join(models.EIGHT)}, or module:function of your own")
    parser.add_argument("--all", action="store_true", help="all eight models")
    parser.add_argument("--peer", action="store_true", help="torch.compile too, in the same process, timed in turn")
    parser.add_argument("--kind", choices=["inference", "training", "both"], default="both")
    parser.add_argument("--seconds", type=float, default=1.5, help="time to spend per implementation and row")
    parser.add_argument("--threads", type=int, default=None, help="threads of every implementation")
    chosen = parser.parse_args(arguments)
    names = chosen.models or (list(models.EIGHT) if chosen.all else list(models.THREE))
    for name in names:
        if ":" not in name and name not in models.EIGHT:
            parser.error(f"unknown model {name!r}; valid: {', '.join(models.EIGHT)}, or module:function")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    warnings.filterwarnings("ignore", category=UserWarning)
    kinds = ["inference", "training"] if chosen.kind == "both" else [chosen.kind]
    cases = [Case(name, kind) for kind in kinds for name in names]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; float32, random weights; training = forward, loss, backward\n")
    rows = [Row(case) for case in cases]
    with LiveTable(rows, peer=chosen.peer) as table:
        for index, case in enumerate(cases):
            rows[index] = run_case(case, peer=chosen.peer, seconds=chosen.seconds, progress=lambda row, i=index: table.update(i, row))
    return 0 if all(row.verdict == "correct" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
