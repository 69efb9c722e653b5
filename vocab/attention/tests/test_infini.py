import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import infini as numpy_variant
from vocab.attention.infini import InfiniAttention
from vocab.attention.linear import linear_attention
from vocab.attention.multi_head import merge_heads, split_heads

D = torch.float64


def example():
    module = InfiniAttention(8, 2, 3).double()
    torch.nn.init.normal_(module.gate)
    return module, (torch.randn(2, 8, 8, dtype=D),)


def phi(x):
    return torch.where(x > 0, x + 1, x.exp())


def gated(value, **settings):
    module = InfiniAttention(8, 2, 3, **settings).double()
    torch.nn.init.constant_(module.gate, value)
    return module


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention within each segment")
def test_without_the_memory_it_is_attention_within_segments():
    module, (x,) = gated(-1e9), example()[1]
    segment = torch.arange(8) // 3
    mask = (segment[:, None] == segment) & torch.ones(8, 8, dtype=torch.bool).tril()
    q, k, v = (split_heads(p(x), 4) for p in (module.q_proj, module.k_proj, module.v_proj))
    expected = module.o_proj(merge_heads(F.scaled_dot_product_attention(q, k, v, mask)))
    torch.testing.assert_close(module(x)[0], expected)


@pytest.mark.oracle("linear attention over all segments before")
def test_the_memory_alone_is_linear_attention_to_earlier_segments():
    module, (x,) = gated(1e9, delta_rule=False), example()[1]
    q, k, v = (split_heads(p(x), 4) for p in (module.q_proj, module.k_proj, module.v_proj))
    out = module(x)[0]
    torch.testing.assert_close(out[:, :3], torch.zeros(2, 3, 8, dtype=D))  # nothing is stored yet: zero, not 0/0
    for start, end in [(3, 6), (6, 8)]:
        weights = phi(q[:, :, start:end]) @ phi(k[:, :, :start]).mT
        expected = weights / weights.sum(-1, keepdim=True) @ v[:, :, :start]
        torch.testing.assert_close(out[:, start:end], module.o_proj(merge_heads(expected)))


@pytest.mark.oracle("the sums of linear attention over all tokens")
def test_the_memory_is_the_state_of_linear_attention():
    module, (x,) = gated(0.0, delta_rule=False), example()[1]
    k, v = (split_heads(p(x), 4) for p in (module.k_proj, module.v_proj))
    _, state = linear_attention(phi(k), phi(k), v, causal=False)
    torch.testing.assert_close(module(x)[1], state)


@pytest.mark.oracle("the equations of the paper, segment by segment")
@pytest.mark.parametrize("delta_rule", [False, True])
def test_equals_the_equations(delta_rule):
    module, (x,) = InfiniAttention(8, 2, 3, delta_rule=delta_rule).double(), example()[1]
    with torch.no_grad():
        module.gate.copy_(torch.tensor([-0.7, 1.2]))
    for b in range(2):
        heads = []
        for h in range(2):
            q, k, v = (p(x[b])[:, 4 * h : 4 * h + 4] for p in (module.q_proj, module.k_proj, module.v_proj))
            M, z, out = torch.zeros(4, 4, dtype=D), torch.full((4,), 1e-300, dtype=D), []
            for s in (slice(0, 3), slice(3, 6), slice(6, 8)):
                recalled = phi(q[s]) @ M / (phi(q[s]) @ z)[:, None]
                causal = torch.full((len(q[s]),) * 2, -torch.inf, dtype=D).triu(1)
                local = (q[s] @ k[s].T / 2 + causal).softmax(-1) @ v[s]
                g = torch.sigmoid(module.gate[h])
                out.append(g * recalled + (1 - g) * local)
                old = phi(k[s]) @ M / (phi(k[s]) @ z)[:, None] if delta_rule else 0
                M, z = M + phi(k[s]).T @ (v[s] - old), z + phi(k[s]).sum(0)
            heads.append(torch.cat(out))
        torch.testing.assert_close(module(x)[0][b], torch.cat(heads, -1) @ module.o_proj.weight.T)


@pytest.mark.oracle("one call over the whole text")
@pytest.mark.parametrize("sizes", [[3, 3, 2], [6, 2]])
def test_the_memory_carries_over_calls(sizes):
    module, (x,) = example()
    outs, memory = [], None
    for part in x.split(sizes, 1):
        y, memory = module(part, memory)
        outs.append(y)
    whole, final = module(x)
    torch.testing.assert_close(torch.cat(outs, 1), whole)
    torch.testing.assert_close(memory, final)


def test_the_delta_rule_does_not_store_what_is_there():
    k = torch.randn(1, 1, 1, 4, dtype=D)
    M, z = torch.randn(1, 1, 4, 4, dtype=D), torch.rand(1, 1, 4, dtype=D) + 1
    returned = phi(k) @ M / (phi(k) @ z.unsqueeze(-1))
    module = InfiniAttention(4, 1, 3).double()
    eye = torch.eye(4, dtype=D)
    with torch.no_grad():
        module.k_proj.weight.copy_(eye)
        module.v_proj.weight.copy_(torch.linalg.lstsq(k[0, 0], returned[0, 0]).solution.T)
    (after, _), (additive, _) = module(k[0], (M, z))[1], _additive(module)(k[0], (M, z))[1]
    torch.testing.assert_close(after, M)
    assert (additive - M).abs().max() > 1e-3


def _additive(module):
    other = InfiniAttention(4, 1, 3, delta_rule=False).double()
    other.load_state_dict(module.state_dict())
    return other


def test_the_memory_has_one_size_for_any_length():
    module = InfiniAttention(8, 2, 3)
    assert [m.shape for m in module(torch.randn(1, 3, 8))[1]] == [m.shape for m in module(torch.randn(1, 30, 8))[1]] == [(1, 2, 4, 4), (1, 2, 4)]
    assert module.gate.tolist() == [0, 0] and module.q_proj.bias is None and module.delta_rule


@pytest.mark.oracle("Jacobian: every earlier token is reached, no later one")
def test_it_is_causal_and_reaches_back():
    module, (x,) = example()
    jacobian = torch.autograd.functional.jacobian(lambda y: module(y)[0], x).abs().sum((2, 5))[0, :, 0]
    assert torch.equal(jacobian > 0, torch.ones(8, 8, dtype=torch.bool).tril())


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="segment_len=0 is not positive"):
        InfiniAttention(8, 2, 0)
    assert InfiniAttention(8, 2, 1, bias=True).q_proj.bias is not None
    module, (x,) = example()
    with pytest.raises(ValueError, match=r"x has shape .* d_model=8"):
        module(x[..., :7])
    M, z = module(x)[1]
    for bad in (M[:1], M[:, :1], M[..., :3], M[:, :, :3]):
        with pytest.raises(ValueError, match=r"memory\[0\] has shape"):
            module(x, (bad, z))
    for bad in (z[:1], z[:, :1], z[..., :3]):
        with pytest.raises(ValueError, match=r"memory\[1\] has shape"):
            module(x, (M, bad))


@pytest.mark.parametrize("delta_rule", [False, True])
def test_numpy_variant_agrees(agree, delta_rule):
    module, x = InfiniAttention(8, 1, 3, delta_rule=delta_rule).double(), torch.randn(1, 8, 8, dtype=D)
    torch.nn.init.constant_(module.gate, 0.4)
    q, k, v = (p(x)[0].detach().numpy() for p in (module.q_proj, module.k_proj, module.v_proj))
    module.o_proj = torch.nn.Identity()
    share = float(torch.sigmoid(torch.tensor(0.4, dtype=D)))
    agree(numpy_variant.infini_attention(q, k, v, 3, share, delta_rule), module(x)[0][0])


def test_demo_keeps_as_many_pairs_as_there_are_rows():
    errors = [y for _, y in numpy_variant.show(pairs=16, width=8)[0]["series"]["additive"]]
    assert max(errors[:8]) < 0.2 and min(errors[8:]) > 0.5
    random = [y for _, y in numpy_variant.show(pairs=16, width=8, kind="random")[0]["series"]["additive"]]
    assert np.mean(random[4:8]) > 0.5
