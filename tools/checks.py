"""Runs the checks one after the other and sums them up: lint, the suite of each package, the integration suite.

Each package's suite sees only the sources of the packages below it, so that an import that goes the wrong way fails here too.
Ends with one line in pytest's manner (`=== 1234 passed, 5 skipped in 432.10s ===`) and exit status 1 if anything failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import environment

ROOT = environment.ROOT
BELOW = {
    "dynshape": ("dynshape",),
    "primops": ("dynshape", "primops"),
    "dynamo": ("dynshape", "primops", "dynamo"),
    "aotgrad": ("dynshape", "primops", "aotgrad"),
    "inductor": ("dynshape", "primops", "inductor"),
    "lamina": environment.PACKAGES,
}
# Tests of capture whose backend is the functional form too, where the integration suite has it.
WITH_GRADIENTS = tuple(f"packages/dynamo/tests/test_{name}.py" for name in ("distributed", "global_state", "hooks", "leaves", "research_programs"))
LINT = (
    ("ruff", ["-m", "ruff", "check", "."]),
    ("mypy", ["-m", "mypy"]),
    ("imports", ["tools/check_imports.py"]),
    ("modules table", ["tools/count_lines.py", "--check"]),
)


def lint() -> Counter[str]:
    """Run the linters; each counts as one passed or failed check."""
    result: Counter[str] = Counter()
    for name, command in LINT:
        start = time.monotonic()
        status = subprocess.run([sys.executable, *command], cwd=ROOT, stdin=subprocess.DEVNULL).returncode
        print(f"lint: {name} {'ok' if status == 0 else 'FAILED'} ({time.monotonic() - start:.1f} s)", flush=True)
        result["passed" if status == 0 else "failed"] += 1
    return result


def suite(folder: Path, packages: tuple[str, ...], *arguments: str) -> Counter[str]:
    """Run pytest on one folder with only these packages on the path; counts by outcome."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        workers = os.environ.get("LAMINA_TEST_WORKERS", "2")
        command = [
            sys.executable, "-m", "pytest", str(folder), "-q", "-n", workers, "--dist", "worksteal", "-o", "pythonpath=",
            "-p", "no:cacheprovider", f"--junitxml={report}", *arguments,
        ]  # fmt: skip
        path = os.pathsep.join([environment.source_path(packages), str(ROOT)])
        # a thread per worker: two suites with two threads each on two cores would wait for one another
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        env.setdefault("LAMINA_STRICT", "1")
        env.setdefault("LAMINA_VERIFY", "1")
        status = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL).returncode
        result = _outcomes(report)
    if status not in (0, 5) and not result["failed"] and not result["errors"]:
        result["errors"] += 1  # pytest itself did not get through
    return result


def _outcomes(report: Path) -> Counter[str]:
    if not report.exists():
        return Counter()
    result: Counter[str] = Counter()
    for tests in ElementTree.parse(report).getroot().iter("testsuite"):
        counts = {key: int(tests.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
        result["failed"] += counts["failures"]
        result["errors"] += counts["errors"]
        result["skipped"] += counts["skipped"]
        result["passed"] += counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    return result


def main(wanted: list[str]) -> int:
    known = ["lint", *BELOW, "integration"]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        print(f"unknown check {', '.join(unknown)}; valid: {', '.join(known)}", file=sys.stderr)
        return 2
    start, total, lines = time.monotonic(), Counter[str](), []
    for name in wanted or known:
        print(f"\n##### {name}", flush=True)
        begin = time.monotonic()
        if name == "lint":
            result = lint()
        elif name == "integration":
            result = suite(ROOT / "integration" / "tests", environment.PACKAGES, *WITH_GRADIENTS, "-m", "not slow")
        else:
            result = suite(ROOT / "packages" / name / "tests", BELOW[name], "-m", "not slow")
        total += result
        lines.append(f"{name:12s} {_summary(result)} in {time.monotonic() - begin:.1f}s")
    print("\n" + "\n".join(lines))
    print(f"=== {_summary(total)} in {time.monotonic() - start:.2f}s ===")
    return 1 if total["failed"] or total["errors"] else 0


def _summary(result: Counter[str]) -> str:
    return ", ".join(f"{result[key]} {key}" for key in ("failed", "passed", "skipped", "errors") if result[key]) or "no tests"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
