"""Shared set-up: verification on, warnings quiet only where PyTorch itself makes them, one thread."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("LAMINA_VERIFY", "1")
sys.path.insert(0, str(Path(__file__).parent))  # for `sweep` and `helpers`

import pytest
import torch


torch.set_num_threads(1)  # tests are many and small, and several workers share the machine


@pytest.fixture(autouse=True)
def _seeded(request):
    torch.manual_seed(sum(map(ord, request.node.name)))
    yield


def pytest_collection_modifyitems(config, items):
    """Slow tests run when `-m` asks for them."""
    if "slow" not in config.getoption("-m", default=""):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: run with -m slow"))
