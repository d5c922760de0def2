"""The virtual environment of a checkout: made on first use, filled under `constraints.txt`, reused while the requirements are the same.

Used by `demo.py`, `run_tests.py` and `.ci/run`, which start with any Python 3.11 to 3.13 and nothing installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PACKAGES = ("dynshape", "primops", "dynamo", "aotgrad", "inductor", "lamina")
GROUPS = ("models", "test", "lint")


def source_path(packages: Sequence[str] = PACKAGES) -> str:
    """PYTHONPATH with the sources of these packages: a checkout runs without being installed."""
    return os.pathsep.join(str(ROOT / "packages" / name / "src") for name in packages)


def ensure(groups: Sequence[str] = ("models",), folder: Path | None = None) -> Path:
    """The Python of the environment with torch and the requirement groups installed."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        sys.exit(f"lamina needs Python 3.11, 3.12 or 3.13; this is {sys.version.split()[0]}")
    folder = folder or ROOT / ".venv"
    python = folder / "bin" / "python"
    if not python.exists():
        _say(f"making the virtual environment {folder}")
        venv.create(folder, with_pip=True, clear=folder.exists())
    for group in ("torch", *groups):
        _install_once(folder, python, group)
    return python


def _install_once(folder: Path, python: Path, group: str) -> None:
    files = [path for path in (ROOT / "tools" / "requirements").glob(f"{group}*.txt") if path.stem in (group, f"{group}-no-deps")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files)) + (ROOT / "constraints.txt").read_bytes()).hexdigest()
    mark = folder / f".lamina-{group}"
    if mark.exists() and mark.read_text() == digest:
        return
    start = time.monotonic()
    _say(f"installing {group} ...")
    if group == "torch":
        install_torch(python)
    for path in sorted(files):
        no_deps = ["--no-deps"] if path.stem.endswith("-no-deps") else []
        _pip(python, "-c", str(ROOT / "constraints.txt"), *no_deps, "-r", str(path), check=True)
    mark.write_text(digest)
    _say(f"installed {group} in {time.monotonic() - start:.0f} s")


def install_torch(python: Path, constraints: str = "constraints.txt") -> None:
    """The CPU build, from the configured indexes if they have it, else from PyTorch's own; and what our packages need besides."""
    version = next(line for line in (ROOT / constraints).read_text().splitlines() if line.startswith("torch=="))
    from_pytorch = ["--retries", "1", "--timeout", "20", "--extra-index-url", CPU_INDEX]
    if not _pip(python, f"{version}+cpu", check=False) and not _pip(python, f"{version}+cpu", *from_pytorch, check=False):
        _say("no CPU build of torch to be had; taking the one with CUDA, which is several gigabytes")
        _pip(python, version, check=True)
    _pip(python, "-c", str(ROOT / constraints), "numpy", "sympy", "networkx", check=True)


def _pip(python: Path, *arguments: str, check: bool) -> bool:
    command = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=None if check else subprocess.DEVNULL)
    if check and done.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return done.returncode == 0


def _say(text: str) -> None:
    print(f"[environment] {text}", file=sys.stderr, flush=True)


def run(python: Path, *arguments: str, packages: Sequence[str] = PACKAGES, extra_path: str = "", **environment: str) -> int:
    """Run `python arguments` with the sources of `packages` on its path; its exit status."""
    path = os.pathsep.join(part for part in (source_path(packages), extra_path) if part)
    env = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run([str(python), *arguments], cwd=ROOT, env=env).returncode
