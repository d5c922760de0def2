"""The eight models of the demo, the tests and the benchmarks: random weights from configurations, nothing is downloaded.

A builder returns `Built(module, args, kwargs, loss)`: the same weights and inputs at every call, in eval or train mode. Dropout
probabilities are 0 in train mode, so that two runs can be compared.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from torch import nn

__all__ = ["EIGHT", "THREE", "Built", "build", "load_user_model"]

VOCABULARY = 8000
SEED = 1337


@dataclass
class Built:
    """A model ready to call: `module(*args, **kwargs)`; `loss` maps its output to a scalar."""

    module: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    loss: Callable[[Any], torch.Tensor] | None = None

    def __call__(self, module: Callable[..., Any] | None = None) -> Any:
        return (module or self.module)(*self.args, **self.kwargs)


def default_loss(output: Any) -> torch.Tensor:
    """The model's own loss, else cross entropy of its logits against fixed targets."""
    own = output.get("loss") if hasattr(output, "get") else getattr(output, "loss", None)
    if own is not None:
        return own
    logits = output if isinstance(output, torch.Tensor) else output[0]
    if logits.dim() == 2:
        return nn.functional.cross_entropy(logits, torch.arange(logits.shape[0]) % logits.shape[1])
    return logits.float().pow(2).mean()


# --------------------------------------------------------------------------------------------------------------------------
# timm
# --------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _torchvision_without_binary() -> Any:
    """timm and transformers import torchvision, whose compiled operators may belong to another torch: declare the two that its import names."""
    if "torchvision" in sys.modules:
        return None
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    try:
        torch.ops.load_library(str(Path(spec.origin).parent / "_C.so"))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


_library: Any = None


def _prepare() -> None:
    """Before the first import of timm or transformers, which both import torchvision."""
    global _library
    _library = _library or _torchvision_without_binary()


def _timm(name: str, train: bool) -> Built:
    with _quiet():
        _prepare()
        import timm

        try:
            model = timm.create_model(name, pretrained=False, num_classes=100, img_size=224)
        except TypeError:  # models without a fixed image size
            model = timm.create_model(name, pretrained=False, num_classes=100)
    images = torch.randn(4, 3, 224, 224)
    return Built(model, (images,))


# --------------------------------------------------------------------------------------------------------------------------
# transformers
# --------------------------------------------------------------------------------------------------------------------------


def _transformers(cls: str, train: bool, inputs: Callable[[], tuple[dict[str, Any], torch.Tensor]], **config: Any) -> Built:
    with _quiet():
        _prepare()
        import transformers

        model_class = getattr(transformers, cls)
        settings = model_class.config_class(vocab_size=VOCABULARY, **config)
        if getattr(settings, "pad_token_id", None) is None:
            settings.pad_token_id = 0
        model = model_class(settings)
    kwargs, labels = inputs()
    return Built(model, (), {**kwargs, **({"labels": labels} if train else {})})


def _ids(rows: int = 2, length: int = 128) -> torch.Tensor:
    return torch.randint(5, VOCABULARY, (rows, length))


def _text() -> tuple[dict[str, Any], torch.Tensor]:
    ids = _ids()
    return {"input_ids": ids}, ids.clone()


def _masked_text() -> tuple[dict[str, Any], torch.Tensor]:
    ids = _ids()
    mask = torch.ones_like(ids)
    mask[-1, 96:] = 0
    return {"input_ids": ids, "attention_mask": mask}, ids.clone()


def _text_pair() -> tuple[dict[str, Any], torch.Tensor]:
    source, target = _ids(2, 64), _ids(2, 48)
    return {"input_ids": source, "decoder_input_ids": target}, target.roll(-1, 1)


EIGHT: dict[str, Callable[[bool], Built]] = {
    "resnet18": lambda train: _timm("resnet18", train),
    "bert": lambda train: _transformers("BertForMaskedLM", train, _masked_text, num_hidden_layers=4),
    "gpt2": lambda train: _transformers("GPT2LMHeadModel", train, _text, n_layer=4, use_cache=False),
    "llama": lambda train: _transformers(
        "LlamaForCausalLM", train, _text, hidden_size=512, intermediate_size=1376, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=8, use_cache=False,
    ),
    "t5": lambda train: _transformers(
        "T5ForConditionalGeneration", train, _text_pair, num_layers=3, num_decoder_layers=3, use_cache=False, decoder_start_token_id=0
    ),
    "vit_tiny_patch16_224": lambda train: _timm("vit_tiny_patch16_224", train),
    "convnext_atto": lambda train: _timm("convnext_atto", train),
    "mobilenetv3_large_100": lambda train: _timm("mobilenetv3_large_100", train),
}  # fmt: skip
THREE = ("resnet18", "bert", "gpt2")


def build(name: str, *, train: bool = False) -> Built:
    """The named one of the eight, or `module:function` of the user's; the same weights and inputs at every call."""
    torch.manual_seed(SEED)
    made = load_user_model(name) if ":" in name else EIGHT[name](train)
    made.module.train(train)
    _no_dropout(made.module)
    return made


def _no_dropout(model: nn.Module) -> None:
    for module in model.modules():
        for key, value in list(vars(module).items()):
            if isinstance(value, float) and 0.0 < value < 1.0 and ("drop" in key or (key == "p" and "Drop" in type(module).__name__)):
                setattr(module, key, 0.0)


def load_user_model(spec: str) -> Built:
    """`module:function` or `path/to/file.py:function`; it returns a module and args, and perhaps kwargs."""
    where, _, function = spec.partition(":")
    if where.endswith(".py") or Path(where + ".py").exists():
        path = Path(where if where.endswith(".py") else where + ".py")
        loaded = importlib.util.spec_from_file_location(path.stem, path)
        if loaded is None or loaded.loader is None or not path.exists():
            raise SystemExit(f"no such file: {path}")
        module = importlib.util.module_from_spec(loaded)
        sys.modules[path.stem] = module
        loaded.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(where)
        except ImportError as error:
            raise SystemExit(f"cannot import {where}: {error}") from error
    if not hasattr(module, function):
        raise SystemExit(f"{where} has no function {function!r}")
    made = getattr(module, function)()
    if isinstance(made, Built):
        return made
    if not isinstance(made, tuple) or not made or not callable(made[0]):
        raise SystemExit(f"{spec} must return (module, args) or (module, args, kwargs)")
    args = made[1] if len(made) > 1 else ()
    return Built(made[0], tuple(args) if isinstance(args, (tuple, list)) else (args,), dict(made[2]) if len(made) > 2 else {})
