"""Counts of what the compiler did: `counters[group][key] += n`.

Groups: frames, graphs, graph_breaks, recompiles, kernels, fallbacks, cache, fake. A key is any string; a missing one counts 0.
"""

from __future__ import annotations

from collections import Counter

__all__ = ["GROUPS", "Counters", "counters"]

GROUPS = ("frames", "graphs", "graph_breaks", "recompiles", "kernels", "fallbacks", "cache", "fake")


class Counters(dict[str, "Counter[str]"]):
    """Group name -> Counter; groups are made on first use."""

    def __missing__(self, group: str) -> Counter[str]:
        made: Counter[str] = Counter()
        self[group] = made
        return made

    def clear(self) -> None:
        """Empty every group in place: a group that somebody holds stays the live one."""
        for group in self.values():
            group.clear()

    def snapshot(self) -> dict[str, dict[str, int]]:
        """A plain copy without the empty groups."""
        return {group: dict(count) for group, count in self.items() if count}

    def total(self, group: str) -> int:
        """Sum over the keys of a group."""
        return sum(self[group].values())


counters = Counters()
for _group in GROUPS:
    counters[_group]
