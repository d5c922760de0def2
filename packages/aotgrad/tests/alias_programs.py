"""Random programs of views, writes and returns over inputs that may share memory, and their comparison with eager.

A program is text, made from a seed: each statement is tried on the inputs and kept only where eager takes it. Run
`python alias_programs.py --programs 20000 [--first-seed 0] [--backend run_graph]` for the long run; it prints each program that differs.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lamina_aotgrad import aot_function, default, min_cut, run_graph
from lamina_dynshape.support.counters import counters
from lamina_dynshape.support.errors import Unsupported
from torch import Tensor

sys.path.insert(0, __file__.rpartition("/")[0])
from observing import gradients, observe  # noqa: E402

# `{a}` and `{b}` are values made so far, `{new}` the one that the statement makes, `{k}` a small number.
VIEWS = [
    "{new} = {a}.t()", "{new} = {a}[1:]", "{new} = {a}[:, 1:]", "{new} = {a}[..., ::2]", "{new} = {a}[{k}]", "{new} = {a}.view(-1)", "{new} = {a}.reshape(-1)",
    "{new} = {a}.unsqueeze(0)", "{new} = {a}.squeeze()", "{new} = {a}.expand(2, *{a}.shape)", "{new} = {a}.flatten()", "{new} = {a}.unfold(0, 2, 1)",
    "{new} = {a}.split(1)[0]", "{new} = {a}.chunk(2)[-1]", "{new} = {a}.detach()", "{new} = {a}.select(-1, 0)", "{new} = {a}.diagonal()", "{new} = {a}.narrow(0, 1, 1)",
    "{new} = {a}.transpose(0, -1)", "{new} = {a}.view_as({a})", "{new} = {a}.contiguous()", "{new} = {a}.unbind(0)[{k}]", "{new} = {a}.movedim(0, -1)",
    "{new} = {a}.as_strided((2, 2), (1, 1), {a}.storage_offset())", "{new} = {a}.real", "{new} = {a}.alias() if hasattr({a}, 'alias') else {a}.view({a}.shape)",
    "{new} = {a}.swapaxes(0, -1)[None]", "{new} = {a}.permute(*reversed(range({a}.dim())))", "{new} = {a}.expand_as({b})", "{new} = {a}.data",
]  # fmt: skip
WRITES = [
    "{a}.add_(1.5)", "{a}.mul_(0.5)", "{a}.zero_()", "{a}.copy_({b})", "{a}.fill_(2.0)", "{a}.sin_()", "{a}.clamp_(min=0)", "{a}[0] = 3.0", "{a}[..., -1] = {b}[..., 0]",
    "{a}[1:] += 1", "{a} *= {b}", "{a}.add_({b}, alpha=0.5)", "{a}[:, ::2].mul_(3)", "{a}.masked_fill_({b} > 0, 0.25)", "{a}.index_fill_(0, torch.tensor([0]), 1.0)",
    "{a}.addcmul_({b}, {b})", "{a}.t().neg_()", "{a}.view(-1)[:2].fill_(7)", "{a}.copy_({a}.flip(0))", "torch.add({b}, 1, out={a})", "torch.mul({b}, {b}, out={a})",
    "{a}.index_add_(0, torch.tensor([0]), {b}[:1])", "{a}.scatter_(0, torch.zeros(1, 1, dtype=torch.int64), 5.0)", "{a}.lerp_({b}, 0.5)", "{a}.diagonal().fill_(1)",
    "{a}.copy_({b}.detach())", "{a}.exp_()", "torch.sum({b}, 0, out={a})",
]  # fmt: skip
RESHAPES = ["{a}.t_()", "{a}.unsqueeze_(0)", "{a}.squeeze_()", "{a}.transpose_(0, 1)", "{a}.as_strided_((2,), (1,))", "{a}.resize_(2, 2)", "{a}.set_({b})", "{a}.detach_()"]
PURE = [
    "{new} = {a}.sin()", "{new} = {a} * {b}", "{new} = {a} + 1", "{new} = {a}.clone()", "{new} = {a}.sum()", "{new} = {a}.exp().neg()", "{new} = {a}.sum() * {b}",
    "{new} = {a} @ {b}.t()", "{new} = torch.empty_like({a}).fill_(1)", "{new} = {a}.detach().clone()", "{new} = torch.cat([{a}, {b}])", "{new} = {a}.to(torch.float64)",
    "{new} = torch.zeros(2, 2)", "{new} = torch.where({a} > 0, {a}, {b})", "{new} = {a}.new_zeros({a}.shape)", "{new} = {a}.relu()",
]  # fmt: skip
KINDS = [(VIEWS, 4), (WRITES, 4), (PURE, 3), (RESHAPES, 1)]
INPUTS = [
    "R(3, 4)", "R(3, 4)", "P(3, 4)", "P(3, 4) * 2", "R(4, 3).t()", "R(3, 8)[:, ::2]", "R(1, 4).expand(3, 4)", "P(4, 3).t()", "R(4)", "P(3, 4)[1:]", "R(3, 4, dtype=torch.float64)",
    "{p}[1:]", "{p}.detach()", "{p}.view(-1)", "{p}.t()", "{p}[:2]", "{p}.detach().view(-1)[2:6]", "{p}[..., 1:]", "{p}.data",
]  # fmt: skip


@dataclass(frozen=True)
class AliasProgram:
    """Text of `make_inputs()` and of `program(*inputs)`."""

    inputs: tuple[str, ...]
    statements: tuple[str, ...]
    returns: str

    @property
    def text(self) -> str:
        names = [f"x{i}" for i in range(len(self.inputs))]
        made = "".join(f"    {n} = {e}\n" for n, e in zip(names, self.inputs, strict=True))
        body = "".join(f"    {s}\n" for s in self.statements)
        return f"def make_inputs():\n{made}    return [{', '.join(names)}]\n\n\ndef program({', '.join(names)}):\n{body}    return ({self.returns})\n"

    def load(self) -> tuple[Callable[[], list[Tensor]], Callable[..., tuple[Any, ...]]]:
        scope = _scope(0)
        exec(self.text, scope)

        def make() -> list[Tensor]:
            torch.manual_seed(0)
            return scope["make_inputs"]()

        return make, scope["program"]


def _scope(seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    return {"torch": torch, "R": torch.randn, "P": lambda *size: torch.randn(*size, requires_grad=True)}


def generate(seed: int) -> AliasProgram:
    """The program of a seed."""
    rng = random.Random(seed)
    scope = _scope(0)
    inputs: list[str] = []
    for i in range(rng.randint(1, 3)):
        _attempt(rng, scope, inputs, f"x{i} = ", lambda: rng.choice(INPUTS).format(p=f"x{rng.randrange(i)}" if i else "R(3, 4)"))
    names = [f"x{i}" for i in range(len(inputs))]
    statements: list[str] = []
    groups, weights = zip(*KINDS, strict=True)
    for _ in range(rng.randint(1, 8)):
        new = f"v{len(names)}"

        def statement(new: str = new) -> str:
            form, a, b = rng.choice(rng.choices(groups, weights)[0]), rng.choice(names), rng.choice(names)
            if form in WRITES and "{b}" in form and _overlap_in_part(scope[a], scope[b]):
                b = a  # what eager makes of operands that overlap in part depends on its loops
            if form.startswith("torch.sum") and torch._C._is_alias_of(scope[a], scope[b]):
                form = PURE[0]  # eager clears the result first
            text = form.format(a=a, b=b, new=new, k=rng.randint(0, 2))
            no_grad = rng.random() < 0.2
            return f"with torch.no_grad(): {text}" if no_grad else text

        if _attempt(rng, scope, statements, "", statement) and new in scope:
            names.append(new)
    returns = "".join(f"{n}, " for n in rng.choices(names, k=rng.randint(1, 3)))
    return AliasProgram(tuple(inputs), tuple(statements), returns)


def _overlap_in_part(a: Tensor, b: Tensor) -> bool:
    return torch._C._is_alias_of(a, b) and (a.shape, a.stride(), a.storage_offset()) != (b.shape, b.stride(), b.storage_offset())


def _attempt(rng: random.Random, scope: dict[str, Any], found: list[str], prefix: str, make: Callable[[], str]) -> bool:
    """Add a statement that eager takes; after ten that it refuses, none."""
    for _ in range(10):
        text = make()
        try:
            exec(prefix + text, scope)
        except (RuntimeError, IndexError, TypeError, ValueError, AttributeError):
            continue
        found.append(text)
        return True
    return False


def _outcome(program: Callable[..., Any], inputs: list[Tensor]) -> Any:
    """How far a program gets, its outputs, copies of all it changed, gradients."""
    try:
        outputs = program(*inputs)
    except (RuntimeError, IndexError) as error:
        return "forward raises", str(error), None, None
    try:
        snapshot = [t.detach().clone() for t in (*outputs, *inputs)]
        return "ok", outputs, snapshot, (observe(inputs, outputs), gradients(inputs, outputs))
    except RuntimeError as error:
        return "backward raises", str(error), None, None


def compare(source: AliasProgram, *, partition: Any = min_cut, compiler: Any = run_graph) -> str:
    """What came of a program: "same", "refused: reason", "eager raises". Raises AssertionError where ours differs from eager."""
    make, program = source.load()
    status, _, values, seen = _outcome(program, make())
    try:
        compiled = aot_function(program, make(), fw_compiler=compiler, partition=partition)
    except Unsupported as reason:
        return f"refused: {reason.code}"
    except (RuntimeError, IndexError) as error:
        assert status == "forward raises", f"compiling raises {error}"
        return "eager raises"
    ours, what, our_values, our_seen = _outcome(compiled, make())
    if status == "backward raises":  # views of several results: eager refuses some that a replay after the write can do
        return "eager raises"
    assert ours == status, f"eager: {status}; ours: {ours}: {what}"
    if status == "forward raises":
        return "eager raises"
    _assert_equal(our_values, values)
    (mine, grads), (eager, eager_grads) = our_seen, seen
    assert [g is None for g in grads] == [g is None for g in eager_grads], "which gradients there are"
    _assert_equal([g for g in grads if g is not None], [g for g in eager_grads if g is not None])
    changed = [not torch.equal(a.nan_to_num(), b.detach().nan_to_num()) for a, b in zip(values[len(values) - len(make()) :], make(), strict=True)]
    counted = zip(mine.pop("written"), eager.pop("written"), changed, strict=True)  # a new shape of a view counts in eager as a write
    assert all(m or not (e and c) for m, e, c in counted), "versions"
    assert mine == eager, "\n".join(f"{k}: {mine[k]} != {eager[k]}" for k in mine if mine[k] != eager[k])
    return "same"


def _assert_equal(ours: Sequence[Tensor], eager: Sequence[Tensor]) -> None:
    for a, b in zip(ours, eager, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def main() -> int:
    """The long run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=20000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this long")
    parser.add_argument("--show", type=int, default=5, help="differing programs to print")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    results: collections.Counter[str] = collections.Counter()
    started = time.monotonic()
    for seed in range(chosen.first_seed, chosen.first_seed + chosen.programs):
        counters.clear()
        try:
            results[compare(generate(seed), partition=default if seed % 4 == 0 else min_cut)] += 1
        except Exception as error:  # noqa: BLE001 (any error is a finding)
            results["DIFFERENT"] += 1
            if results["DIFFERENT"] <= chosen.show:
                print(f"---- seed {seed}: {type(error).__name__}: {error}\n{generate(seed).text}", flush=True)
        if time.monotonic() - started > chosen.seconds:
            break
    print(f"{sum(results.values())} programs:", dict(results.most_common()))
    return 1 if results["DIFFERENT"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
