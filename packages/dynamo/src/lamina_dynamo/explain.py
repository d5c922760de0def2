"""`explain(fn)(*args)`: what was captured, where it broke and why."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from lamina_dynshape.support.errors import Unsupported

from .convert import Converted, listening
from .runtime import optimize
from .sizes import SizeReport

__all__ = ["Explanation", "explain"]


@dataclass
class Explanation:
    """The captures of one call, in order."""

    graphs: list[Any] = field(default_factory=list)
    break_reasons: list[Unsupported] = field(default_factory=list)
    guards: list[Any] = field(default_factory=list)
    sizes: list[SizeReport] = field(default_factory=list)
    result: Any = None

    @property
    def graph_count(self) -> int:
        return len(self.graphs)

    @property
    def graph_break_count(self) -> int:
        return len(self.break_reasons)

    @property
    def ops(self) -> list[Any]:
        """Targets of every call, in order."""
        return [n.target for gm in self.graphs for n in gm.graph.nodes if n.op.startswith("call")]

    def __str__(self) -> str:
        lines = [f"{self.graph_count} graphs, {self.graph_break_count} graph breaks, {len(self.ops)} operations, {len(self.guards)} guards"]
        for i, gm in enumerate(self.graphs):
            calls = [n for n in gm.graph.nodes if n.op.startswith("call")]
            where = str(calls[0].meta["stack"][-1]) if calls and calls[0].meta.get("stack") else ""
            lines.append(f"  graph {i}: {len(calls)} operations, from {where}")
        for report in self.sizes:
            lines += report.lines()
        for r in self.break_reasons:
            lines += ["", *str(r).splitlines()]
        return "\n".join(lines)


def explain(fn: Any, **settings: Any) -> Any:
    """A function that calls `fn` once, captured by a backend that runs the graphs as they are, and returns an `Explanation`."""

    @functools.wraps(getattr(fn, "forward", fn), assigned=())
    def explained(*args: Any, **kwargs: Any) -> Explanation:
        out = Explanation()

        def listen(event: Any) -> None:
            if isinstance(event, Converted):
                if event.graph_module is not None:
                    out.graphs.append(event.graph_module)
                out.guards += event.guards
                out.sizes.append(event.sizes)
                event = event.break_reason
            if event is not None:
                out.break_reasons.append(event)

        with listening(listen):
            out.result = optimize(fn, lambda gm, ex: gm.forward, **settings)(*args, **kwargs)
        return out

    return explained
