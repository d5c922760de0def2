"""Text generation of tiny random models of transformers: a compiled forward below `generate()`, a whole greedy loop, `generate()` itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import lamina
from integration.models import _prepare

STEPS = 8


def build(name: str) -> Any:
    _prepare()
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if name == "gpt2":
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=2, **small)).eval()
    if name == "llama":
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **small)).eval()
    return transformers.T5ForConditionalGeneration(transformers.T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=0, **small)).eval()


def greedy(model: Any, ids: torch.Tensor, steps: int) -> Any:
    current, past, out, last = ids, None, ids, None
    encoder_ids = {"input_ids": ids} if model.config.is_encoder_decoder else {}
    for _ in range(steps):
        given = {**encoder_ids, "decoder_input_ids": current} if encoder_ids else {"input_ids": current}
        last = model(**given, past_key_values=past, use_cache=True)
        current, past = last.logits[:, -1:].argmax(-1), last.past_key_values
        out = torch.cat([out, current], 1)
    return out, last


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_tokens_and_counts(name):
    model, ids = build(name), torch.randint(3, 64, (2, 5), generator=torch.Generator().manual_seed(1))
    options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
    with torch.no_grad():
        want, (tokens, output) = model.generate(ids, **options), greedy(model, ids, 3)

        lamina.counters.clear()
        plain, model.forward = model.forward, lamina.compile(model.forward, backend="eager")
        assert torch.equal(model.generate(ids, **options), want)
        assert lamina.counters["graphs"]["captured"] <= 3 and not lamina.counters["graph_breaks"]
        model.forward = plain

        lamina.counters.clear()
        loop = lamina.compile(greedy, backend="eager", fullgraph=True)
        for _ in range(2):
            found, last = loop(model, ids, 3)
            assert torch.equal(found, tokens) and type(last) is type(output) and list(last) == list(output) and type(last.past_key_values) is type(output.past_key_values)
            torch.testing.assert_close(last.logits, output.logits)
        assert lamina.counters["graphs"]["captured"] == 1

        lamina.counters.clear()
        assert torch.equal(lamina.compile(lambda ids: model.generate(ids, **options), backend="eager")(ids), want)
        assert lamina.counters["graphs"]["captured"] <= 12 and sum(lamina.counters["recompiles"].values()) <= 6
