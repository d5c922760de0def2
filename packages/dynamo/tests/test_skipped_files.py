"""Whose frames the hook leaves alone: PyTorch's, the standard library's and those of every package of the stack, wherever it lies."""

import importlib.util
from pathlib import Path

import pytest
import torch
from lamina_dynamo.eval_frame import _is_skipped_file

OWN = ["lamina_dynamo", "lamina_dynshape", "lamina_primops", "lamina_aotgrad", "lamina_inductor", "lamina"]


@pytest.mark.parametrize("name", [n for n in OWN if importlib.util.find_spec(n)])
def test_own_packages_are_left_alone(name):
    assert _is_skipped_file(str(Path(importlib.util.find_spec(name).origin).parent / "anything.py"))


def test_others():
    assert _is_skipped_file(torch.nn.functional.__file__) and _is_skipped_file("<lamina replacement>") and _is_skipped_file(importlib.util.__file__)
    assert not _is_skipped_file(__file__) and not _is_skipped_file(pytest.__file__)
