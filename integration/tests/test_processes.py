"""What only a fresh process shows: nothing of the reference stack is loaded, caches are shared, kills are survived."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys, torch, lamina
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4), nn.Dropout(0.1))
x = torch.randn(2, 3, 6, 6)
eager = model.eval()(x)
fast = lamina.compile(model)
with torch.no_grad():
    torch.testing.assert_close(fast(x), eager, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast(x), eager, rtol=1e-4, atol=1e-5)
"""


def environment(cache):
    path = os.pathsep.join([*(str(p) for p in ROOT.glob("packages/*/src")), str(ROOT)])
    return {**os.environ, "LAMINA_CACHE_DIR": str(cache), "LAMINA_STRICT": "1", "PYTHONPATH": path}


def run(code, cache, **kwargs):
    return subprocess.run([sys.executable, "-c", code], env=environment(cache), capture_output=True, text=True, timeout=240, **kwargs)


def test_nothing_of_the_reference_stack_is_loaded(tmp_path):
    code = PROGRAM + """
model.train()
loaded = lambda: [m for m in sys.modules if m.startswith(("torch._dynamo", "torch._inductor"))]
out = fast(torch.randn(2, 3, 6, 6))
assert out.requires_grad and not loaded(), loaded()[:5]
# the user's own call of .backward() is PyTorch's and loads what it likes; ours must not
torch.autograd.Variable._execution_engine.run_backward((out,), (torch.ones_like(out),), False, False, (), True, accumulate_grad=True)
assert model[0].weight.grad is not None
assert not loaded(), loaded()[:5]
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_two_processes_compile_the_same_at_once_and_a_third_starts_warm(tmp_path):
    running = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment(tmp_path), stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in running:
        assert process.wait(240) == 0, process.stderr.read()[-2000:]
    code = PROGRAM + "\ncounts = lamina.counters['cache']\nassert counts['so_miss'] == 0 and counts['so_hit'] > 0, dict(counts)"
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("after_s", [0.05, 0.4])
def test_killed_while_the_cache_is_written(tmp_path, after_s):
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment(tmp_path), start_new_session=True)
    deadline = time.monotonic() + 120
    while not any(tmp_path.rglob("*.tmp")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = run(PROGRAM, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_full_disk(tmp_path):
    """A file size limit stands for the full disk: every write past it fails, inside the compiler too."""
    code = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
    code += PROGRAM.replace("lamina.compile(model)", "lamina.compile(model, options={'fallback': True})")
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_torch_compile_entry_point(tmp_path):
    code = """
import torch, lamina.torch_backend
from torch import nn
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
fast = torch.compile(model, backend=lamina.torch_backend.lamina)
for batch in (3, 5, 6):
    x = torch.randn(batch, 4)
    torch.testing.assert_close(fast(x), model(x))
    grads = []
    for call in (model, fast):
        model.zero_grad()
        call(x).pow(2).sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(grads[1], grads[0])
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
