import numpy as np
import pytest
import torch
from torch import nn

from snippets.attention import perceiver as numpy_variant
from vocab.attention.perceiver import PerceiverAttention, PerceiverIOQuery

D = torch.float64
MASK = torch.tensor([[True] * 7, [True, False, True, True, True, False, False]])


def example():
    module = PerceiverAttention(3, 8, 6, 2).double()
    nn.init.normal_(module.latents)
    return module, (torch.randn(2, 7, 6, dtype=D), MASK)


@pytest.mark.oracle("torch.nn.MultiheadAttention, latents as queries and the input as keys and values")
@pytest.mark.parametrize("masked", [False, True])
def test_the_latents_are_the_queries(masked):
    """A widely copied text has the input attend to the latents. It is the reverse: the latents read the input."""
    module, (x, _) = example()
    theirs = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True).double()
    read = module.read
    with torch.no_grad():
        for name in "qkv":
            getattr(theirs, f"{name}_proj_weight").copy_(getattr(read, f"{name}_proj").weight)
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in (read.q_proj, read.k_proj, read.v_proj)]))
        theirs.out_proj.load_state_dict(read.o_proj.state_dict())
    latents = module.latents.repeat(2, 1, 1)
    expected = theirs(latents, x, x, key_padding_mask=~MASK if masked else None)[0]
    torch.testing.assert_close(module(x, MASK if masked else None), expected)


@pytest.mark.oracle("transformers PerceiverAttention in its cross-attention mode")
def test_is_the_cross_attention_of_perceiver():
    perceiver = pytest.importorskip("transformers.models.perceiver.modeling_perceiver")
    config = perceiver.PerceiverConfig(attention_probs_dropout_prob=0.0)
    theirs = perceiver.PerceiverAttention(config, is_cross_attention=True, qk_channels=8, v_channels=8, num_heads=2, q_dim=8, kv_dim=6,
                                          use_query_residual=False).double()
    module, (x, _) = example()
    for name, ours in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        getattr(theirs.self, name).load_state_dict(getattr(module.read, ours).state_dict())
    theirs.output.dense.load_state_dict(module.read.o_proj.state_dict())
    expected = theirs(module.latents.expand(2, 3, 8), inputs=x)[0]  # normalizes both first
    norm = nn.functional.layer_norm
    ours = module(norm(x, (6,)), latents=norm(module.latents, (8,)).expand(2, 3, 8))
    torch.testing.assert_close(ours, expected)


@pytest.mark.oracle("invariance: the input permuted with its mask, and repeated")
def test_the_input_is_a_set_and_its_size_does_not_matter():
    module, (x, mask) = example()
    order, expected = torch.tensor([4, 2, 6, 0, 3, 1, 5]), module(x, mask)
    torch.testing.assert_close(module(x[:, order], mask[:, order]), expected)
    torch.testing.assert_close(module(x.repeat(1, 5, 1), mask.repeat(1, 5)), expected)
    assert expected.shape == (2, 3, 8)


def test_latents_that_are_alike_stay_alike():
    module, (x, _) = example()
    with torch.no_grad():
        module.latents.copy_(module.latents[:1].expand(3, 8))
    out = module(x)
    torch.testing.assert_close(out, out[:, :1].expand(2, 3, 8))
    out.square().sum().backward()
    torch.testing.assert_close(module.latents.grad, module.latents.grad[:1].expand(3, 8))


@pytest.mark.oracle("counting: M S scores")
def test_scores_are_latents_times_inputs():
    module, (x, _) = example()
    weights = module.read(module.latents.expand(2, 3, 8), x, return_weights=True)[1]
    assert weights.shape == (2, 2, 3, 7) and weights[0, 0].numel() == 3 * 7
    assert 512 * 50_176 / 50_176**2 < 0.011, "ImageNet: 512 latents, 224 · 224 pixels"


def test_every_sequence_starts_from_the_same_latents():
    """A widely copied version passes the latents without a batch axis, to a class that is not defined."""
    module, (x, _) = example()
    torch.testing.assert_close(module(x)[1:], module(x[1:]))
    torch.testing.assert_close(module(x, latents=module.latents.repeat(2, 1, 1)), module(x))


def test_latents_can_be_handed_on():
    module, (x, _) = example()
    again = module(x, latents=module(x))
    assert again.shape == (2, 3, 8) and (again - module(x)).abs().max() > 1e-3


@pytest.mark.oracle("torch.nn.MultiheadAttention, output queries reading the latents")
@pytest.mark.parametrize("d_out", [None, 5])
def test_output_queries_read_the_latents(d_out):
    write, queries, latents = PerceiverIOQuery(6, 8, d_out, 2).double(), torch.randn(2, 9, 6, dtype=D), torch.randn(2, 3, 8, dtype=D)
    theirs = nn.MultiheadAttention(6, 2, kdim=8, vdim=8, batch_first=True).double()
    with torch.no_grad():
        for name in "qkv":
            getattr(theirs, f"{name}_proj_weight").copy_(getattr(write, f"{name}_proj").weight)
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in (write.q_proj, write.k_proj, write.v_proj)]))
        theirs.out_proj.weight.copy_(torch.eye(6)), theirs.out_proj.bias.zero_()
    expected = write.o_proj(theirs(queries, latents, latents)[0])
    assert expected.shape == (2, 9, d_out or 6)
    torch.testing.assert_close(write(queries, latents), expected)
    torch.testing.assert_close(write(queries[:, 4:5], latents), expected[:, 4:5])  # each output by itself


def test_initial_latents_differ_and_are_small():
    latents = PerceiverAttention(64, 64, 6).latents
    assert 0.018 < latents.std() < 0.02 + 1e-3 and latents.abs().max() <= 2
    assert PerceiverAttention(1, 8, 6, bias=False).read.q_proj.bias is None
    assert PerceiverIOQuery(6, 8, bias=False).o_proj.bias is None and PerceiverIOQuery(6, 8).n_heads == 1
    assert PerceiverAttention(1, 8, 6).read.n_heads == 1 and PerceiverAttention(1, 8, 6).read.q_proj.bias is not None
    assert PerceiverIOQuery(6, 8).o_proj.bias is not None and PerceiverIOQuery(6, 8).q_proj.bias is not None


def test_bad_input_is_named():
    module, (x, mask) = example()
    with pytest.raises(ValueError, match="num_latents=0 is not positive"):
        PerceiverAttention(0, 8, 6)
    with pytest.raises(ValueError, match=r"x has shape .* d_input=6\)"):
        module(x[..., :5])
    for latents in (torch.zeros(3, 8, dtype=D), torch.zeros(1, 3, 8, dtype=D), torch.zeros(2, 3, 7, dtype=D)):
        with pytest.raises(ValueError, match=r"latents has shape .* expected \(batch=2, num_latents, d_latent=8\)"):
            module(x, latents=latents)
    with pytest.raises(ValueError, match=r"mask has shape \(2, 5\); expected \(batch=2, inputs=7\)"):
        module(x, mask[:, :5])
    write = PerceiverIOQuery(6, 8).double()
    with pytest.raises(ValueError, match=r"queries has shape .* d_query=6\)"):
        write(torch.zeros(2, 4, 5, dtype=D), torch.zeros(2, 3, 8, dtype=D))
    for latents in (torch.zeros(1, 3, 8, dtype=D), torch.zeros(2, 3, 6, dtype=D)):
        with pytest.raises(ValueError, match=r"latents has shape .* \(batch=2, num_latents, d_latent=8\)"):
            write(torch.zeros(2, 4, 6, dtype=D), latents)


def test_numpy_variant_agrees(agree):
    module, x = PerceiverAttention(3, 8, 6, bias=False).double(), torch.randn(1, 7, 6, dtype=D)
    read = module.read
    w = [p.weight.detach().numpy().T for p in (read.q_proj, read.k_proj, read.v_proj, read.o_proj)]
    agree(numpy_variant.perceive(module.latents.detach().numpy(), x[0].numpy(), *w), module(x)[0])


def test_demo_finds_the_three_clusters_and_equal_latents_never_part():
    moved = np.array(numpy_variant.show(n_latents=6, temperature=0.1, steps=10)[0]["groups"]["latents"])
    assert all(np.linalg.norm(moved - centre, axis=1).min() < 0.3 for centre in numpy_variant.CENTRES)
    same = np.array(numpy_variant.show(alike=True, steps=5)[0]["groups"]["latents"])
    np.testing.assert_allclose(same, same[:1].repeat(len(same), 0))
