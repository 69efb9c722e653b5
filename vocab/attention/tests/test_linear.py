import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import linear as numpy_variant
from vocab.attention.linear import LinearAttention, linear_attention
from vocab.attention.multi_head import merge_heads, split_heads
from vocab.kernels.interpret import interpreting

D = torch.float64


def example():
    return LinearAttention(8, 2, chunk_size=3).double(), (torch.randn(2, 7, 8, dtype=D),)


def features(T=7, m=5, e=3):
    return (x.exp() if i < 2 else x for i, x in enumerate(torch.randn(2, T, w, dtype=D) for w in (m, m, e)))


def explicit(q, k, v, causal, eps=0.0):
    """All weights, normalized row by row."""
    weights = torch.einsum("...im,...jm->...ij", q, k)
    if causal:
        weights = weights * torch.ones(weights.shape[-2:], dtype=D).tril()
    return weights @ v / (weights.sum(-1, keepdim=True) + eps)


@pytest.mark.oracle("the matrix of weights written out and normalized row by row")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 64])
def test_equals_the_explicit_weights_for_every_chunk_size(chunk_size, causal):
    q, k, v = features()
    out, _ = linear_attention(q, k, v, causal=causal, chunk_size=chunk_size, eps=0.1)
    torch.testing.assert_close(out, explicit(q, k, v, causal, 0.1))


@pytest.mark.oracle("the recurrence S_t = S_{t-1} + k_t v_t^T, z_t = z_{t-1} + k_t")
def test_equals_the_recurrence():
    q, k, v = (x[0] for x in features())
    S, z = torch.zeros(5, 3, dtype=D), torch.zeros(5, dtype=D)
    out, (memory, total) = linear_attention(q, k, v, chunk_size=3)
    for t in range(7):
        S, z = S + torch.outer(k[t], v[t]), z + k[t]
        torch.testing.assert_close(out[t], (q[t] @ S) / (q[t] @ z))
    torch.testing.assert_close((memory, total), (S, z))


@pytest.mark.oracle("the definition with elu(x) + 1")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", ["elu+1", "relu", "square"])
def test_the_module_is_its_projections_and_features_around_it(name, causal):
    maps = {"elu+1": lambda x: torch.where(x > 0, x + 1, x.exp()), "relu": lambda x: x.clamp_min(0), "square": torch.square}
    module = LinearAttention(8, 2, feature_map=maps[name] if name == "square" else name, causal=causal, eps=1e-3).double()
    x = example()[1][0]
    q, k, v = (split_heads(p(x), 4) for p in (module.q_proj, module.k_proj, module.v_proj))
    expected = module.o_proj(merge_heads(explicit(maps[name](q), maps[name](k), v, causal, 1e-3)))
    torch.testing.assert_close(module(x)[0], expected)


@pytest.mark.oracle("one call over the whole text")
@pytest.mark.parametrize("sizes", [[1] * 7, [4, 3]])
def test_the_state_carries_on(sizes):
    """A widely copied version is not causal and has no state, so it cannot serve the streaming that it advertises."""
    module, (x,) = example()
    outs, state = [], None
    for part in x.split(sizes, 1):
        y, state = module(part, state)
        outs.append(y)
    whole, final = module(x)
    torch.testing.assert_close(torch.cat(outs, 1), whole)
    torch.testing.assert_close(state, final)
    jacobian = torch.autograd.functional.jacobian(lambda v: module(v)[0][0].sum(-1), x)[:, 0].abs().sum(-1)
    assert torch.equal(jacobian > 0, torch.ones(7, 7, dtype=torch.bool).tril())


def test_a_constant_value_comes_back_and_without_the_normalizer_does_not():
    """A widely copied formula leaves the normalizer out; its weights do not sum to 1."""
    q, k, _ = features()
    v = torch.full((2, 7, 3), 2.5, dtype=D)
    for causal in (True, False):
        torch.testing.assert_close(linear_attention(q, k, v, causal=causal)[0], v)
    assert (q @ (k.mT @ v) / 2.5 - 1).abs().min() > 1


def test_order_of_the_keys_does_not_matter_unless_causal():
    q, k, v = features()
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    torch.testing.assert_close(linear_attention(q, k[:, order], v[:, order], causal=False)[0], linear_attention(q, k, v, causal=False)[0])
    assert (linear_attention(q, k[:, order], v[:, order])[0] - linear_attention(q, k, v)[0]).abs().max() > 0.01


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention, by random features of exp(q.k)")
def test_it_becomes_softmax_attention_only_with_features_of_the_exponential():
    """A widely copied text says that elu(x) + 1 approximates softmax attention. It does not converge to anything but itself."""
    q, k, v = torch.randn(3, 1, 6, 4, dtype=D) * 0.7
    exact = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    omega = torch.randn(200_000, 4, dtype=D)

    def phi(x):
        return (x @ omega.T - x.square().sum(-1, keepdim=True) / 2).exp()

    assert (linear_attention(phi(q), phi(k), v, causal=False)[0] - exact).abs().max() < 0.04
    assert (linear_attention(F.elu(q) + 1, F.elu(k) + 1, v, causal=False)[0] - exact).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_are_kept_in_float32(dtype):
    ones = torch.ones(1, 5000, 1, dtype=dtype)
    v = torch.arange(5000, dtype=dtype).view(1, -1, 1) / 5000
    out, (memory, total) = linear_attention(ones, ones, v)
    assert out.dtype == dtype and total.dtype == torch.float32 and total.item() == 5000
    assert out[0, -1, 0].item() == pytest.approx(0.5, rel=0.01)


def test_the_state_does_not_grow_and_no_square_is_made():
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(o.numel() for o in torch.utils._pytree.tree_leaves(out) if isinstance(o, torch.Tensor))
            return out

    q = torch.rand(1, 1024, 4)
    with Sizes():
        _, state = linear_attention(q, q, q, chunk_size=32)
    assert max(sizes) <= 1024 * 4 and [s.numel() for s in state] == [16, 4]


def test_features_that_are_all_zero_do_not_divide_by_zero():
    zero, v = torch.zeros(1, 3, 2, dtype=D), torch.ones(1, 3, 2, dtype=D)
    assert linear_attention(zero, zero, v)[0].isnan().all()
    assert (linear_attention(zero, zero, v, eps=1e-6)[0] == 0).all()
    module = LinearAttention(8, 2)
    assert module.eps == 1e-6 and module.chunk_size == 64 and module.causal
    assert LinearAttention(8, 2, bias=False).q_proj.bias is None and module.q_proj.bias is not None


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="feature_map='softmax' is not 'elu\\+1', 'relu' or a function"):
        LinearAttention(8, 2, feature_map="softmax")
    module, (x,) = example()
    with pytest.raises(ValueError, match=r"x has shape .* d_model=8"):
        module(x[..., :7])
    q, k, v = features()
    for given, name in [((q[0, 0], k, v), "q"), ((q, k[:, :5], v), "k"), ((q, k[..., :2], v), "k"), ((q, k, v[:, :5]), "v")]:
        with pytest.raises(ValueError, match=f"{name} has shape"):
            linear_attention(*given)
    with pytest.raises(ValueError, match="chunk_size=0 is not positive"):
        linear_attention(q, k, v, chunk_size=0)
    _, (memory, total) = linear_attention(q, k, v, chunk_size=1)
    for state, name in [((memory[..., :2], total), 0), ((memory[:, :2], total), 0), ((memory, total[..., :2]), 1)]:
        with pytest.raises(ValueError, match=rf"state\[{name}\] has shape"):
            linear_attention(q, k, v, state=state)


@pytest.mark.parametrize("causal", [True, False])
def test_numpy_variant_agrees(agree, causal):
    q, k, v = (x[0] for x in features())
    ours = numpy_variant.linear_attention(q.numpy(), k.numpy(), v.numpy(), causal)
    agree(ours, linear_attention(q, k, v, causal=causal)[0])


@pytest.mark.interp
def test_kernel_agrees(kernel_agrees):
    module, (x,) = example()
    state = torch.rand(2, 2, 4, 4, dtype=D), torch.rand(2, 2, 4, dtype=D)
    given = x.requires_grad_(), *(s.requires_grad_() for s in state), *module.parameters()
    kernel_agrees("linear_attention", lambda _: module(x, state), given, module=module)


@pytest.mark.interp
@pytest.mark.parametrize("leading", [(), (3,), (2, 1, 3)])
def test_kernel_takes_any_leading_dimensions(agree, leading):
    pytest.importorskip("triton")
    q, k, v = (torch.rand(*leading, 5, width, dtype=D) for width in (4, 4, 3))
    with interpreting():
        out, state = linear_attention(q, k, v, backend="triton", eps=0.1)
    expected, after = linear_attention(q, k, v, eps=0.1)
    for ours, plain in ((out, expected), *zip(state, after)):
        assert ours.shape == plain.shape
        agree(ours, plain, of="triton", rtol=1e-12)


def test_kernel_is_refused_with_the_reason():
    pytest.importorskip("triton")
    q, k, v = features()
    with interpreting():
        for given, message in [
            (dict(q=q, k=k, v=v, causal=False), "it is for causal=True"),
            (dict(q=q.half(), k=k.half(), v=v.half()), "float16 has no numbers small enough"),
            (dict(q=q, k=k[:1], v=v), "leading dimensions differ"),
        ]:
            with pytest.raises(RuntimeError, match=message):
                linear_attention(**given, backend="triton")
            assert linear_attention(**given)[0].isfinite().all()


def test_demo_weights_are_what_linear_attention_uses():
    weights = np.array(numpy_variant.show(features="relu", T=8)[0]["values"], float)[:, 9:]
    np.testing.assert_allclose(weights.sum(1), 1)
