"""The C++ compiler: build a shared object once per content, keep it in the cache, load it.

Key:    source, flags, compiler (path, version), CPU (model, features), Python and torch versions.
Keeps:  a file in the cache is whole or is not used: each ends with a trailer that holds the digest of what stands before it
        (the ELF loader ignores bytes after the last section), and is put in place with `os.replace`. So a torn write, a full
        disk, a deleted folder or two processes at once cost a compilation, never a crash.
Costs:  a hit is a hash, a stat and a memo lookup: no subprocess, because what the compiler answered to `--version` is kept too.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from .counters import counters
from .errors import CompilerError
from .logs import log
from .paths import cache_dir, cache_root, private_dir, write_atomic
from .timers import stage

__all__ = ["Compiler", "Job", "compile_many", "compile_shared", "compiler", "load_shared", "python_extension", "torch_flags"]

_FOLDER = "so"
_MAGIC = b"lamina-shared-object-1\n"
_TRAILER_BYTES = len(_MAGIC) + hashlib.blake2b().digest_size
_STALE_SECONDS = 3600.0
_TIMEOUT_SECONDS = 900.0


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: the command that runs it, and what it answered to `--version`."""

    command: tuple[str, ...]
    path: str
    version: str


@dataclass(frozen=True)
class Job:
    """One shared object to build: see `compile_shared`."""

    source: str
    name: str
    flags: tuple[str, ...] = ()
    language: str = "c++"


# --------------------------------------------------------------------------------------------------------------------------
# which compiler, which machine
# --------------------------------------------------------------------------------------------------------------------------


def compiler() -> Compiler:
    """The C++ compiler: `LAMINA_CXX`, else `CXX`, else g++, else clang++. Raises `CompilerError` if there is none that works."""
    named = os.environ.get("LAMINA_CXX") or os.environ.get("CXX")
    return _find_compiler(named, os.environ.get("PATH", ""))


@cache
def _find_compiler(named: str | None, search_path: str) -> Compiler:
    tried = [named] if named else ["g++", "clang++"]
    for text in tried:
        words = tuple(shlex.split(text))
        path = shutil.which(words[0], path=search_path) if words else None
        if path is not None:
            return Compiler((path, *words[1:]), path, _version(path))
    raise CompilerError(
        f"no C++ compiler: tried {', '.join(tried)}; install g++, or name one in LAMINA_CXX", command=" ".join(tried)
    )


def _version(path: str) -> str:
    """First line of `<compiler> --version`, remembered on disk by path, size and time of the binary."""
    real = os.path.realpath(path)
    status = os.stat(real)
    key = hashlib.blake2b(repr((real, status.st_size, status.st_mtime_ns)).encode(), digest_size=12).hexdigest()
    probe = cache_dir("toolchain") / f"probe-{key}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(probe.read_text())["version"])
    command = [path, "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        raise CompilerError(f"the C++ compiler {path} does not run", command=" ".join(command), log=str(error)) from error
    if done.returncode != 0:
        raise CompilerError(f"the C++ compiler {path} does not run", command=" ".join(command), log=done.stdout + done.stderr)
    version = (done.stdout.splitlines() or ["unknown"])[0].strip()
    with contextlib.suppress(OSError):
        write_atomic(probe, json.dumps({"path": real, "version": version}).encode())
    return version


@cache
def _machine() -> str:
    """CPU model and features: `-march=native` code of one machine may not run on another."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        lines = file.read(16384).split("\n\n")[0].splitlines()
        kept = [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
        if kept:
            return "\n".join(kept)
    return f"{platform.machine()} {platform.processor()}"


def _abi() -> str:
    version = getattr(sys.modules.get("torch"), "__version__", "none")
    return f"{sys.implementation.cache_tag} {sys.version_info[:3]} {version} {sysconfig.get_platform()}"


@cache
def _key_prefix(built_with: Compiler, with_torch: bool) -> hashlib.blake2b:
    # `with_torch` only keys the memo: torch may be imported between two calls
    parts = (*built_with.command, built_with.version, _machine(), _abi())
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16)


def _key(job: Job, built_with: Compiler) -> str:
    digest = _key_prefix(built_with, "torch" in sys.modules).copy()
    for part in (job.language, *job.flags, job.source):
        digest.update(part.encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------------------------------
# files that are whole
# --------------------------------------------------------------------------------------------------------------------------

_checked: dict[str, tuple[int, int, int]] = {}  # path -> (inode, size, mtime) that was found whole


def _is_whole(path: str) -> bool:
    """Whether the file is there and is what was written; read once per process and file."""
    try:
        status = os.stat(path)
        mark = (status.st_ino, status.st_size, status.st_mtime_ns)
        if _checked.get(path) == mark:
            return True
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return False
    body, trailer = data[:-_TRAILER_BYTES], data[-_TRAILER_BYTES:]
    if trailer != _MAGIC + hashlib.blake2b(body).digest():
        counters["cache"]["torn"] += 1
        return False
    _checked[path] = mark
    return True


def _seal(path: str) -> None:
    """Append the trailer that `_is_whole` checks."""
    with open(path, "rb") as file:
        digest = hashlib.blake2b(file.read()).digest()
    with open(path, "ab") as file:
        file.write(_MAGIC + digest)


def _remove_stale(folder: Path) -> None:
    """Remove what killed processes left unfinished."""
    with contextlib.suppress(OSError):
        now = time.time()
        for path in folder.glob("*.tmp"):
            if now - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------------------------------
# building
# --------------------------------------------------------------------------------------------------------------------------


def compile_shared(source: str, *, name: str, flags: Sequence[str] = (), language: str = "c++") -> Path:
    """Path of the shared object made of `source`, built now or found in the cache.

    `-shared -fPIC` are added; `name` only makes the file name readable. Raises `CompilerError` with the compiler's output.
    """
    return _build(Job(source, name, tuple(flags), language))


def compile_many(jobs: Iterable[Job]) -> list[Path]:
    """Paths of several shared objects, missing ones built at the same time (one compiler per core)."""
    listed = list(jobs)
    if len(listed) <= 1:
        return [_build(job) for job in listed]
    with ThreadPoolExecutor(max_workers=min(len(listed), max(1, os.cpu_count() or 1))) as pool:
        return list(pool.map(_build, listed))


def _build(job: Job) -> Path:
    built_with = compiler()
    file_name = f"{job.name}.{_key(job, built_with)}.so"
    kept = f"{cache_root()}/{_FOLDER}/{file_name}"
    if _is_whole(kept):
        counters["cache"]["so_hit"] += 1
        return Path(kept)
    folder = cache_dir(_FOLDER)
    path = folder / file_name
    if str(path) != kept and _is_whole(str(path)):  # built before by this process, which cannot write the cache folder
        counters["cache"]["so_hit"] += 1
        return path
    counters["cache"]["so_miss"] += 1
    _remove_stale(folder)
    with stage("cxx"):
        try:
            return _compile_into(job, built_with, path)
        except _CannotWrite as failure:
            elsewhere = private_dir(_FOLDER) / file_name
            log("cache").info("cannot write %s (%s); using %s", path, failure.reason, elsewhere)
            try:
                return _compile_into(job, built_with, elsewhere)
            except _CannotWrite as again:
                raise CompilerError(
                    f"nowhere to write compiled code: neither {path.parent} nor {elsewhere.parent}", log=again.reason
                ) from None


class _CannotWrite(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _compile_into(job: Job, built_with: Compiler, path: Path) -> Path:
    """Compile into a temporary file beside `path`, seal it, put it in place."""
    try:
        handle, unfinished = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise _CannotWrite(str(error)) from error
    try:
        _run(job, built_with, unfinished)
        try:
            _seal(unfinished)
            os.replace(unfinished, path)
        except OSError as error:
            raise _CannotWrite(str(error)) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
    return path


_NO_SPACE = ("No space left", "Read-only file system", "cannot open output file", "Disk quota exceeded", "final link failed", "final close failed")


def _run(job: Job, built_with: Compiler, output: str) -> None:
    # the objects to link stand in the flags, after the source: `-x none` ends the language of stdin for them
    command = [*built_with.command, "-shared", "-fPIC", "-x", job.language, "-", "-x", "none", *job.flags, "-o", output]
    log("cache").debug("compile %s: %s", job.name, shlex.join(command))
    try:
        done = subprocess.run(
            command, input=job.source, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise CompilerError(f"the C++ compiler {built_with.path} does not run", command=shlex.join(command), log=str(error)) from error
    if done.returncode == 0:
        return
    printed = done.stderr + done.stdout
    if any(sign in printed for sign in _NO_SPACE):
        raise _CannotWrite(printed.strip().splitlines()[-1])
    raise CompilerError(
        f"the C++ compiler {built_with.path} failed on {job.name} (exit status {done.returncode})",
        command=shlex.join(command),
        log=printed,
    )


# --------------------------------------------------------------------------------------------------------------------------
# loading
# --------------------------------------------------------------------------------------------------------------------------

_load_lock = threading.RLock()
_libraries: dict[Path, ctypes.CDLL] = {}
_modules: dict[tuple[str, Path], ModuleType] = {}


def load_shared(source: str, *, name: str, flags: Sequence[str] = (), language: str = "c++") -> ctypes.CDLL:
    """The library made of `source`, loaded once per process."""
    job = Job(source, name, tuple(flags), language)
    with _load_lock:
        path = _build(job)
        library = _libraries.get(path)
        if library is None:
            try:
                library = ctypes.CDLL(str(path))
            except OSError:
                library = ctypes.CDLL(str(_rebuild(job, path)))  # deleted between the check and the load
            _libraries[path] = library
        return library


def _rebuild(job: Job, failed: Path) -> Path:
    """Build into the private folder after a file that was found could not be loaded."""
    counters["cache"]["so_unloadable"] += 1
    _checked.pop(str(failed), None)
    try:
        return _compile_into(job, compiler(), private_dir(_FOLDER) / failed.name)
    except _CannotWrite as failure:
        raise CompilerError(f"nowhere to write compiled code for {job.name}", log=failure.reason) from None


@cache
def torch_flags() -> tuple[str, ...]:
    """Flags to compile against and link with the installed torch and the running Python."""
    import torch  # only what builds an extension pays for it

    root = Path(torch.__file__).parent
    lib = root / "lib"
    libraries = [lib / f"lib{stem}.so" for stem in ("c10", "torch_cpu", "torch_python")]
    return (
        f"-I{sysconfig.get_paths()['include']}",
        f"-I{root / 'include'}",
        f"-I{root / 'include' / 'torch' / 'csrc' / 'api' / 'include'}",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
        *(str(path) for path in libraries if path.exists()),
        f"-Wl,-rpath,{lib}",
    )


def python_extension(name: str, source: str, *, flags: Sequence[str] = (), language: str = "c++", torch: bool = True) -> ModuleType:
    """The CPython extension module made of `source`, which defines `PyInit_<name>`; built once, imported once per process.

    `torch=False` leaves torch's headers and libraries out. `-O2` unless `flags` name a level.
    """
    level = () if any(flag.startswith("-O") for flag in flags) else ("-O2",)
    paths = torch_flags() if torch else (f"-I{sysconfig.get_paths()['include']}",)
    standard = () if any(flag.startswith("-std=") for flag in flags) or language != "c++" else ("-std=c++20",)
    job = Job(source, name, (*level, *standard, *flags, *paths), language)
    with _load_lock:
        path = _build(job)
        module = _modules.get((name, path))
        if module is None:
            try:
                module = _import_extension(name, path)
            except ImportError as error:
                if "undefined symbol" in str(error):
                    raise CompilerError(f"the extension {name} does not load", log=str(error)) from error
                module = _import_extension(name, _rebuild(job, path))
            _modules[name, path] = module
        return module


def _import_extension(name: str, path: Path) -> ModuleType:
    loader = importlib.machinery.ExtensionFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
