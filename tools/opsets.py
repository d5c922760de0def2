"""Writes docs/opsets.md: the prims, the decompositions, the ATen calls that stay, with counts.

    python tools/opsets.py             tables from the registries; the figures of the last sweep are kept
    python tools/opsets.py --sweep     also runs op_db (about three minutes) and writes its figures
    python tools/opsets.py --check     exit 1 when the page is out of date (what the test does)
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "opsets.md"
START, END = "<!-- sweep -->", "<!-- end of sweep -->"


def _functional_overloads() -> list:
    """Functional ATen overloads that no CompositeImplicit kernel takes apart before a tracer sees them."""
    found = []
    for name in dir(torch.ops.aten):
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads() if hasattr(packet, "overloads") else ():
            op = getattr(packet, overload, None) if "hacked" not in overload else None
            if op is None or op._schema.is_mutable or not torch._C._dispatch_has_kernel(op.name()):
                continue
            if not torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd"):
                found.append(op)
    return found


def _load_aten() -> None:
    """torch.ops.aten fills lazily: name every schema once so that `dir` lists it."""
    for schema in torch._C._jit_get_all_schemas():
        if schema.name.startswith("aten::"):
            try:
                getattr(torch.ops.aten, schema.name.partition("::")[2])
            except AttributeError:
                continue


def _summary(ops: list, decompositions: dict, extern: dict) -> list[str]:
    core = [o for o in ops if torch.Tag.core in o.tags]
    pointwise = [o for o in ops if torch.Tag.pointwise in o.tags]

    def row(name: str, chosen: list) -> str:
        done = sum(o in decompositions for o in chosen)
        kept = sum(o in extern for o in chosen)
        return f"| {name} | {len(chosen)} | {done} | {kept} | {len(chosen) - done - kept} |"

    return [
        "| ATen overloads (functional, not composite) | number | decomposed | ATen by decision | no decomposition |", "|---|---|---|---|---|",
        row("tagged core", core), row("tagged pointwise", pointwise), row("all", ops),
    ]  # fmt: skip


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


def _sweep() -> list[str]:
    sys.path.insert(0, str(ROOT / "packages" / "primops" / "tests"))
    import warnings

    from sweep import sweep

    warnings.simplefilter("ignore")
    lines = [
        "PyTorch's `op_db` (`python tools/opsets.py --sweep`), samples traced, lowered, interpreted and compared with eager:", "",
        "| sweep | samples | prims only | keeps ATen by decision | no decomposition | not traced | wrong |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    runs = [("float32", {}), ("float32, gradients", {"backward": True}), ("float32, symbolic sizes", {"symbolic": True}), ("bfloat16", {"dtype": torch.bfloat16}),
            ("int64", {"dtype": torch.int64})]  # fmt: skip
    for name, options in runs:
        samples, _ = sweep(limit=6, **options)
        n = samples.total()
        cells = [f"{samples[k]} ({100 * samples[k] / n:.1f}%)" for k in ("prims", "aten", "fallback", "untraced")]
        lines.append(f"| {name} | {n} | {' | '.join(cells)} | {samples['wrong']} |")
        print(lines[-1], flush=True)
    return [*lines, "", "At most six samples per op. Not traced: data-dependent sizes, sparse layouts, ops without a rule for fakes."]


def page(figures: str) -> str:
    """Text of the page with the given figures of the sweep."""
    from lamina_primops.decompositions import DECOMPOSITIONS, EXTERN
    from lamina_primops.prims import PRIMS

    _load_aten()
    head = [
        "# Operator sets", "", "Written by `python tools/opsets.py`; a test of primops checks that it is up to date.", "",
        f"{len(PRIMS)} prims, {len(DECOMPOSITIONS)} decompositions, {len(EXTERN)} ATen overloads that stay by decision.", "",
        *_summary(_functional_overloads(), DECOMPOSITIONS, EXTERN), "", START, figures.strip(), END, "",
    ]  # fmt: skip
    return "\n".join([*head, *_prims(), *_externs(), *_decompositions()]).rstrip() + "\n"


def kept_figures() -> str:
    """The sweep's section of the page as it stands."""
    text = PAGE.read_text() if PAGE.exists() else ""
    return text.partition(START)[2].partition(END)[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = page("\n".join(_sweep()) if options.sweep else kept_figures())
    if options.check:
        return 0 if PAGE.read_text() == text else 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
