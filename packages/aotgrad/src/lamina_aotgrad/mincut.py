"""Smallest vertex cut of a small flow network: Dinic's algorithm on arrays.

Source: Dinic 1970; max-flow min-cut, Ford and Fulkerson 1956. O(V^2 E), near linear on the shallow graphs of a partition.
"""

from __future__ import annotations

from collections import deque

__all__ = ["INFINITE", "FlowNetwork"]

INFINITE = 1 << 60


class FlowNetwork:
    """Directed network of integer capacities; edge `e` and its reverse are `e` and `e ^ 1`."""

    def __init__(self, vertices: int) -> None:
        self._edges_of: list[list[int]] = [[] for _ in range(vertices)]
        self._head: list[int] = []
        self._room: list[int] = []

    def add_edge(self, tail: int, head: int, capacity: int) -> int:
        """Add an edge; its number."""
        number = len(self._head)
        self._head += (head, tail)
        self._room += (capacity, 0)
        self._edges_of[tail].append(number)
        self._edges_of[head].append(number + 1)
        return number

    def max_flow(self, source: int, sink: int) -> int:
        """Push as much as fits from `source` to `sink`; the amount, at least INFINITE when no finite cut exists."""
        total = 0
        while (levels := self._levels(source, sink))[sink] >= 0:
            pushed = self._blocking_flow(source, sink, levels)
            total += pushed
            if total >= INFINITE:
                return total
        return total

    def sink_side(self, sink: int) -> list[bool]:
        """After `max_flow`: which vertices still reach the sink. Its border is the minimum cut nearest the sink."""
        seen = [False] * len(self._edges_of)
        seen[sink] = True
        queue = deque([sink])
        while queue:
            v = queue.popleft()
            for e in self._edges_of[v]:
                tail = self._head[e]  # the reverse of e enters v from here
                if self._room[e ^ 1] and not seen[tail]:
                    seen[tail] = True
                    queue.append(tail)
        return seen

    def _levels(self, source: int, sink: int) -> list[int]:
        """Breadth-first distance from the source over edges with room; -1 where there is none."""
        head, room = self._head, self._room
        levels = [-1] * len(self._edges_of)
        levels[source] = 0
        queue = deque([source])
        while queue:
            v = queue.popleft()
            below = levels[v] + 1
            for e in self._edges_of[v]:
                if room[e] and levels[head[e]] < 0:
                    levels[head[e]] = below
                    queue.append(head[e])
        return levels

    def _blocking_flow(self, source: int, sink: int, levels: list[int]) -> int:
        """Saturate the level graph with depth-first paths (iterative: graphs are deeper than Python's stack)."""
        head, room, edges_of = self._head, self._room, self._edges_of
        at = [0] * len(edges_of)
        total = 0
        path: list[int] = []
        v = source
        while True:
            if v == sink:
                amount = min(room[e] for e in path)
                total += amount
                if total >= INFINITE:
                    return total
                first_full = -1
                for i, e in enumerate(path):
                    room[e] -= amount
                    room[e ^ 1] += amount
                    if first_full < 0 and not room[e]:
                        first_full = i
                v = head[path[first_full] ^ 1]
                del path[first_full:]
                continue
            edges = edges_of[v]
            while at[v] < len(edges):
                e = edges[at[v]]
                if room[e] and levels[head[e]] == levels[v] + 1:
                    break
                at[v] += 1
            else:
                if v == source:
                    return total
                levels[v] = -1
                v = head[path.pop() ^ 1]
                continue
            path.append(e)
            v = head[e]
