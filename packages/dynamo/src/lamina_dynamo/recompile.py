"""Why a call missed the cache, and when to stop compiling.

Between: a miss -> log (`LAMINA_LOG=recompiles`), counters, and after the limit one warning that says what kept changing.
"""

from __future__ import annotations

import types
import warnings
from collections import Counter
from typing import Any, NamedTuple

from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.logs import enabled, log

from .guards import GuardFailure, GuardKind

__all__ = ["Miss", "note_miss", "over_limit"]

_HISTORY = 64  # misses remembered per code


class Miss(NamedTuple):
    """One call that no entry matched: the guard that failed in each entry, most recent entry first."""

    failures: tuple[GuardFailure, ...]

    def __str__(self) -> str:
        return "; ".join(map(str, self.failures))


def note_miss(cache: Any, slots: tuple[Any, ...], globals_: dict[str, Any], closure: Any) -> Miss | None:
    """Record why none of the entries matched; None for the first compilation."""
    failures = tuple(f for e in cache.entries if (f := e.program.explain_failure(slots, globals_, closure)) is not None)
    if not failures:
        return None
    miss = Miss(failures)
    cache.history.append(miss)
    del cache.history[:-_HISTORY]
    counters["recompiles"][_reason(failures[0])] += 1
    if enabled("recompiles"):
        lines = "".join(f"\n    entry {i}: {f}" for i, f in enumerate(failures))
        log("recompiles").debug("%s: no entry matches%s\n    try: %s", _where(cache.code), lines, _hint(failures[0]))
    return miss


def _reason(failure: GuardFailure) -> str:
    """Key of the counter: kind and source of the guard."""
    if failure.guard.kind in (GuardKind.SHAPE, GuardKind.GLOBAL_STATE):
        return failure.guard.kind.name.lower()
    return f"{failure.guard.kind.name.lower()} {failure.guard.source.name()}"


def over_limit(cache: Any, limit: int) -> bool:
    """Whether this code has been compiled often enough. Then misses run eagerly, and one warning has said why."""
    if len(cache.entries) < limit:
        return False
    cache.frozen = True
    if not cache.warned:
        cache.warned = True
        warnings.warn(_warning(cache, limit), RuntimeWarning, stacklevel=4)
    return True


def _where(code: types.CodeType) -> str:
    return f"{code.co_qualname} ({code.co_filename}:{code.co_firstlineno})"


def _warning(cache: Any, limit: int) -> str:
    latest = cache.history[-1].failures[0] if cache.history else None
    text = f"lamina compiled {_where(cache.code)} {limit} times (recompile_limit) and runs it eagerly from now on when nothing matches."
    if latest is None:
        return text
    often = Counter(str(m.failures[0].guard.source.name() if m.failures[0].guard.kind is not GuardKind.SHAPE else m.failures[0].guard) for m in cache.history)
    name, times = often.most_common(1)[0]
    return (
        f"{text}\n  last failing guard: {latest.guard}\n  expected: {latest.expected}\n  saw:      {latest.saw}\n  most often: {name} ({times} of {len(cache.history)} misses)\n"
        f"  try: {_hint(latest)}, or raise recompile_limit; LAMINA_LOG=recompiles shows every miss"
    )


def _hint(failure: GuardFailure) -> str:
    match failure.guard.kind:
        case GuardKind.TENSOR if str(failure.expected).partition("[")[0] != str(failure.saw).partition("[")[0]:
            return "pass tensors of one class and dtype"
        case GuardKind.TENSOR | GuardKind.SHAPE:
            return "dynamic=True or mark_dynamic for sizes that vary"
        case GuardKind.EQUALS | GuardKind.BOOL:
            return "pass the value as a tensor, or keep it constant"
        case GuardKind.ID | GuardKind.TYPE:
            return "pass the object that changes as an argument of one type, or create it once"
        case GuardKind.GLOBAL_STATE:
            return "call under the same grad mode, autocast and modes"
    return "keep it constant between calls"
