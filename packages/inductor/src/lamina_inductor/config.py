"""Settings of the C++ back end."""

from __future__ import annotations

from dataclasses import dataclass

from lamina_dynshape.support.settings import Settings

__all__ = ["Config", "config"]


@dataclass
class Config(Settings):
    """See each field; patch with `config.patch(name=value)`."""

    max_inline_loads: int = 12              # reads that one loop body may grow to by inlining
    max_inline_cost: float = 300.0          # cycles per point, likewise
    parallel_cycles: float = 20_000.0       # work below this runs on one thread
    fusion: bool = True
    threads_hint: int = 2                   # threads that loop shapes are chosen for; any number runs
    row_buffer_bytes: int = 64 * 1024       # largest value kept on the stack between the loops of one row
    profile: bool = False                   # time each kernel and print the sums at the end of the process
    cache: bool = True                      # graph-level cache on disk


config = Config()
