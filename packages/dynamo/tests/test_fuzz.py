"""Short seeded runs of the fuzzers; `nox -s fuzz` makes the long ones."""

import pytest
import torch
from dynamo_fuzz import breaks, mutations, programs
from dynamo_fuzz.features import features
from hypothesis import HealthCheck, Phase, given, seed, settings
from lamina_dynamo import optimize, reset

pytestmark = pytest.mark.filterwarnings("ignore")
FEATURES = list(features())


@pytest.mark.parametrize("part", range(8))
def test_a_break_anywhere_follows_eager(part):
    """One break in each eighth feature, at an instruction that its number picks; the stride of the long run is 1."""
    for number, feature in enumerate(FEATURES[part::8]):
        want = breaks.eager(feature)
        for code in breaks.code_objects(feature.fn):
            at = (31 * number + 7) % breaks.length(code)
            assert breaks.run_with_breaks(feature, code, {at}, want) is None, (feature.name, code.co_qualname, at)


def test_breaks_at_all_instructions_at_once():
    """Every instruction of its own."""
    for feature in FEATURES[::40]:
        code = feature.fn.__code__
        assert breaks.run_with_breaks(feature, code, set(range(breaks.length(code))), breaks.eager(feature)) is None, feature.name


@seed(1)
@settings(max_examples=25, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(programs.programs())
def test_generated_programs_follow_eager(text):
    found = programs.difference(text)
    assert found is None, f"{text[len(programs.PRELUDE):]}\n{found}"


def test_compiled_follows_changes_between_calls():
    failures = []
    mutations.run_many(200, 1, failures.append)
    assert not failures, [(f.changes, f.difference) for f in failures]


class Counted(ValueError):
    def __init__(self, message, n=2):
        super().__init__(message)
        self.n = n


def _make_counted(x):
    return x + Counted("m", n=3).n


def test_a_break_anywhere_in_a_super_call_follows_eager():
    code, want = Counted.__init__.__code__, _make_counted(torch.ones(2))
    for at in range(breaks.length(code)):
        with breaks.breaking_at(code, {at}):
            assert torch.equal(optimize(_make_counted, lambda gm, example_inputs: gm.forward)(torch.ones(2)), want), at
        reset()
