"""Puts the fuzzers (`dynamo_fuzz`, a package beside the tests) on the path; errors of the compiler itself are raised."""

import os
import sys
from pathlib import Path

os.environ.setdefault("LAMINA_STRICT", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))
