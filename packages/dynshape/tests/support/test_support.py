"""Errors, counters, settings, timers, logs, paths."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass

import pytest

from lamina_dynshape.support import logs, paths, timers
from lamina_dynshape.support.counters import Counters
from lamina_dynshape.support.errors import CompilerError, InternalError, LaminaError, Unsupported, UserLocation, VerifyError
from lamina_dynshape.support.errors import UserError as SupportUserError
from lamina_dynshape.support.settings import Settings
from lamina_dynshape.support.verifylevel import strict, verify_level


def test_unsupported_says_what_where_saw_and_hint():
    error = Unsupported(
        "data-dependent branch", where=UserLocation("model.py", 41, "forward", "    if x.sum() > 0:"), saw="Tensor float32[]", hint="torch.where"
    )
    text = str(error)
    assert text.splitlines()[0] == "not supported: data-dependent branch"
    assert "at model.py:41 in forward:   if x.sum() > 0" in text
    assert "saw:   Tensor float32[]" in text and "try:   torch.where" in text
    assert error.code == "data_dependent_branch"


def test_errors_survive_pickle_and_form_one_tree():
    error = pickle.loads(pickle.dumps(Unsupported("a b", saw="c", code="k")))
    assert (error.what, error.saw, error.code) == ("a b", "c", "k")
    error = pickle.loads(pickle.dumps(CompilerError("no", command="g++", log="l")))
    assert (error.command, error.log) == ("g++", "l") and "g++" in str(error)
    assert issubclass(VerifyError, InternalError) and issubclass(InternalError, LaminaError)


def test_counters_count_and_clear_in_place():
    c = Counters()
    held = c["graphs"]
    c["graphs"]["unique"] += 2
    assert c.snapshot() == {"graphs": {"unique": 2}} and c.total("graphs") == 2
    c.clear()
    assert c["graphs"] is held and c.snapshot() == {}
    assert c["graphs"]["absent"] == 0


@dataclass
class _Config(Settings):
    limit: int = 8
    mode: str | None = None
    scale: float = 1.0


def test_settings_patch_restores_and_checks():
    config = _Config()
    with config.patch(limit=2, mode="x"):
        assert (config.limit, config.mode) == (2, "x")
    assert (config.limit, config.mode) == (8, None)
    with pytest.raises(ValueError), config.patch(limit=3):
        raise ValueError
    assert config.limit == 8
    config.scale = 2
    for bad in ({"limits": 1}, {"limit": "x"}, {"limit": True}, {"mode": 3}):
        with pytest.raises(SupportUserError) as caught, config.patch(**bad):
            pass
        assert next(iter(bad)) in str(caught.value)
    with pytest.raises(SupportUserError, match="limit, mode, scale"):
        config.nothing = 1


def test_stages_are_exclusive(monkeypatch):
    clock = iter([0.0, 1.0, 4.0, 6.0])
    monkeypatch.setattr(timers.time, "perf_counter", lambda: next(clock))
    timers.clear_stages()
    with timers.stage("outer"), timers.stage("inner"):
        pass
    assert timers.stage_seconds() == {"outer": 1.0 + 2.0, "inner": 3.0}
    timers.clear_stages()
    assert timers.stage_seconds() == {}


def test_logs_by_topic(monkeypatch, capsys):
    monkeypatch.setenv("LAMINA_LOG", "guards")
    assert logs.enabled("guards") and not logs.enabled("graph")
    monkeypatch.setenv("LAMINA_LOG", "")
    logs.log("guards")
    assert not logs.enabled("guards")


def test_artifacts_are_numbered_files(monkeypatch, tmp_path):
    monkeypatch.delenv("LAMINA_DEBUG_DIR", raising=False)
    assert logs.artifact("01_torch.py", "x") is None
    monkeypatch.setenv("LAMINA_DEBUG_DIR", str(tmp_path))
    folder = logs.new_compilation("my fn")
    first = logs.artifact("01_torch.py", "x = 1")
    second = logs.artifact("01_torch.py", lambda: "x = 2")
    assert first.parent.name == folder and folder.endswith("_my_fn")
    assert (first.read_text(), second.read_text()) == ("x = 1", "x = 2") and second.name == "01_torch.2.py"
    monkeypatch.setenv("LAMINA_DEBUG_DIR", "/proc/nothing")
    assert logs.artifact("01_torch.py", "x") is None


def test_cache_dir_follows_the_environment_and_falls_back(monkeypatch, tmp_path):
    monkeypatch.setenv("LAMINA_CACHE_DIR", str(tmp_path / "a"))
    assert paths.cache_dir("so") == tmp_path / "a" / "so"
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    for bad in (blocked, "/proc/nothing"):
        monkeypatch.setenv("LAMINA_CACHE_DIR", str(bad))
        folder = paths.cache_dir("so")
        assert folder.is_dir() and os.access(folder, os.W_OK) and str(bad) not in str(folder)
    assert paths.cache_dir("so") == folder  # one private folder per process


def test_write_atomic_leaves_nothing_half_done(tmp_path, monkeypatch):
    target = tmp_path / "t"
    paths.write_atomic(target, b"one")
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError):
        paths.write_atomic(target, b"two")
    assert target.read_bytes() == b"one" and [p.name for p in tmp_path.iterdir()] == ["t"]


def test_verify_level_and_strict(monkeypatch):
    for text, level in (("", 0), ("0", 0), ("2", 2), ("x", 0)):
        monkeypatch.setenv("LAMINA_VERIFY", text)
        assert verify_level() == level
    monkeypatch.setenv("LAMINA_STRICT", "1")
    assert strict()
    monkeypatch.setenv("LAMINA_STRICT", "0")
    assert not strict()


def test_reports_are_written_and_warned_about(monkeypatch, tmp_path):
    from lamina_dynshape.support.reports import describe_inputs, report_failure

    for folder in (str(tmp_path), "/proc/nothing"):
        monkeypatch.setenv("LAMINA_CACHE_DIR", folder)
        with pytest.warns(RuntimeWarning, match="in a test .ValueError: v.*Report: (.*)") as caught:
            report_failure("in a test", ValueError("v"), {"inputs": describe_inputs([3, "secret"], ["n"])})
        text = open(str(caught[0].message).split("Report: ")[1]).read()
        assert "ValueError: v" in text and "n: int 3" in text and "secret" not in text
