"""Debug output by topic, through `logging`.

`LAMINA_LOG=graph_breaks,guards` (or `all`) prints these topics to stderr. `LAMINA_DEBUG_DIR` makes each compilation write
numbered files in stage order (`00_bytecode.txt 01_torch.py ...`) into a folder of its own below it.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

__all__ = ["TOPICS", "artifact", "artifacts_wanted", "enabled", "log", "new_compilation"]

TOPICS = ("graph", "guards", "recompiles", "graph_breaks", "bytecode", "aot", "schedule", "output_code", "cache", "timing")

_lock = threading.Lock()
_count = 0
_current = "0000"


@cache
def _configured(text: str) -> frozenset[str]:
    """Set the loggers up for one value of `LAMINA_LOG`; the topics that it turns on."""
    wanted = {topic.strip() for topic in text.split(",") if topic.strip()}
    root = logging.getLogger("lamina")
    for unknown in sorted(wanted - set(TOPICS) - {"all"}):
        root.warning("LAMINA_LOG: unknown topic %r; valid: all, %s", unknown, ", ".join(TOPICS))
    on = frozenset(TOPICS) if "all" in wanted else frozenset(wanted & set(TOPICS))
    if on and not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("[%(name)s] %(message)s"))
        root.addHandler(handler)
        root.propagate = False
    for topic in TOPICS:
        logging.getLogger(f"lamina.{topic}").setLevel(logging.DEBUG if topic in on else logging.NOTSET)
    return on


def log(topic: str) -> logging.Logger:
    """The logger of a topic (`lamina.<topic>`)."""
    _configured(os.environ.get("LAMINA_LOG", ""))
    return logging.getLogger(f"lamina.{topic}")


def enabled(topic: str) -> bool:
    """Whether debug output of `topic` is wanted: ask before making an expensive text."""
    text = os.environ.get("LAMINA_LOG")
    if text and topic in _configured(text):
        return True
    return logging.getLogger(f"lamina.{topic}").isEnabledFor(logging.DEBUG)


def artifacts_wanted() -> bool:
    """Whether `LAMINA_DEBUG_DIR` is set: ask before making an expensive text."""
    return bool(os.environ.get("LAMINA_DEBUG_DIR"))


def new_compilation(name: str) -> str:
    """Start the folder of the next compilation (`0003_forward`) for `artifact`; its name."""
    global _count, _current
    with _lock:
        _count += 1
        _current = f"{_count:04d}_" + re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:60]
        return _current


def artifact(stem: str, text: str | Callable[[], str]) -> Path | None:
    """Write `stem` (`03_aten_joint.py`) into the folder of this compilation; None without `LAMINA_DEBUG_DIR`.

    `text` may be a function, called only when it is wanted. A second file of the same name gets a number.
    """
    root = os.environ.get("LAMINA_DEBUG_DIR")
    if not root:
        return None
    folder = Path(root) / _current
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path, number = folder / stem, 1
        while path.exists():
            number += 1
            path = folder / f"{Path(stem).stem}.{number}{Path(stem).suffix}"
        path.write_text(text if isinstance(text, str) else text())
    except OSError as error:
        log("cache").warning("LAMINA_DEBUG_DIR %s cannot be written: %s", root, error)
        return None
    return path
