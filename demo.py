#!/usr/bin/env python3
"""The demo: installs what it needs into `.venv`, then compiles real models and shows eager against lamina.

    python demo.py                      ResNet-18, BERT and GPT-2: inference and a training step
    python demo.py --all                eight models
    python demo.py --peer               torch.compile in the same process, timed in turn
    python demo.py my_file:my_model     your own: a function that returns (module, args) or (module, args, kwargs)
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

if __name__ == "__main__":
    import environment

    extra = str(ROOT)
    sys.exit(environment.run(environment.ensure(("models",)), "-m", "integration.demo", *sys.argv[1:], extra_path=extra))
