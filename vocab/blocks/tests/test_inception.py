import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.blocks.inception import costs, inception
from vocab.blocks.inception import InceptionModule
from vocab.blocks.tests.test_residual import shaken
from vocab.convolution.conv2d import receptive_field

D = torch.float64
GOOGLENET = [(192, 64, 96, 128, 16, 32, 32), (256, 128, 128, 192, 32, 96, 64), (480, 192, 96, 208, 16, 48, 64),
             (512, 160, 112, 224, 24, 64, 64), (512, 128, 128, 256, 24, 64, 64), (512, 112, 144, 288, 32, 64, 64),
             (528, 256, 160, 320, 32, 128, 128), (832, 256, 160, 320, 32, 128, 128), (832, 384, 192, 384, 48, 128, 128)]


def example():
    """For the contract suite: a small instance and its inputs."""
    return InceptionModule(2, 2, 2, 2, 2, 2, 2, norm=True).double(), (torch.randn(2, 2, 4, 3, dtype=D),)


@pytest.mark.oracle("the four branches written out with torch.nn.functional")
@pytest.mark.parametrize("norm", [False, True])
def test_is_four_branches_side_by_side_in_a_fixed_order(norm):
    module, x = shaken(InceptionModule(4, 2, 3, 5, 2, 4, 3, norm=norm)).eval(), torch.randn(2, 4, 6, 7, dtype=D)

    def unit(m, y, padding=0):
        y = F.conv2d(y, m[0].weight, m[0].bias, padding=padding)
        if norm:
            y = F.batch_norm(y, m[1].running_mean, m[1].running_var, m[1].weight, m[1].bias)
        return y.relu()

    expected = torch.cat([
        unit(module.one, x),
        unit(module.three[1], unit(module.three[0], x), 1),
        unit(module.five[1], unit(module.five[0], x), 2),
        unit(module.pool[1], F.max_pool2d(x, 3, 1, 1)),
    ], 1)
    torch.testing.assert_close(module(x), expected)
    assert expected.shape[1] == 2 + 5 + 4 + 3


@pytest.mark.oracle("GoogLeNet's table: module 3a has 159K weights (in units of 1,024) and 256 channels")
def test_weights_are_those_of_the_papers_table():
    count = lambda sizes: sum(p.numel() for p in InceptionModule(*sizes).parameters() if p.ndim > 1)  # noqa: E731
    assert count(GOOGLENET[0]) == 163_328 and 163_328 // 1024 == 159
    for sizes, thousands in zip(GOOGLENET, [159, 380, 364, 437]):
        assert count(sizes) / 1024 == pytest.approx(thousands, rel=0.01)
    assert count(GOOGLENET[4]) == 509_440, "4c: the paper's 463K does not follow from its sizes"
    for before, after in zip(GOOGLENET, GOOGLENET[1:]):
        assert before[1] + before[3] + before[5] + before[6] == after[0]
    outside = 64 * 3 * 49 + 64 * 64 + 192 * 64 * 9 + 1024 * 1000
    assert sum(map(count, GOOGLENET)) + outside == pytest.approx(7.0e6, rel=0.01)


def test_the_branches_are_not_affine_and_bare_convolutions_are():
    """A widely copied version has no ReLU: two convolutions in a row are one."""
    reduce, five = nn.Conv2d(6, 2, 1).double(), nn.Conv2d(2, 3, 5, padding=2, bias=False).double()
    one = torch.einsum("omuv,mc->ocuv", five.weight, reduce.weight[:, :, 0, 0])
    x, y = torch.randn(2, 1, 6, 7, 7, dtype=D)
    nn.init.zeros_(reduce.bias)
    torch.testing.assert_close(five(reduce(x)), F.conv2d(x, one, padding=2))
    module = InceptionModule(6, 2, 3, 4, 2, 3, 2).double()
    rest = module(x + y) - module(x) - module(y) + module(torch.zeros_like(x))
    assert all(part.abs().max() > 0.01 for part in rest.split([2, 4, 3, 2], 1)), "each branch bends"


def test_inception_v3_factorizes_and_is_another_module():
    """A widely copied list names v3 and v4 as users; two 3 by 3 see what a 5 by 5 does, for 18 instead of 25 weights."""
    assert receptive_field([(3, 1, 1), (3, 1, 1)])[0] == receptive_field([(5, 1, 2)])[0] == 5
    assert 2 * 3 * 3 == 18 and InceptionModule(1, 1, 1, 1, 1, 1, 1).five[1][0].weight.numel() == 25
    assert not any(isinstance(m, nn.BatchNorm2d) for m in InceptionModule(2, 1, 1, 1, 1, 1, 1).modules())


def test_the_pooling_branch_keeps_the_size_and_takes_the_largest_neighbour():
    module = InceptionModule(1, 1, 1, 1, 1, 1, 1).double()
    nn.init.ones_(module.pool[1][0].weight), nn.init.zeros_(module.pool[1][0].bias)
    x = torch.zeros(1, 1, 5, 5, dtype=D)
    x[..., 2, 2] = 7
    y = module(x)[0, 3]
    assert y.shape == (5, 5) and (y[1:4, 1:4] == 7).all() and y.sum() == 63


def test_with_normalization_there_are_no_biases():
    assert all(m.bias is None for m in InceptionModule(2, 1, 1, 1, 1, 1, 1, norm=True).modules() if isinstance(m, nn.Conv2d))
    assert all(m.bias is not None for m in InceptionModule(2, 1, 1, 1, 1, 1, 1).modules() if isinstance(m, nn.Conv2d))


def test_numpy_variant_agrees(agree):
    module, x = InceptionModule(4, 2, 3, 5, 2, 4, 3).double(), torch.randn(4, 6, 7, dtype=D)
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.zeros_(m.bias)
    w = [m.weight.detach().numpy() for m in (module.one[0], module.three[0][0], module.three[1][0], module.five[0][0], module.five[1][0], module.pool[1][0])]
    flat = [v[..., 0, 0] if v.shape[-1] == 1 else v for v in w]
    agree(inception(x.numpy(), *flat), module(x[None])[0])
    agree(sum(costs(4, 2, 3, 5, 2, 4, 3).values()), sum(v.size for v in w))


def test_wrong_arguments_are_named():
    names = ["in_channels", "c1x1", "c3x3_reduce", "c3x3", "c5x5_reduce", "c5x5", "pool_proj"]
    for name in names:
        with pytest.raises(ValueError, match=f"{name}=0 is below 1"):
            InceptionModule(**{**dict.fromkeys(names, 2), name: 0})
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 4, 4\); expected \(batch, in_channels=2, height, width\)"):
        InceptionModule(2, 1, 1, 1, 1, 1, 1)(torch.zeros(1, 3, 4, 4))
