"""Each test starts without compiled code; errors of the compiler are raised, graphs are verified."""

from __future__ import annotations

import zlib

import pytest


@pytest.fixture(autouse=True)
def clean_state(request, monkeypatch):
    monkeypatch.setenv("LAMINA_STRICT", "1")
    monkeypatch.setenv("LAMINA_VERIFY", "1")
    import torch

    import lamina

    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))
    lamina.reset()
    lamina.counters.clear()
    yield
    lamina.reset()


@pytest.fixture
def no_strict(monkeypatch):
    monkeypatch.delenv("LAMINA_STRICT")
