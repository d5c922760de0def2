"""The generated page of operator sets is up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]


def test_opsets_page_is_up_to_date():
    if not (ROOT / "tools" / "opsets.py").exists():
        pytest.skip("not in the repository")
    if f"torch=={torch.__version__.partition('+')[0]}\n" not in (ROOT / "constraints.txt").read_text():
        pytest.skip("the page lists the operators of the torch in constraints.txt")
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "opsets.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"run `python tools/opsets.py`\n{done.stderr}"
