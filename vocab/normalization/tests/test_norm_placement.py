import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.normalization import norm_placement as numpy_variant
from vocab.normalization.norm_placement import ResidualNorm
from vocab.normalization.rms import rms_norm

D = torch.float64
PLACEMENTS = ["pre", "post", "sandwich", "reordered"]


def example():
    sublayer = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
    return ResidualNorm(sublayer, 6, placement="sandwich", eps=0.01).double(), (torch.randn(2, 3, 6, dtype=D),)


class Calls(nn.Module):
    """A function as a sublayer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def layer_norm(x):
    return F.layer_norm(x, x.shape[-1:])


@pytest.mark.oracle("torch.nn.TransformerEncoderLayer, norm_first both ways")
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_two_of_them_are_an_encoder_layer_of_torch_with_the_same_weights(placement):
    theirs = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=placement == "pre").double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    attention = Calls(lambda x: theirs.self_attn(x, x, x)[0])
    feed_forward = Calls(lambda x: theirs.linear2(theirs.linear1(x).relu()))
    ours = nn.Sequential(*(ResidualNorm(f, 8, placement=placement).double() for f in (attention, feed_forward)))
    ours[0].norm.load_state_dict(theirs.norm1.state_dict()), ours[1].norm.load_state_dict(theirs.norm2.state_dict())
    x = torch.randn(2, 5, 8, dtype=D)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.oracle("the four formulas written out")
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_the_four_formulas(norm):
    x, linear = torch.randn(2, 5, 8, dtype=D), nn.Linear(8, 8).double()
    N = layer_norm if norm == "layer" else (lambda x: rms_norm(x, eps=1e-5))
    expected = {"pre": x + linear(N(x)), "post": N(x + linear(x)), "sandwich": x + N(linear(N(x))), "reordered": x + N(linear(x))}
    for placement, y in expected.items():
        torch.testing.assert_close(ResidualNorm(linear, 8, placement=placement, norm=norm).double()(x), y)


@pytest.mark.oracle("a sublayer that gives zero")
def test_a_silent_sublayer_makes_pre_norm_the_identity_and_post_norm_a_norm():
    x, silent = 3 + 2 * torch.randn(2, 5, 8, dtype=D), Calls(lambda x: 0 * x)
    for placement in ("pre", "sandwich", "reordered"):
        torch.testing.assert_close(ResidualNorm(silent, 8, placement=placement).double()(x), x)
    torch.testing.assert_close(ResidualNorm(silent, 8, placement="post").double()(x), layer_norm(x))


def stack(depth, placement, *, width=256, tokens=16, gain=1.0, average=False):
    """The stream's variance and its gradient in front of each layer and behind the last, for linear sublayers."""
    x = layer_norm(torch.randn(1, tokens, width, dtype=D)).requires_grad_()
    stream = [x]
    for i in range(depth):
        W = gain * torch.randn(width, width, dtype=D) / width**0.5
        mean = average and i % 2 == 0
        f = Calls(lambda x, W=W, mean=mean: (x.mean(1, keepdim=True).expand_as(x) if mean else x) @ W)
        stream.append(ResidualNorm(f, width, placement=placement).double()(stream[-1]))
    end = stream[-1] if placement == "post" else layer_norm(stream[-1])
    gradients = torch.autograd.grad(end, stream, torch.randn_like(end))
    return [s.detach().var().item() for s in stream], gradients


def size(gradients):
    return [g.square().mean().sqrt().item() for g in gradients]


@pytest.mark.oracle("linear fit: variance 1 + g² L")
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_the_stream_of_pre_norm_grows_linearly_and_that_of_post_norm_stays_at_one(gain):
    variance, _ = stack(32, "pre", gain=gain)
    slope, intercept = np.polyfit(np.arange(33), variance, 1)
    assert slope == pytest.approx(gain**2, rel=0.1) and intercept == pytest.approx(1.0, abs=0.5)
    variance, _ = stack(32, "post", gain=gain)
    assert variance == pytest.approx([1.0] * 33, abs=1e-3)


@pytest.mark.oracle("closed form: each layer adds variance 1, whatever the gain")
@pytest.mark.parametrize("placement", ["sandwich", "reordered"])
@pytest.mark.parametrize("gain", [0.1, 10.0])
def test_a_norm_behind_the_sublayer_takes_its_gain_away(placement, gain):
    variance, _ = stack(16, placement, gain=gain)
    np.testing.assert_allclose(variance, 1 + np.arange(17), rtol=0.15)


@pytest.mark.oracle("closed form 1/sqrt(1 + g² l), Xiong et al. 2020")
@pytest.mark.parametrize("depth", [4, 16, 64])
def test_pre_norm_gives_its_last_layer_one_over_root_depth_and_post_norm_the_whole_gradient(depth):
    _, pre = stack(depth, "pre")
    np.testing.assert_allclose(size(pre), 1 / np.sqrt(1 + np.arange(depth + 1)), rtol=0.25)
    _, post = stack(depth, "post")
    np.testing.assert_allclose(size(post), np.ones(depth + 1), rtol=0.25)


@pytest.mark.oracle("closed form: a factor 1/sqrt(2) for every layer that averages equal tokens")
def test_where_sublayers_average_post_norm_loses_what_differs_between_tokens_and_pre_norm_does_not():
    apart = {}
    for placement in ("post", "pre"):
        _, gradients = stack(32, placement, tokens=16, average=True)
        apart[placement] = size([g - g.mean(1, keepdim=True) for g in gradients])
    assert apart["post"][0] < 0.06 and apart["post"][-1] > 0.9
    assert apart["post"][16] / apart["post"][32] == pytest.approx(2**-4, rel=0.3), "eight of sixteen layers average"
    assert apart["pre"][0] > 0.5 * apart["pre"][-1]


def test_a_pre_norm_stack_without_a_last_norm_is_as_loud_as_its_stream():
    variance, _ = stack(64, "pre")
    assert variance[-1] > 40


@pytest.mark.parametrize(("one", "other"), [("pre", "post"), ("pre", "reordered"), ("post", "reordered")])
def test_erratum_placements_are_not_equivalent_and_weights_load_across_without_an_error(one, other):
    """A widely copied text has either placement as a matter of taste, and a widely copied block is post-norm but said to be GPT's."""
    x, linear = torch.randn(2, 5, 8, dtype=D), nn.Linear(8, 8).double()
    first, second = (ResidualNorm(linear, 8, placement=p).double() for p in (one, other))
    second.load_state_dict(first.state_dict())
    assert (first(x) - second(x)).abs().max() > 0.3


@pytest.mark.oracle("transformers: GPT-2 and ViT are pre-norm, BERT is post-norm")
def test_erratum_gpt_2_and_vit_are_pre_norm_and_bert_is_post_norm():
    """Only a post-norm layer brings a loud stream back to one."""
    t = pytest.importorskip("transformers")
    small = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    models = {
        "GPT2Block": t.GPT2Model(t.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=10, n_positions=8)),
        "ViTLayer": t.ViTModel(t.ViTConfig(**small, image_size=8, patch_size=4)),
        "BertLayer": t.BertModel(t.BertConfig(**small, vocab_size=10)),
    }
    for name, model in models.items():
        layer = next(m for m in model.eval().modules() if type(m).__name__ == name)
        y = layer(10 * torch.randn(1, 4, 8))
        spread = (y[0] if isinstance(y, tuple) else y).std().item()
        assert spread == pytest.approx(1.0, abs=0.1) if name == "BertLayer" else spread > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(placement="peri"), "placement='peri' is none of pre, post, sandwich, reordered"),
        (dict(norm="batch"), "norm='batch' is none of layer, rms"),
        (dict(dropout=1.0), "dropout=1.0 is not from 0 to below 1"),
        (dict(dropout=-0.1), "dropout=-0.1 is not from 0 to below 1"),
    ],
)
def test_other_words_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResidualNorm(nn.Identity(), 8, **arguments)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"x has shape \(2, 8\); expected \(batch, time, d_model=8\)"):
        ResidualNorm(nn.Identity(), 8)(torch.zeros(2, 8))
    with pytest.raises(ValueError, match=r"sublayer returned \(2, 3, 1\); a residual sum needs \(2, 3, 8\)"):
        ResidualNorm(nn.Linear(8, 1), 8)(torch.zeros(2, 3, 8))


@pytest.mark.oracle("closed form: every number added is 0 or 1/(1 - p)")
def test_dropout_hits_what_the_sublayer_adds_and_only_in_training():
    x = torch.randn(4, 50, 8, dtype=D)
    module = ResidualNorm(Calls(torch.ones_like), 8, dropout=0.75).double()
    assert (module(x) - x).round(decimals=9).unique().tolist() == [0.0, 4.0]
    torch.testing.assert_close(module.eval()(x), x + 1)
    torch.testing.assert_close(ResidualNorm(Calls(torch.ones_like), 8).double()(x), x + 1)


def test_what_comes_after_x_is_handed_to_the_sublayer():
    class Scaled(nn.Module):
        def forward(self, x, by, plus=0.0):
            return by * x + plus

    x = torch.randn(2, 5, 8, dtype=D)
    torch.testing.assert_close(ResidualNorm(Scaled(), 8).double()(x, 3.0, plus=2.0), x + 3 * layer_norm(x) + 2)


def test_defaults_are_pre_norm_with_layer_norm_and_torchs_eps():
    module, x = ResidualNorm(nn.Identity(), 8).double(), 1e-3 * torch.randn(2, 5, 8, dtype=D)
    torch.testing.assert_close(module(x), x + layer_norm(x))
    assert "placement='pre'" in repr(module)
    assert len(list(module.parameters())) == 2 and len(list(ResidualNorm(nn.Identity(), 8, placement="sandwich").parameters())) == 4


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_numpy_variant_agrees_forwards_and_backwards(agree, placement):
    x, W, g = torch.randn(3, 6, dtype=D, requires_grad=True), torch.randn(6, 6, dtype=D), torch.randn(3, 6, dtype=D)
    module = ResidualNorm(Calls(lambda u: 0.7 * u @ W), 6, placement=placement).double()
    y = module(x[None])[0]
    ours, backward = numpy_variant.residual_norm(x.detach().numpy(), numpy_variant.linear(W.numpy(), 0.7), placement)
    agree(ours, y)
    agree(backward(g.numpy()), torch.autograd.grad(y, x, g)[0])


def test_the_average_of_the_demo_has_the_gradient_of_torch(agree):
    x, W, g = torch.randn(16, 6, dtype=D, requires_grad=True), torch.randn(6, 6, dtype=D), torch.randn(16, 6, dtype=D)
    y, backward = numpy_variant.average(W.numpy(), 0.7)(x.detach().numpy())
    theirs = 0.7 * x.mean(0, keepdim=True).expand(16, 6) @ W
    agree(y, theirs)
    agree(backward(g.numpy()), torch.autograd.grad(theirs, x, g)[0])


def test_demo_shows_the_share_of_the_last_layer():
    ends = {p: numpy_variant.stack(32, 1.0, p, False)[1][-1] for p in PLACEMENTS}
    assert ends["post"] == pytest.approx(1.0, abs=0.1) and ends["pre"] == pytest.approx(33**-0.5, rel=0.1)
