import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.blocks.fire import fire, weights
from vocab.blocks.fire import FireModule

D = torch.float64
SQUEEZENET = [(96, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128), (256, 48, 192), (384, 48, 192), (384, 64, 256), (512, 64, 256)]


def example():
    """For the contract suite: a small instance whose units are not all at zero, and its inputs."""
    module = FireModule(3, 2, 2, 3).double()
    for conv in (module.squeeze, module.expand1x1, module.expand3x3):
        nn.init.uniform_(conv.bias, 0.3, 0.8)
    return module, (torch.randn(2, 3, 4, 3, dtype=D),)


@pytest.mark.oracle("one 3 by 3 convolution whose 1 by 1 half is padded with zeros")
def test_the_two_halves_are_one_3_by_3_convolution_with_zeros():
    module, x = FireModule(5, 3, 4, 2).double(), torch.randn(2, 5, 6, 7, dtype=D)
    weight = torch.cat([F.pad(module.expand1x1.weight, (1, 1, 1, 1)), module.expand3x3.weight])
    bias = torch.cat([module.expand1x1.bias, module.expand3x3.bias])
    narrow = F.conv2d(x, module.squeeze.weight, module.squeeze.bias).relu()
    torch.testing.assert_close(module(x), F.conv2d(narrow, weight, bias, padding=1).relu())


@pytest.mark.oracle("parameter counts of the paper: fire2 11,920, fire3 12,432")
def test_parameters_are_those_of_the_papers_table():
    counts = [sum(p.numel() for p in FireModule(*sizes).parameters()) for sizes in SQUEEZENET]
    assert counts[:2] == [11_920, 12_432]
    stem, classifier = 96 * 3 * 49 + 96, 512 * 1000 + 1000
    assert stem + sum(counts) + classifier == 1_248_424


def test_the_1_by_1_half_comes_first_and_nothing_is_negative():
    module, x = FireModule(4, 3, 2, 5).double(), torch.randn(2, 4, 5, 5, dtype=D)
    y = module(x)
    assert y.shape[1] == 7 and y.min() == 0
    nn.init.zeros_(module.expand3x3.weight), nn.init.constant_(module.expand3x3.bias, 9.0)
    changed = module(x)
    assert torch.equal(changed[:, :2], y[:, :2]) and (changed[:, 2:] == 9).all()


def test_only_the_3_by_3_half_sees_neighbours():
    module, x = FireModule(2, 4, 3).double(), torch.rand(1, 2, 5, 5, dtype=D)
    nn.init.uniform_(module.squeeze.weight, 0.1, 1), nn.init.uniform_(module.expand1x1.weight, 0.1, 1), nn.init.uniform_(module.expand3x3.weight, 0.1, 1)
    other = x.clone()
    other[..., 2, 2] += 1
    moved = (module(other) != module(x))[0]
    assert moved[:3].sum((1, 2)).tolist() == [1, 1, 1] and moved[3:].sum((1, 2)).tolist() == [9, 9, 9]


def test_squeezing_saves_three_quarters_of_a_plain_layer_and_more():
    fire9 = sum(p.numel() for p in FireModule(512, 64, 256).parameters() if p.ndim > 1)
    assert fire9 == 196_608 and 9 * 512 * 512 / fire9 == 12


def test_numpy_variant_agrees(agree):
    module, x = FireModule(4, 3, 2, 5).double(), torch.randn(4, 5, 6, dtype=D)
    for conv in (module.squeeze, module.expand1x1, module.expand3x3):
        nn.init.zeros_(conv.bias)
    a, b, c = (conv.weight.detach().numpy() for conv in (module.squeeze, module.expand1x1, module.expand3x3))
    agree(fire(x.numpy(), a[..., 0, 0], b[..., 0, 0], c), module(x[None])[0])
    agree(weights(4, 3, 2, 5), [conv.weight.numel() for conv in (module.squeeze, module.expand1x1, module.expand3x3)])


def test_one_channel_everywhere_is_enough():
    module = FireModule(1, 1, 1).double()
    for conv in (module.squeeze, module.expand1x1, module.expand3x3):
        nn.init.ones_(conv.weight), nn.init.zeros_(conv.bias)
    assert module(torch.ones(1, 1, 3, 3, dtype=D))[0, :, 1, 1].tolist() == [1, 9]


def test_wrong_arguments_are_named():
    names = ["in_channels", "squeeze_channels", "expand1x1_channels", "expand3x3_channels"]
    for name in names:
        with pytest.raises(ValueError, match=f"{name}=0 is below 1"):
            FireModule(**{**dict.fromkeys(names, 2), name: 0})
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 4, 4\); expected \(batch, in_channels=4, height, width\)"):
        FireModule(4, 2, 2)(torch.zeros(1, 3, 4, 4))
