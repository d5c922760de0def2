"""The repository's own tools: import rules, table of modules, comparison, models."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from integration import models
from integration.compare import compare, flatten

ROOT = Path(__file__).resolve().parents[2]


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("source", "package", "said"),
    [
        ("import torch._dynamo", "lamina_dynamo", "reference stack"),
        ("def f():\n    from torch._inductor import lowering", "lamina_inductor", "reference stack"),
        ("from torch import export", "lamina_dynamo", "reference stack"),
        ("import torch\ntorch._dynamo.reset()", "lamina", "reference stack"),
        ("import importlib\nimportlib.import_module('torch._decomp')", "lamina_primops", "reference stack"),
        ("import lamina_inductor", "lamina_dynamo", "may not import"),
        ("from lamina_dynamo import guards", "lamina_dynshape", "may not import"),
        ("import pandas", "lamina_dynshape", "does not depend"),
    ],
)
def test_import_rules_reject(source, package, said):
    found = tool("check_imports").problems(source, package)
    assert found and said in found[0][1]


def test_import_rules_accept():
    check = tool("check_imports")
    assert check.problems("import torch, os\nfrom lamina_dynshape import x\nNAMES = {'torch._dynamo.mark_dynamic'}", "lamina_dynamo") == []


def test_the_repository_holds_the_import_rules():
    done = subprocess.run([sys.executable, "tools/check_imports.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_table_of_modules(tmp_path, monkeypatch):
    count = tool("count_lines")
    monkeypatch.setattr(count, "TABLE", tmp_path / "modules.md")
    monkeypatch.setattr(count, "ROOT", ROOT)
    count.TABLE.write_text(count.table())
    assert count.check() == []
    assert "lamina/api.py" in count.table() and "`lamina.compile`" in count.table()
    count.TABLE.write_text(count.table().replace("| `lamina/api.py` |", "| `lamina/gone.py` |"))
    assert any("api.py" in line for line in count.check()) and any("gone.py" in line for line in count.check())


def test_compare_uses_the_error_of_eager_as_measure():
    exact = torch.randn(100, dtype=torch.float64)
    eager = (exact + 1e-4 * torch.randn(100, dtype=torch.float64)).float()
    assert compare(eager, eager, exact) is None
    assert compare((exact - 1e-4).float(), eager, exact) is None
    assert "error" in compare((exact + 0.1).float(), eager, exact)
    assert "eager" in compare(eager.double(), eager, exact)
    assert "other outputs" in compare({"a": eager}, {"b": eager}, {"b": exact})
    holes = eager.clone()
    holes[3] = float("nan")
    assert "NaN" in compare(holes, eager, exact)
    assert list(flatten({"a": [eager, (eager,)]})) == ["out.a.0", "out.a.1.0"]


@pytest.mark.parametrize("name", models.EIGHT)
def test_models_are_the_same_at_every_build(name):
    first, second = models.build(name), models.build(name)
    assert all(torch.equal(a, b) for a, b in zip(first.module.state_dict().values(), second.module.state_dict().values(), strict=True))
    assert not first.module.training and models.build(name, train=True).module.training


def test_user_models(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("import torch\ndef make():\n    return torch.nn.Linear(3, 2), (torch.ones(1, 3),)\n")
    built = models.load_user_model(f"{path}:make")
    assert built().shape == (1, 2)
    with pytest.raises(SystemExit, match="no function 'nothing'"):
        models.load_user_model(f"{path}:nothing")
    with pytest.raises(SystemExit, match="cannot import"):
        models.load_user_model("no_such_module_here:f")
