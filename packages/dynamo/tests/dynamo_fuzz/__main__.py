"""Long runs of the fuzzers.

    python packages/dynamo/tests/dynamo_fuzz breaks --stride 1                every instruction of every feature program
    python packages/dynamo/tests/dynamo_fuzz programs --count 20000 --seed 1
    python packages/dynamo/tests/dynamo_fuzz mutations --count 10000 --seed 1

Each prints what differed from eager (a generated program reduced to the lines that it takes) and, last, the count reached.
`--minutes` ends a run early.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dynamo_fuzz import breaks, mutations, programs  # noqa: E402
from dynamo_fuzz.features import features  # noqa: E402


def run_breaks(args: argparse.Namespace, ends: float) -> tuple[int, int]:
    done = bad = 0
    for feature in features():
        if args.only not in feature.name:
            continue
        want = breaks.eager(feature)
        for code in breaks.code_objects(feature.fn):
            for i in range(args.seed % args.stride, breaks.length(code), args.stride):
                if time.monotonic() > ends:
                    return done, bad
                done += 1
                found = breaks.run_with_breaks(feature, code, {i}, want)
                if found is not None:
                    bad += 1
                    print(f"{feature.name}, break at instruction {i} of {code.co_qualname}: {found}\n", flush=True)
    return done, bad


def run_programs(args: argparse.Namespace, ends: float) -> tuple[int, int]:
    texts: set[int] = set()
    bad, at = 0, args.seed * 1_000_000_000
    while len(texts) < args.count and time.monotonic() < ends:
        text = programs.random_program(at)
        texts.add(hash(text))
        if (found := programs.difference(text)) is not None:
            bad += 1
            print(f"program {at}\n{programs.reduced(text)[len(programs.PRELUDE):] if args.reduce else text[len(programs.PRELUDE):]}\n{found}\n", flush=True)
        at += 1
    return len(texts), bad


def run_mutations(args: argparse.Namespace, ends: float) -> tuple[int, int]:
    found: list[mutations.Case] = []

    def report(case: mutations.Case) -> None:
        found.append(case)
        print(f"{case.text[len(mutations.WORLD):]}\n{case.changes}\n{case.difference}\n", flush=True)

    made, at = 0, args.seed * 1_000_000_000
    while made < args.count and time.monotonic() < ends:
        more, at = mutations.run_many(min(200, args.count - made), at, report)
        made += more
    return made, len(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["breaks", "programs", "mutations"])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stride", type=int, default=1, help="breaks: every so manieth instruction, from seed on")
    parser.add_argument("--only", default="", help="breaks: features whose name contains this")
    parser.add_argument("--reduce", action=argparse.BooleanOptionalAction, default=True, help="programs: take lines away while it still differs")
    parser.add_argument("--minutes", type=float, default=24 * 60)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    run = {"breaks": run_breaks, "programs": run_programs, "mutations": run_mutations}[args.what]
    done, bad = run(args, time.monotonic() + 60 * args.minutes)
    print(f"{args.what}: {done} reached, {bad} differ from eager (seed {args.seed}{f', stride {args.stride}' if args.what == 'breaks' else ''})")
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
