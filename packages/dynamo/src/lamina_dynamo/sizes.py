"""What a capture knows of its symbolic sizes, for `explain`: every symbol, every condition on it, and what was made constant and why.

Between: the shape environment at the end of a conversion -> text and records for the user.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lamina_dynshape.support.errors import UserLocation

__all__ = ["Condition", "SizeReport", "SymbolReport", "size_report", "user_line"]


@dataclass(frozen=True)
class SymbolReport:
    """One symbol: its value at this call, the inputs it is read from, its range (inclusive, None: open), why it is symbolic."""

    name: str
    hint: int | None
    sources: tuple[str, ...]
    range: tuple[int | None, int | None]
    why: str

    def __str__(self) -> str:
        low, high = ("" if v is None else str(v) for v in self.range)
        where = " = ".join(self.sources) or "computed by the program"
        return f"{self.name} = {where}, {self.hint if self.hint is not None else 'unknown'} now, range {low}..{high}{f': {self.why}' if self.why else ''}"


@dataclass(frozen=True)
class Condition:
    """A condition over inputs, and the user's line that relied on it (None where no line did)."""

    text: str
    where: UserLocation | None

    def __str__(self) -> str:
        return f"{self.text}   at {self.where}" if self.where is not None else self.text


@dataclass(frozen=True)
class SizeReport:
    """Symbols, what the compiled entry checks of them, and sizes that could have been symbolic and are constants."""

    symbols: list[SymbolReport] = field(default_factory=list)
    guards: list[Condition] = field(default_factory=list)
    specialised: list[Condition] = field(default_factory=list)

    def lines(self) -> list[str]:
        """One line each, under a heading each."""
        out = []
        for title, rows in (("symbols", self.symbols), ("conditions on sizes", self.guards), ("made constant", self.specialised)):
            if rows:
                out += [f"  {title}:", *[f"    {row}" for row in rows]]
        return out


def user_line(stack: tuple[Any, ...]) -> UserLocation | None:
    """The innermost of the user's frames."""
    return UserLocation.of(stack[-1]) if stack else None


def size_report(env: Any, why: dict[str, str]) -> SizeReport:
    """The report on a shape environment; `why` says for each source of a number why it was made symbolic."""
    report = SizeReport()
    if env is None:
        return report
    for s, info in env.symbols.items():
        reasons = {why[source]: None for source in info.sources if source in why}
        report.symbols.append(SymbolReport(s.name, info.hint, tuple(info.sources), env.range_of(s), ", ".join(reasons)))
    for guard in env.guards:
        condition = Condition(guard.expr.text(env.source_of), user_line(guard.stack))
        constant = any(env.is_constant(s) for s in guard.expr.free_symbols)
        (report.specialised if constant else report.guards).append(condition)
    report.specialised.extend(Condition(f"{source} == {n}: {reason}", None) for source, n, reason in env.specialised)
    return report
