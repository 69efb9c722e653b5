import numpy as np
import pytest
import torch
from torch import nn

from snippets.attention import self as numpy_variant
from vocab.attention.self import SelfAttention

D = torch.float64


def example():
    return SelfAttention(6, 4, bias=True).double(), (torch.randn(2, 5, 6, dtype=D),)


def with_weights(d_model, **matrices):
    module = SelfAttention(d_model).double()
    with torch.no_grad():
        for name, matrix in matrices.items():
            getattr(module, f"{name}_proj").weight.copy_(matrix)
    return module


@pytest.mark.oracle("torch.nn.MultiheadAttention with one head")
@pytest.mark.parametrize("is_causal", [False, True])
def test_equals_pytorchs_layer_with_one_head(is_causal):
    module, x = SelfAttention(6, bias=True).double(), torch.randn(2, 5, 6, dtype=D)
    theirs = nn.MultiheadAttention(6, 1, batch_first=True).double()
    parts = [module.q_proj, module.k_proj, module.v_proj]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        theirs.out_proj.weight.copy_(module.o_proj.weight)
        theirs.out_proj.bias.copy_(module.o_proj.bias)
    future = torch.ones(5, 5, dtype=torch.bool).triu(1) if is_causal else None
    expected, weights = theirs(x, x, x, attn_mask=future)
    ours = module(x, is_causal=is_causal, return_weights=True)
    torch.testing.assert_close(ours[0], expected)
    torch.testing.assert_close(ours[1], weights)
    # PyTorch's layer expects (T, B, D) by default, and then attends across the batch without complaint.
    theirs.batch_first = False
    assert (theirs(x, x, x)[0] - module(x)).abs().max() > 0.01


@pytest.mark.oracle("the triple loop over queries, keys and coordinates")
def test_equals_three_loops():
    module = SelfAttention(3, 2).double()
    x = torch.randn(1, 4, 3, dtype=D)
    q, k, v = (p(x)[0].tolist() for p in (module.q_proj, module.k_proj, module.v_proj))
    mixed = []
    for i in range(4):
        scores = []
        for j in range(4):
            scores.append(sum(q[i][c] * k[j][c] for c in range(2)) / 2**0.5)
        weights = np.exp(scores) / np.exp(scores).sum()
        mixed.append([sum(weights[j] * v[j][c] for j in range(4)) for c in range(2)])
    torch.testing.assert_close(module(x)[0], torch.tensor(mixed, dtype=D) @ module.o_proj.weight.T)


@pytest.mark.oracle("equivariance: permuted tokens give permuted outputs")
def test_knows_no_order_until_a_mask_brings_one():
    module, (x,) = example()
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(module(x[:, order]), module(x)[:, order])
    assert (module(x[:, order], is_causal=True) - module(x, is_causal=True)[:, order]).abs().max() > 0.01


@pytest.mark.oracle("Jacobian: every token reaches every token, no sequence another")
def test_every_token_reads_every_token_of_its_own_sequence():
    module, (x,) = example()
    jacobian = torch.autograd.functional.jacobian(module, x).abs().sum((2, 5))
    assert (jacobian[0, :, 0] > 0).all() and (jacobian[1, :, 1] > 0).all()
    assert (jacobian[0, :, 1] == 0).all() and (jacobian[1, :, 0] == 0).all()


def test_without_queries_every_output_is_the_mean():
    eye, x = torch.eye(6, dtype=D), torch.randn(2, 5, 6, dtype=D)
    module = with_weights(6, q=torch.zeros(6, 6), v=eye, o=eye)
    torch.testing.assert_close(module(x), x.mean(1, keepdim=True).expand(2, 5, 6))


def test_masks_hide_keys():
    module, (x,) = example()
    seen = torch.tensor([True, True, False, True, False])
    weights = module(x, attn_mask=seen, is_causal=True, return_weights=True)[1]
    assert torch.equal(weights[0] > 0, seen & torch.ones(5, 5, dtype=torch.bool).tril())
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5, dtype=D))


def test_one_projection_for_all_makes_a_token_attend_to_itself():
    """A widely copied formula sets Q = K = V = xW. Then scores are symmetric, and the own score is rarely beaten."""
    x = torch.randn(50, 8, 16, dtype=D)
    w = torch.randn(16, 16, dtype=D) / 4
    shared = with_weights(16, q=w, k=w)
    scores = shared.q_proj(x) @ shared.k_proj(x).mT
    torch.testing.assert_close(scores, scores.mT)
    best = shared(x, return_weights=True)[1].argmax(-1)
    assert (best == torch.arange(8)).double().mean() > 0.9
    best = with_weights(16, q=w, k=torch.randn(16, 16, dtype=D) / 4)(x, return_weights=True)[1].argmax(-1)
    assert (best == torch.arange(8)).double().mean() < 0.3


def test_there_are_four_matrices_to_learn():
    """A widely copied function has Q = K = V = x and none: there is nothing that training could change."""
    assert [tuple(p.shape) for p in SelfAttention(6, 4).parameters()] == [(4, 6), (4, 6), (4, 6), (6, 4)]


@pytest.mark.oracle("published size: 69 GB of weights for 32,768 tokens and 32 heads")
def test_stored_weights_grow_with_the_square():
    assert 32 * 32_768**2 * 2 / 1e9 == pytest.approx(68.7, abs=0.05)
    module = SelfAttention(2)
    sizes = [module(torch.zeros(1, T, 2), return_weights=True)[1].numel() for T in (10, 20)]
    assert sizes == [100, 400]


def test_bad_input_is_named():
    module, (x,) = example()
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 7\); expected \(batch, time, d_model=6\)"):
        module(torch.zeros(2, 5, 7, dtype=D))
    with pytest.raises(ValueError, match=r"attn_mask has \(4, 5\)"):
        module(x, attn_mask=torch.ones(4, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="d_head=0 is not positive"):
        SelfAttention(6, 0)
    assert SelfAttention(6, 1).d_head == 1


@pytest.mark.parametrize("masked", [False, True])
def test_numpy_variant_agrees(agree, masked):
    module, x = SelfAttention(6, 4).double(), torch.randn(1, 5, 6, dtype=D)
    w = [p.weight.detach().numpy().T for p in (module.q_proj, module.k_proj, module.v_proj, module.o_proj)]
    mask = np.tri(5, dtype=bool) if masked else None
    out, weights = module(x, is_causal=masked, return_weights=True)
    ours = numpy_variant.self_attention(x[0].numpy(), *w, mask=mask)
    agree(ours[0], out[0])
    agree(ours[1], weights[0])


def test_demo_is_symmetric_only_with_one_shared_projection():
    def asymmetry(separate):
        """Log weights are scores less a constant of their row, which this difference takes out."""
        log = np.log(numpy_variant.show(separate=separate)[0]["values"])
        skew = log - log.T
        return np.abs(skew - (skew[:, :1] - skew[:, :1].T)).max()

    assert asymmetry(False) < 1e-9 and asymmetry(True) > 0.1
