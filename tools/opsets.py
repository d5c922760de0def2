"""Writes docs/opsets.md: what becomes of every ATen overload, the prims, the decompositions, the ATen calls that stay, with counts.

    python tools/opsets.py             tables from the registries; the figures of the last sweep are kept
    python tools/opsets.py --sweep     also runs op_db (about ten minutes; or one sweep: --sweep bfloat16) and writes its figures
    python tools/opsets.py --check     exit 1 when the page is out of date (what the test does)
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from pathlib import Path

import torch
from opclasses import FALLS_BACK, FATES, PARTS, classify_all

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "opsets.md"
START, END = "<!-- sweep -->", "<!-- end of sweep -->"


def _summary(entries: list) -> list[str]:
    """Tables of numbers: by class and fate, and the functional overloads by PyTorch's tags."""
    kinds = Counter(e.kind for e in entries)

    def row(name: str, chosen: list, fates: tuple) -> str:
        counts = Counter(e.fate for e in chosen)
        return f"| {name} | {len(chosen)} | {' | '.join(str(counts[f]) for f in fates)} |"

    lines = [f"| class | overloads | {' | '.join(FATES)} |", "|---|---|---|---|---|---|"]
    lines += [row(kind, [e for e in entries if e.kind == kind], FATES) for kind in sorted(kinds, key=lambda kind: (-kinds[kind], kind))]
    functional = [e for e in entries if not e.overload._schema.is_mutable and e.fate != PARTS]
    lines += [row("**all**", entries, FATES), "", "Functional overloads that reach the tracer:", "", f"| | overloads | {' | '.join(FATES[1:])} |", "|---|---|---|---|---|"]
    for name, tag in (("tagged core", torch.Tag.core), ("tagged pointwise", torch.Tag.pointwise), ("all", None)):
        lines.append(row(name, [e for e in functional if tag is None or tag in e.overload.tags], FATES[1:]))
    why = Counter(e.rule for e in functional if e.fate == FALLS_BACK)
    return [*lines, "", "Why functional overloads fall back: " + "; ".join(f"{rule} ({n})" for rule, n in why.most_common()) + "."]


def _overloads(entries: list) -> list[str]:
    """One row per op and fate, its overloads listed."""
    rows: dict[tuple[str, str, str, str], list[str]] = defaultdict(list)
    for e in entries:
        rows[e.overload._schema.name.removeprefix("aten::"), e.kind, e.fate, e.rule].append(e.overload._overloadname or "default")
    lines = ["## Every ATen overload", "", "| op | overloads | class | becomes | by |", "|---|---|---|---|---|"]
    lines += [f"| `{name}` | {', '.join(sorted(forms))} | {kind} | {fate} | {rule} |" for (name, kind, fate, rule), forms in sorted(rows.items())]
    return [*lines, ""]


def _prims() -> list[str]:
    from lamina_primops.prims import KINDS, PRIMS

    counts = Counter(p.kind for p in PRIMS.values())
    lines = ["## Prims", "", "| kind | number |", "|---|---|", *[f"| {k} | {counts[k]} |" for k in KINDS if counts[k]], ""]
    for kind in KINDS:
        members = [p for p in PRIMS.values() if p.kind == kind]
        if members:
            lines += [f"### {kind}", "", "| schema | meaning |", "|---|---|", *[f"| `{p.schema}` | {p.doc} |".replace("|a|", "abs(a)") for p in members], ""]
    return lines


def _decompositions() -> list[str]:
    from lamina_primops.decompositions import DECOMPOSITIONS

    families: dict[str, list] = defaultdict(list)
    for d in DECOMPOSITIONS.values():
        families[d.module.rpartition(".")[2]].append(d)
    lines = ["## Decompositions", ""]
    for family, members in sorted(families.items()):
        lines += [f"### {family} ({len(members)})", "", "| overload | numerics |", "|---|---|"]
        lines += [f"| `{d.overload}` | {d.doc.splitlines()[0].replace('|', chr(92) + '|')} |" for d in sorted(members, key=lambda d: str(d.overload))]
        lines.append("")
    return lines


def _externs() -> list[str]:
    from lamina_primops import fallback_table

    reasons: dict[str, list[str]] = defaultdict(list)
    for overload, reason in fallback_table().items():
        reasons[reason].append(overload)
    lines = ["## ATen calls that stay by decision", ""]
    for reason, overloads in sorted(reasons.items()):
        lines += [f"- {reason}: " + ", ".join(f"`{o.removeprefix('aten.')}`" for o in overloads)]
    return [*lines, ""]


_RUNS: dict[str, dict] = {
    "float32": {}, "float32, gradients": {"backward": True}, "float32, symbolic sizes": {"symbolic": True}, "bfloat16": {"dtype": torch.bfloat16},
    "int64": {"dtype": torch.int64},
}  # fmt: skip


def _swept(name: str) -> str:
    """The row of one sweep, measured now."""
    sys.path.insert(0, str(ROOT / "packages" / "primops" / "tests"))
    import warnings

    from sweep import sweep

    warnings.simplefilter("ignore")
    samples, _ = sweep(limit=6, **_RUNS[name])
    n = samples.total()
    cells = [f"{samples[k]} ({100 * samples[k] / n:.1f}%)" for k in ("prims", "aten", "fallback", "untraced")]
    return f"| {name} | {n} | {' | '.join(cells)} | {samples['wrong']} |"


def _figures(rows: list[str]) -> str:
    """The sweep's section with these rows, and those of the page as it stands for the other sweeps."""
    kept = {line.split("|")[1].strip(): line for line in kept_figures().splitlines() if line.startswith("| ")}
    new = {line.split("|")[1].strip(): line for line in rows}
    lines = [
        "PyTorch's `op_db` (`python tools/opsets.py --sweep`), samples traced, lowered, interpreted and compared with eager:", "",
        "| sweep | samples | prims only | keeps ATen by decision | no decomposition | not traced | wrong |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [line for name in _RUNS if (line := new.get(name, kept.get(name)))]
    return "\n".join([*lines, "", "At most six samples per op. Not traced: data-dependent sizes, sparse layouts, ops without a rule for fakes."])


def page(figures: str) -> str:
    """Text of the page with the given figures of the sweep."""
    from lamina_primops.decompositions import DECOMPOSITIONS, EXTERN
    from lamina_primops.prims import PRIMS

    entries = classify_all()
    head = [
        "# Operator sets", "", "Written by `python tools/opsets.py`; a test of primops checks that it is up to date.", "",
        f"{len(PRIMS)} prims, {len(DECOMPOSITIONS)} decompositions, {len(EXTERN)} ATen overloads that stay by decision.", "",
        "In-place and `out=` overloads become their functional twin by functionalization and share its fate; ops on lists are the op per tensor.", "",
        *_summary(entries), "", START, figures.strip(), END, "",
    ]  # fmt: skip
    return "\n".join([*head, *_prims(), *_externs(), *_decompositions(), *_overloads(entries)]).rstrip() + "\n"


def kept_figures() -> str:
    """The sweep's section of the page as it stands."""
    text = PAGE.read_text() if PAGE.exists() else ""
    return text.partition(START)[2].partition(END)[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", nargs="*", choices=_RUNS, metavar="SWEEP")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.sweep is not None and not options.check:
        rows = []
        for name in options.sweep or _RUNS:
            rows.append(_swept(name))
            print(rows[-1], flush=True)
            PAGE.write_text(page(_figures(rows)))
        return 0
    text = page(kept_figures())
    if options.check:
        return 0 if PAGE.read_text() == text else 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
