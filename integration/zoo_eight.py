"""The eight models as entries of the zoo's harness: `bench.py --entries integration/zoo_eight.py`.

The harness lies beside the checkout (`../shared/zoo`); its helpers make untrained models sensitive to their inputs.
"""

from zoo_common import *  # type: ignore[import-not-found]

tm("resnet18", 224, bs=4)
tm("mobilenetv3_large_100", 224, bs=4)
tm("vit_tiny_patch16_224", 224, bs=4)
tm("convnext_atto", 224, bs=4)
hf("bert", "BertForMaskedLM", dict(vocab_size=8000, num_hidden_layers=4), ids(bs=2, seq=128, mask=True))
hf("gpt2", "GPT2LMHeadModel", dict(vocab_size=8000, n_layer=4, use_cache=False), ids(bs=2, seq=128))
hf(
    "llama",
    "LlamaForCausalLM",
    dict(
        vocab_size=8000, hidden_size=512, intermediate_size=1376, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8,
        use_cache=False,
    ),
    ids(bs=2, seq=128),
)  # fmt: skip
hf(
    "t5",
    "T5ForConditionalGeneration",
    dict(vocab_size=8000, num_layers=3, num_decoder_layers=3, use_cache=False, decoder_start_token_id=0, pad_token_id=0),
    encdec(),
)
