"""Text generation at growing lengths: prompts of random lengths, then one token at a time with a key/value cache.

Between: a transformers model with random weights -> a list of steps (keyword arguments of the model) for lengths 4 to 256.
Keeps:   caches are made anew for every run by the implementation that is measured, so that nothing it computes depends on eager.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["GENERATORS", "Generation", "Model"]

SHORTEST = 4
PREFILLS = 24
VOCABULARY = 1000


@dataclass
class Model:
    """What to make and how it is called: `decoder` models have a cache, `encoder_decoder` ones read a fixed encoder output too."""

    entry: str  # of `zoo_eight.py`
    cached: bool
    encoder_decoder: bool = False


GENERATORS = {
    "gpt2": Model("hf_gpt2", True),
    "llama": Model("hf_llama", True),
    "t5": Model("hf_t5", True, encoder_decoder=True),
    "bert": Model("hf_bert", False),
}


class Generation:
    """The steps of one model, and what eager makes of them."""

    def __init__(self, model: Model, module: torch.nn.Module, longest: int) -> None:
        self.model, self.module = model, module
        torch.manual_seed(0)
        self.module.config.use_cache = model.cached
        chooser = random.Random(0)
        span = range(SHORTEST, longest + 1)
        self.prefills = [chooser.choice(span) for _ in range(PREFILLS)]
        self.growth = [] if model.cached else list(span)
        self.tokens = torch.randint(5, VOCABULARY, (1, longest))
        self.steps = longest - SHORTEST if model.cached else 0
        with torch.no_grad():
            self.encoded = self.module.encoder(torch.randint(5, VOCABULARY, (1, 12))) if model.encoder_decoder else None

    def _call(self, fn: Any, ids: torch.Tensor, cache: Any = None) -> Any:
        if self.model.encoder_decoder:
            return fn(encoder_outputs=self.encoded, decoder_input_ids=ids, past_key_values=cache, use_cache=True)
        return fn(input_ids=ids, past_key_values=cache, use_cache=True) if self.model.cached else fn(input_ids=ids)

    def prefill(self, fn: Any) -> list[torch.Tensor]:
        """Logits at the end of prompts of random lengths, and of growing ones where the model has no cache."""
        return [self._call(fn, self.tokens[:, :n]).logits[:, -1].clone() for n in self.prefills + self.growth]

    def decode(self, fn: Any, clock: list[float] | None = None) -> list[torch.Tensor]:
        """Logits of each step from a prompt of the shortest length on."""
        logits: list[torch.Tensor] = []
        if not self.steps:
            return logits
        cache = self._call(self.module, self.tokens[:, :SHORTEST]).past_key_values
        for n in range(SHORTEST, SHORTEST + self.steps):
            start = time.process_time()
            out = self._call(fn, self.tokens[:, n : n + 1], cache)
            if clock is not None:
                clock.append(time.process_time() - start)
            cache = out.past_key_values
            logits.append(out.logits[:, -1].clone())
        return logits

    @torch.no_grad()
    def measure(self, impl: Any, spec: dict[str, Any], counting: Callable[[Any], Any]) -> dict[str, Any]:
        """Compilations in all with dynamic=True; with dynamic=None for prompts and for steps; what differs from eager."""
        want = self.prefill(self.module), self.decode(self.module)
        counts, wrong, graphs = {}, [], 0
        for dynamic in (True, None):
            impl.reset()
            backend = counting(impl)
            compiled = impl.compile(self.module, backend=backend, dynamic=dynamic)
            for what, run, expected in (("prefill", self.prefill, want[0]), ("decode", self.decode, want[1])):
                before = backend.graphs
                got = run(compiled)
                counts[f"{what} dynamic={dynamic}"] = backend.graphs - before
                for i, (a, b) in enumerate(zip(got, expected, strict=True)):
                    error = float((a - b).abs().max() / b.std())
                    if not error < 1e-3:
                        wrong.append(f"{what} {i} dynamic={dynamic}: error {error:.1e}")
                        break
            graphs += backend.graphs
        total = counts["prefill dynamic=True"] + counts["decode dynamic=True"]
        return {"compiles": total, "counts": counts, "graphs": graphs, "wrong": wrong}

    @torch.no_grad()
    def timed(self, impls: list[Any], spec: dict[str, Any]) -> dict[str, Any]:
        """Processor milliseconds per step (median over three interleaved runs of each length), and the lowest ratio to eager over lengths."""
        run = self.decode if self.steps else self._clocked_prefill
        functions = {"eager": self.module}
        for impl in impls:
            functions[impl.name] = impl.compile(self.module, backend=spec["backend"], dynamic=True)
        clocks: dict[str, list[list[float]]] = {n: [] for n in functions}
        for round_ in range(4):
            for n, fn in functions.items():
                clock: list[float] = []
                run(fn, clock)
                if round_:
                    clocks[n].append(clock)
        best = {n: [min(c) for c in zip(*rounds, strict=True)] for n, rounds in clocks.items()}
        slowest = {n: min(e / b for e, b in zip(best["eager"], best[n], strict=True)) for n in functions}
        return {"ms": {n: 1e3 * sum(b) / len(b) for n, b in best.items()}, "slowest": slowest}

    def _clocked_prefill(self, fn: Any, clock: list[float]) -> None:
        for n in self.growth:
            start = time.process_time()
            self._call(fn, self.tokens[:, :n])
            clock.append(time.process_time() - start)
