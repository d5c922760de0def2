"""The table of break reasons: every raise names a code in it, every code is raised somewhere, the page is up to date, messages carry it."""

import ast
import importlib.util
import re
from pathlib import Path

import lamina_dynamo
import pytest
import torch
from lamina_dynamo import capture
from lamina_dynamo.reasons import REASONS
from lamina_dynshape.support.errors import Unsupported

SOURCES = Path(lamina_dynamo.__file__).parent
TOOL = Path(__file__).resolve().parents[3] / "tools" / "graph_breaks.py"
RAISING = {"unsupported", "refusal", "_refuse", "_refused"}


def used_codes():
    """First argument of every refusing call, and of every (code, what, hint) triple that is passed on to one."""
    for path in SOURCES.rglob("*.py"):
        if path.name == "reasons.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in RAISING and node.args and isinstance(node.args[0], ast.Constant):
                yield node.args[0].value, path.name
            if isinstance(node, ast.Tuple) and len(node.elts) == 3 and all(isinstance(e, ast.Constant) and isinstance(e.value, str) for e in node.elts):
                if re.fullmatch(r"[a-z]+(-[a-z]+)*", node.elts[0].value) and " " in node.elts[2].value:
                    yield node.elts[0].value, path.name


def test_every_raise_names_a_code_of_the_table_and_every_code_is_raised():
    used = dict(used_codes())
    assert not {code: where for code, where in used.items() if code not in REASONS}
    assert not set(REASONS) - set(used)


@pytest.mark.parametrize("code", REASONS)
def test_reasons_are_complete(code):
    reason = REASONS[code]
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code)
    assert reason.meets and reason.remedy and (not reason.example or "\n->\n" in reason.example)


def test_the_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("graph_breaks", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PAGE.read_text() == tool.page(), "run python tools/graph_breaks.py"


def test_the_message_has_reason_place_remedy_and_code():
    def f(x):
        open(x.shape)
        return x + 1

    with pytest.raises(Unsupported) as error:
        capture(f, torch.ones(2))
    text = str(error.value)
    assert error.value.code == "io" and f"try:   {REASONS['io'].remedy}" in text and "code:  io" in text
    assert "test_reasons.py" in text and "open(x.shape)" in text
