"""Shared set-up: verification on, warnings quiet only where PyTorch itself makes them, one thread."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("LAMINA_VERIFY", "1")
sys.path.insert(0, str(Path(__file__).parent))  # for `sweep` and `helpers`

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded(request):
    torch.manual_seed(sum(map(ord, request.node.name)))
    yield
