"""Puts the fuzzers (`dynamo_fuzz`, a package beside the tests) on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
