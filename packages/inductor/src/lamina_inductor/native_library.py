"""A C++ library of ours that generated code links with: built once per machine, in the background while a graph is lowered.

Keeps:   `path()` returns a built library or raises what building it raised; building starts at most once per process and cache folder.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path

from lamina_dynshape.support.paths import cache_root
from lamina_dynshape.support.toolchain import compile_shared

__all__ = ["NativeLibrary"]

_FLAGS = ("-O3", "-std=c++17", "-march=native", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-exceptions", "-fno-rtti")


class NativeLibrary:
    """`sources` are files beside `anchor`, compiled as one translation unit."""

    def __init__(self, name: str, anchor: str, *sources: str) -> None:
        self.name, self._files = name, [Path(anchor).with_name(s) for s in sources]
        self._lock = threading.Lock()
        self._building: dict[str, Future[str]] = {}

    @cached_property
    def source(self) -> str:
        return "".join(f.read_text() for f in self._files)

    def prefetch(self) -> None:
        """Start building, if the library is not built and nothing builds it."""
        with self._lock:
            where = str(cache_root())
            if where in self._building:
                return
            future: Future[str] = Future()
            self._building[where] = future
        threading.Thread(target=self._build, args=(future,), name=f"build {self.name}", daemon=True).start()

    def path(self) -> str:
        """Absolute path; waits for a build under way. A file that has been deleted since is built again."""
        with self._lock:
            future = self._building.pop(str(cache_root()), None)
        if future is not None:
            future.result()
        return self._compile()

    def _compile(self) -> str:
        return str(compile_shared(self.source, name=self.name, flags=_FLAGS))

    def _build(self, future: Future[str]) -> None:
        try:
            future.set_result(self._compile())
        except BaseException as error:  # noqa: BLE001  (handed to the thread that waits)
            future.set_exception(error)
