"""The eight models in the zoo's harness (`../shared/zoo/bench.py`) next to torch.compile: `python -m integration.bench [bench.py options]`.

Without options: inference, cold and warm compile times, the table at the end. Examples:

    python -m integration.bench --what train --impl eager,torch,lamina
    python -m integration.bench --what overhead
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENTRIES = ROOT / "integration" / "zoo_eight.py"


def harness() -> Path:
    """The harness beside the checkout, or the one that LAMINA_ZOO names."""
    folder = Path(os.environ.get("LAMINA_ZOO", ROOT.parent / "shared" / "zoo"))
    if not (folder / "bench.py").exists():
        raise SystemExit(f"no bench.py in {folder}: set LAMINA_ZOO to the folder of the zoo")
    return folder / "bench.py"


def main(arguments: list[str]) -> int:
    """Run the harness on the eight models."""
    given = arguments or ["--what", "infer", "--impl", "eager,torch,lamina", "--warm"]
    entries = [] if "--entries" in given else ["--entries", str(ENTRIES)]
    return subprocess.run([sys.executable, str(harness()), *entries, *given]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
