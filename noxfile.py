"""nox sessions: one per package with only its own dependencies, `integration`, `lint`, `demo`, `bench`.

    nox -s primops-3.11             the suite of one package
    nox -s integration-3.12 -- -k bert
    nox -s fuzz-3.11 -- --seed 2     dynamo's fuzzers, hours
    nox -s lint demo

Python 3.12 is tested with an older torch (`constraints-3.12.txt`), the others with the one of `constraints.txt`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))
from checks import BELOW, WITH_GRADIENTS  # noqa: E402
from environment import install_torch  # noqa: E402

PYTHONS = ["3.11", "3.12", "3.13"]
WORKERS = os.environ.get("LAMINA_TEST_WORKERS", "2")
ENVIRONMENT = {"LAMINA_STRICT": "1", "LAMINA_VERIFY": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

nox.options.sessions = ["lint"]
nox.options.reuse_existing_virtualenvs = True


def _install(session: nox.Session, package: str, *groups: str) -> None:
    """Install one package with the packages below it and nothing else, and requirement groups."""
    local = [argument for name in BELOW[package] for argument in ("-e", f"packages/{name}")]
    own = f"constraints-{session.python}.txt"
    constraints = own if (ROOT / own).exists() else "constraints.txt"
    install_torch(Path(session.bin) / "python", constraints)
    session.install("-c", constraints, *local)
    for group in groups:
        session.install("-c", constraints, "-r", f"tools/requirements/{group}.txt")
        if (ROOT / "tools" / "requirements" / f"{group}-no-deps.txt").exists():
            session.install("-c", constraints, "--no-deps", "-r", f"tools/requirements/{group}-no-deps.txt")


def _pytest(session: nox.Session, *folders: str) -> None:
    session.run("pytest", *folders, "-n", WORKERS, "-o", "pythonpath=", *session.posargs, env=ENVIRONMENT)


def _package_session(package: str) -> None:
    @nox.session(python=PYTHONS, name=package)
    def run(session: nox.Session) -> None:
        _install(session, package, "test")
        _pytest(session, f"packages/{package}/tests")


for _name in BELOW:
    _package_session(_name)


@nox.session(python=PYTHONS[:1])
def fuzz_aliases(session: nox.Session) -> None:
    """20,000 random programs of views and writes through aotgrad against eager."""
    _install(session, "aotgrad", "test")
    session.run("python", "packages/aotgrad/tests/alias_programs.py", *session.posargs, env=ENVIRONMENT)


@nox.session(python=PYTHONS)
def integration(session: nox.Session) -> None:
    """Tests and figures of the stages together, on real models."""
    _install(session, "lamina", "models", "test")
    _pytest(session, "integration/tests", *WITH_GRADIENTS)


@nox.session(python=PYTHONS)
def fuzz(session: nox.Session) -> None:
    """The long runs of dynamo's fuzzers: a break at every instruction, 20,000 programs, 10,000 changes between calls."""
    _install(session, "dynamo", "test")
    script = "packages/dynamo/tests/dynamo_fuzz"
    for run in (["breaks"], ["programs", "--count", "20000"], ["mutations", "--count", "10000"]):
        session.run("python", script, *run, *session.posargs, env=ENVIRONMENT)


@nox.session(python=PYTHONS[0])
def lint(session: nox.Session) -> None:
    """ruff, mypy, the import rules, the table of modules."""
    session.install("-c", "constraints.txt", "-r", "tools/requirements/lint.txt", "nox")
    session.run("ruff", "check", ".")
    session.run("mypy")
    session.run("python", "tools/check_imports.py")
    session.run("python", "tools/count_lines.py", "--check")


@nox.session(python=PYTHONS[0])
def demo(session: nox.Session) -> None:
    """The demo on the installed packages."""
    _install(session, "lamina", "models")
    session.run("python", "-m", "integration.demo", *session.posargs)


@nox.session(python=PYTHONS[0])
def soak(session: nox.Session) -> None:
    """A million calls, ten thousand lives of compiled callables: memory stays flat."""
    _install(session, "dynamo")
    session.run("python", "tools/soak.py", *session.posargs)


@nox.session(python=PYTHONS[0])
def bench(session: nox.Session) -> None:
    """The eight models next to torch.compile, with the zoo's harness where it is beside the checkout."""
    _install(session, "lamina", "models")
    session.run("python", "-m", "integration.bench", *session.posargs)
