"""Library operators that leave a result undefined: recurrent layers without a workspace, attention without its weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lamina

X = torch.randn(2, 5, 8)


@pytest.mark.parametrize("model", [
    nn.LSTM(8, 6, 2, batch_first=True), nn.GRU(8, 6, batch_first=True, bidirectional=True), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
], ids=["lstm", "gru", "encoder"])  # fmt: skip
def test_inference(model):
    model = model.eval()
    with torch.no_grad():
        expected = model(X)
        got = lamina.compile(model, fullgraph=True)(X)
    torch.testing.assert_close(got, expected)


def test_attention_without_weights():
    model = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    with torch.no_grad():
        got = lamina.compile(lambda x: model(x, x, x, need_weights=False)[0], fullgraph=True)(X)
        torch.testing.assert_close(got, model(X, X, X, need_weights=False)[0])
