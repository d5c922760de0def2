#!/usr/bin/env python3
"""All tests: installs what they need into `.venv`, then runs the suite of each package and the integration suite.

    python run_tests.py                 everything
    python run_tests.py dynshape lint   some of: lint, dynshape, primops, dynamo, aotgrad, inductor, lamina, integration
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

if __name__ == "__main__":
    import environment

    python = environment.ensure(("models", "test", "lint"))
    sys.exit(environment.run(python, "tools/checks.py", *sys.argv[1:]))
