"""Where files are kept: the cache folder, and a private temporary one when that cannot be written.

`LAMINA_CACHE_DIR` is read at each call; the default is `~/.cache/lamina` (or `$XDG_CACHE_HOME/lamina`).
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from pathlib import Path

__all__ = ["cache_dir", "cache_root", "private_dir", "write_atomic"]

_lock = threading.Lock()
_private: dict[int, Path] = {}  # by process: a forked child makes its own


def cache_root() -> Path:
    """The folder that the settings name, whether it exists or not."""
    named = os.environ.get("LAMINA_CACHE_DIR")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path(os.path.expanduser("~")) / ".cache") / "lamina"


def cache_dir(*parts: str) -> Path:
    """A folder under the cache folder that exists and can be written; a private temporary one if it cannot."""
    folder = cache_root().joinpath(*parts)
    try:
        os.makedirs(folder, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    except (OSError, ValueError):
        pass
    return private_dir(*parts)


def private_dir(*parts: str) -> Path:
    """A folder of this process only, removed at its end."""
    with _lock:
        root = _private.get(os.getpid())
        if root is None or not root.is_dir():
            root = _private[os.getpid()] = _make_private()
    folder = root.joinpath(*parts)
    os.makedirs(folder, exist_ok=True)
    return folder


def _make_private() -> Path:
    last: OSError | None = None
    for parent in (None, "/dev/shm", "/tmp", os.getcwd()):
        try:
            made = Path(tempfile.mkdtemp(prefix="lamina-", dir=parent))
            (made / "probe").write_bytes(b"x" * 4096)  # a full disk shows at the first write, not at mkdir
            (made / "probe").unlink()
        except OSError as error:
            last = error
            continue
        atexit.register(_remove, made, os.getpid())
        return made
    raise OSError(f"no folder can be written, neither the cache folder {cache_root()} nor a temporary one") from last


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: readers in other processes see the old text or the new one."""
    handle, name = tempfile.mkstemp(prefix=path.name + ".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
