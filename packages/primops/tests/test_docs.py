"""The generated page of operator sets is up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_opsets_page_is_up_to_date():
    if not (ROOT / "tools" / "opsets.py").exists():
        pytest.skip("not in the repository")
    done = subprocess.run([sys.executable, str(ROOT / "tools" / "opsets.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"run `python tools/opsets.py`\n{done.stderr}"
