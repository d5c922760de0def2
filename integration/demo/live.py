"""The live table: redrawn in place on a terminal, one line per finished row elsewhere."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Sequence
from typing import TextIO

from integration.demo.measure import Row

__all__ = ["LiveTable"]

_SPINNER = "|/-\\"


class LiveTable:
    """Shows rows while they are measured: a thread keeps the clock of the running one moving."""

    def __init__(self, rows: Sequence[Row], *, peer: bool, out: TextIO = sys.stdout) -> None:
        self.rows = list(rows)
        self.peer = peer
        self.out = out
        self.live = out.isatty()
        self._drawn = 0
        self._lock = threading.Lock()
        self._since: dict[int, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> LiveTable:
        if self.live:
            self._thread.start()
        else:
            self.out.write("\n".join(self._header()) + "\n")
            self.out.flush()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self.live:
            self._thread.join()
            self._draw()
        self.out.write("\n".join(self._footer()) + "\n")
        self.out.flush()

    def update(self, index: int, row: Row) -> None:
        """Show a new state of row `index`."""
        with self._lock:
            self.rows[index] = row
            if self._since.get(index, ("", 0.0))[0] != row.state:
                self._since[index] = (row.state, time.monotonic())
        if self.live:
            self._draw()
        elif row.state == "done":
            self.out.write(self._line(index) + "\n")
            self.out.flush()
        elif row.state.startswith("compiling"):
            self.out.write(f"  ... {row.case.model} {row.case.kind}: {row.state}\n")
            self.out.flush()

    def _tick(self) -> None:
        while not self._stop.wait(0.2):
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            lines = [*self._header(), *(self._line(index) for index in range(len(self.rows)))]
            up = f"\x1b[{self._drawn}F" if self._drawn else ""
            self.out.write(up + "".join(f"\x1b[2K{line}\n" for line in lines))
            self.out.flush()
            self._drawn = len(lines)

    def _header(self) -> list[str]:
        peer = f"{'torch.compile':>14}{'ratio':>8}{'compile':>9}" if self.peer else ""
        title = f"{'model':<24}{'step':<11}{'eager':>10}{'lamina':>10}{'ratio':>8}{'compile':>9}{'graphs':>8}{peer}  result"
        return [title, "-" * (len(title) + 12)]

    def _line(self, index: int) -> str:
        row = self.rows[index]
        start = f"{row.case.model:<24}{row.case.kind:<11}"
        if row.state != "done":
            state, since = self._since.get(index, (row.state, time.monotonic()))
            seconds = time.monotonic() - since
            spin = _SPINNER[int(time.monotonic() * 5) % 4] if state != "waiting" else " "
            return f"{start} {spin} {state}" + (f" {seconds:.0f} s" if state != "waiting" else "")
        cells = f"{_ms(row, 'eager'):>10}{_ms(row, 'lamina'):>10}{_ratio(row, 'lamina'):>8}{_compile(row, 'lamina'):>9}"
        graphs = "-" if row.graphs is None else f"{row.graphs}" + (f"+{row.breaks}b" if row.breaks else "")
        peer = f"{_ms(row, 'torch.compile'):>14}{_ratio(row, 'torch.compile'):>8}{_compile(row, 'torch.compile'):>9}" if self.peer else ""
        return f"{start}{cells}{graphs:>8}{peer}  {row.verdict}"

    def _footer(self) -> list[str]:
        lines = [""]
        for name in ("lamina", *(("torch.compile",) if self.peer else ())):
            for kind in ("inference", "training"):
                ratios = [r for row in self.rows if row.case.kind == kind and (r := row.ratio(name))]
                if ratios:
                    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
                    lines.append(f"{name}, {kind}: geometric mean {mean:.2f} times eager over {len(ratios)} models")
        return lines


def _ms(row: Row, name: str) -> str:
    return f"{row.times_ms[name]:.1f} ms" if name in row.times_ms else "-"


def _ratio(row: Row, name: str) -> str:
    ratio = row.ratio(name)
    return f"{ratio:.2f}x" if ratio else "-"


def _compile(row: Row, name: str) -> str:
    return f"{row.compile_s[name]:.1f} s" if name in row.compile_s else "-"
