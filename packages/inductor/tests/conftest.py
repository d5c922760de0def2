import hashlib
import os
import sys
from pathlib import Path

import pytest
import torch

os.environ.setdefault("LAMINA_VERIFY", "1")
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _seed(request):
    """Seed from the test's name."""
    torch.manual_seed(int(hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8], 16))
