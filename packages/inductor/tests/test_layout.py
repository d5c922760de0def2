"""Channels-last strides: where they fire, where not, results unchanged."""

import torch
from extern_support import compiled, same_as_eager
from lamina_dynshape import FakeMode
from lamina_inductor import layout
from lamina_primops import trace, verify

conv = torch.nn.functional.conv2d


def _traced(fn, *args):
    mode = FakeMode()
    return trace(fn, [mode.from_real(a) for a in args])


def _light(x, w, d):
    y = conv(conv(x, w).relu(), d, padding=1, groups=w.shape[0])
    return ((y + 1).sum((2, 3)), y * 2)


def _inputs():
    return torch.randn(2, 8, 12, 12), torch.randn(20, 8, 1, 1), torch.randn(20, 1, 3, 3)


def test_light_convolutions_get_channels_last():
    gm = _traced(_light, *_inputs())
    assert layout.assign(gm)
    verify(gm, "aten")
    strides = {n.name: n.meta["val"].stride() for n in gm.graph.nodes if n.op == "call_function" and n.meta["val"].dim() == 4}
    images = [s for s in strides.values() if s == (2880, 1, 240, 20)]
    assert len(images) >= 3
    for out in gm.graph.find_nodes(op="output")[0].all_input_nodes:
        assert out.meta["val"].is_contiguous()


def test_results_and_output_strides_are_those_of_eager():
    same_as_eager(_light, *_inputs())


def test_random_numbers_reach_the_elements_that_they_reach_in_eager():
    def fn(x, w, d):
        y = conv(x, w) + 1
        mean, spread = torch.var_mean(conv(x, w), 1, keepdim=True)
        return torch.randn_like(y) + y, torch.native_dropout(conv(y, d, padding=1, groups=w.shape[0]).relu(), 0.5, True)[0] * 2, torch.normal(mean, spread.abs())

    args = _inputs()
    assert layout.assign(_traced(fn, *args))
    graph = compiled(fn, *args)
    torch.manual_seed(0)
    expected = fn(*args)
    torch.manual_seed(0)
    torch.testing.assert_close(graph(*args), expected)


def test_large_weights_stay_as_they_are():
    gm = _traced(lambda x, w: (conv(x, w).relu().sum(),), torch.randn(1, 64, 6, 6), torch.randn(64, 64, 3, 3))
    assert not layout.assign(gm)


def test_large_images_with_small_filters_change():
    gm = _traced(lambda x, w: (conv(x, w).relu().sum(),), torch.randn(1, 3, 64, 64), torch.randn(8, 3, 3, 3))
    assert layout.assign(gm)


def test_not_where_strides_are_looked_at():
    gm = _traced(lambda x, w: (conv(x, w).as_strided((4,), (1,)),), torch.randn(1, 8, 6, 6), torch.randn(8, 8, 1, 1))
    assert not layout.assign(gm)


def test_no_images_no_change():
    assert not layout.assign(_traced(lambda x: (x.view(2, 3, 2, 2).transpose(1, 2) + 1,), torch.randn(6, 4)))
