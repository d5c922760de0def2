"""Each test starts without compiled code and with the settings as they are by default."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def clean_state(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("LAMINA_STRICT", "1")
    monkeypatch.setenv("LAMINA_VERIFY", "1")
    import torch

    import lamina

    torch.manual_seed(0)
    before = {name: getattr(lamina.config, name) for name in lamina.config.names()}
    lamina.counters.clear()
    yield
    lamina.reset()
    assert before == {name: getattr(lamina.config, name) for name in lamina.config.names()}, "a test changed lamina.config"
