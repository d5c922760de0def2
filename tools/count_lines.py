"""The table of lines per module, `docs/modules.md`: what each module is, by the first line of its docstring.

    python tools/count_lines.py            write the table
    python tools/count_lines.py --check    name modules that are missing from it, gone, or changed by 100 lines; fail at more than a few
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs" / "modules.md"
SLACK_LINES = 100
SLACK_MODULES = 12  # a branch or two may land before somebody writes the table again


def modules() -> dict[str, Path]:
    """All sources of the packages, by path from the root."""
    found = [path for suffix in ("py", "c", "cpp", "h") for path in (ROOT / "packages").glob(f"*/src/**/*.{suffix}")]
    return {str(path.relative_to(ROOT)): path for path in sorted(found)}


def first_line(path: Path) -> str:
    """First line of the docstring, or of the leading comment of a C file."""
    text = path.read_text()
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    match = re.match(r"\s*(?://+|/\*+)\s*(.*?)\s*(?:\*/)?\s*\n", text)
    return match.group(1) if match else ""


def lines_of(path: Path) -> int:
    return path.read_text().count("\n")


def table() -> str:
    """The whole page."""
    by_package: dict[str, list[tuple[str, int, str]]] = {}
    for name, path in modules().items():
        by_package.setdefault(name.split("/")[1], []).append((name, lines_of(path), first_line(path)))
    total = {package: sum(count for _, count, _ in rows) for package, rows in by_package.items()}
    out = ["# Lines per module", "", "Written by `python tools/count_lines.py`; the lint session checks it.", ""]
    out += ["| package | modules | lines |", "|---|---|---|"]
    out += [f"| {package} | {len(rows)} | {total[package]} |" for package, rows in by_package.items()]
    out += [f"| all | {sum(map(len, by_package.values()))} | {sum(total.values())} |", ""]
    for package, rows in by_package.items():
        out += [f"## {package}", "", "| module | lines | what it is |", "|---|---|---|"]
        out += [f"| `{name.split('/src/')[1]}` | {count} | {what.replace('|', chr(92) + '|')} |" for name, count, what in rows] + [""]
    return "\n".join(out)


def check() -> list[str]:
    """What is wrong with the table on disk."""
    if not TABLE.exists():
        return [f"{TABLE.relative_to(ROOT)} is missing"]
    listed = {m.group(1): int(m.group(2)) for m in re.finditer(r"^\| `([^`]+)` \| (\d+) \|", TABLE.read_text(), re.M)}
    present = {name.split("/src/")[1]: lines_of(path) for name, path in modules().items()}
    wrong = [f"not in the table: {name}" for name in sorted(present.keys() - listed.keys())]
    wrong += [f"in the table but gone: {name}" for name in sorted(listed.keys() - present.keys())]
    wrong += [
        f"{name} has {present[name]} lines, the table says {listed[name]}"
        for name in sorted(present.keys() & listed.keys())
        if abs(present[name] - listed[name]) > SLACK_LINES
    ]
    return wrong


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        wrong = check()
        print("\n".join([*wrong, f"{len(wrong)} differences between docs/modules.md and the sources"]))
        if wrong:
            print("run: python tools/count_lines.py")
        return 1 if len(wrong) > SLACK_MODULES else 0
    TABLE.write_text(table())
    print(f"wrote {TABLE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
