import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.state_space import gated_delta as numpy_variant
from vocab.state_space.gated_delta import DeltaState, GatedDeltaNet, delta_rule
from vocab.state_space.mamba_2 import ssd

D = torch.float64
MODES = ["recurrent", "chunk"]


def example():
    return GatedDeltaNet(4, 2, 3, conv_size=3, chunk_size=2).double(), (torch.randn(2, 5, 4, dtype=D),)


def inputs(time=7, heads=3):
    q, k = torch.randn(2, 2, heads, time, 4, dtype=D)
    v, beta, log_alpha = torch.randn(2, heads, time, 5, dtype=D), torch.rand(2, heads, time, dtype=D), -torch.rand(2, heads, time, dtype=D)
    return q, F.normalize(k, dim=-1), v, beta, log_alpha


def by_projections(q, k, v, beta, log_alpha):
    """S_t = alpha_t S (I - beta k k^T) + beta v k^T with S (e, d), as the papers write it: products of d x d matrices."""
    S, out = torch.zeros(2, q.shape[1], 5, 4, dtype=D), []
    for t in range(q.shape[2]):
        kt, b = k[:, :, t], beta[:, :, t, None, None]
        P = torch.eye(4, dtype=D) - b * torch.einsum("bhi,bhj->bhij", kt, kt)
        S = log_alpha[:, :, t, None, None].exp() * S @ P + b * torch.einsum("bhe,bhd->bhed", v[:, :, t], kt)
        out.append(torch.einsum("bhed,bhd->bhe", S, q[:, :, t]))
    return torch.stack(out, 2), S.mT


@pytest.mark.oracle("products of the matrices I - beta k k^T")
@pytest.mark.parametrize("mode", MODES)
def test_both_forms_equal_the_papers_products_of_matrices(mode):
    given = inputs()
    torch.testing.assert_close(delta_rule(*given, mode=mode, chunk_size=3), by_projections(*given), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 6, 7, 50])
def test_every_chunk_size_gives_the_recurrence_with_a_start_and_without_a_decay(chunk_size):
    *given, log_alpha = inputs()
    start = torch.randn(2, 3, 4, 5, dtype=D)
    for decay in (None, log_alpha):
        expected = delta_rule(*given, decay, start)
        torch.testing.assert_close(delta_rule(*given, decay, start, mode="chunk", chunk_size=chunk_size), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.oracle("transformers torch_recurrent_gated_delta_rule and torch_chunk_gated_delta_rule")
@pytest.mark.parametrize("mode", MODES)
def test_equals_the_functions_of_transformers(mode):
    pytest.importorskip("transformers")
    from transformers.models.qwen3_next import modeling_qwen3_next as library

    q, k, v, beta, log_alpha = inputs(11)
    theirs = [x.float().transpose(1, 2) for x in (q, k, v, log_alpha, beta)]
    function = library.torch_recurrent_gated_delta_rule if mode == "recurrent" else library.torch_chunk_gated_delta_rule
    expected, state = function(*theirs, initial_state=None, output_final_state=True)
    out, S = delta_rule(q / 2, k, v, beta, log_alpha, mode=mode, chunk_size=4)  # there q is divided by the root of its width
    torch.testing.assert_close(out.float(), expected.transpose(1, 2), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(S.float(), state, rtol=1e-4, atol=1e-6)


@pytest.mark.oracle("transformers.Qwen3NextGatedDeltaNet")
def test_layer_equals_that_of_qwen3_next_with_copied_weights():
    pytest.importorskip("transformers")
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    config = Qwen3NextConfig(
        hidden_size=16, linear_num_value_heads=2, linear_num_key_heads=2, linear_key_head_dim=4, linear_value_head_dim=8,
        linear_conv_kernel_dim=4,
    )
    library, ours = Qwen3NextGatedDeltaNet(config, layer_idx=0).eval(), GatedDeltaNet(16, 2, 4, chunk_size=3)
    with torch.no_grad():
        for p in library.parameters():
            p.add_(0.3 * torch.rand_like(p))
    w = library.state_dict()
    # There the rows go head by head, 4 of q, 4 of k, 8 of v and 8 of the gate; then beta and decay of each head.
    q, k, v, z = w.pop("in_proj_qkvz.weight").view(2, 24, 16).split([4, 4, 8, 8], 1)
    b, a = w.pop("in_proj_ba.weight").view(2, 2, 16).split(1, 1)
    flat = lambda *parts: torch.cat([p.flatten(0, 1) for p in parts])  # noqa: E731
    w |= {"qkv_proj.weight": flat(q, k, v), "gate_proj.weight": flat(z), "beta_proj.weight": flat(b), "decay_proj.weight": flat(a)}
    names = {"conv1d.weight": "conv.weight", "out_proj.weight": "o_proj.weight"}
    ours.load_state_dict({names.get(name, name): value for name, value in w.items()})
    x = torch.randn(2, 11, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[0], library(x), rtol=1e-4, atol=1e-5)


def test_a_written_value_is_read_back_exactly_where_addition_returns_interference():
    _, k, v, _, _ = inputs()
    one, never = torch.ones(2, 3, 7, dtype=D), torch.zeros(2, 3, 7, dtype=D)
    for t in (1, 4, 7):
        _, S = delta_rule(k[:, :, :t], k[:, :, :t], v[:, :, :t], one[:, :, :t])
        torch.testing.assert_close((k[:, :, t - 1, None] @ S)[:, :, 0], v[:, :, t - 1])
    out, _ = delta_rule(k, k, v, one)
    torch.testing.assert_close(out, v)
    added = ssd(v.transpose(1, 2), never.transpose(1, 2), k.transpose(1, 2), k.transpose(1, 2)).transpose(1, 2)
    interference = torch.einsum("bhtd,bhsd,bhse->bhte", k, k, v) - torch.einsum("bhtd,bhsd,bhse,ts->bhte", k, k, v, torch.ones(7, 7, dtype=D).triu())
    torch.testing.assert_close(added - v, interference)
    assert (added - v)[:, :, 1:].abs().amax((-1, 0, 1)).min() > 0.1


def test_orthogonal_keys_stay_untouched():
    k = torch.linalg.qr(torch.randn(4, 4, dtype=D))[0]
    v, one = torch.randn(6, 5, dtype=D), torch.ones(1, 1, 6, dtype=D)
    keys = torch.cat([k, k[:2]])[None, None]  # the first two are written again
    _, S = delta_rule(keys, keys, v[None, None], one, mode="chunk", chunk_size=4)
    torch.testing.assert_close(k @ S[0, 0], torch.stack([v[4], v[5], v[2], v[3]]))


def test_a_beta_of_zero_leaves_the_memory_as_it_was_or_only_fading():
    q, k, v, beta, log_alpha = inputs()
    start = torch.randn(2, 3, 4, 5, dtype=D)
    for mode in MODES:
        _, S = delta_rule(q, k, v, 0 * beta, None, start, mode=mode, chunk_size=3)
        torch.testing.assert_close(S, start, rtol=0, atol=0)
        out, S = delta_rule(q, k, v, 0 * beta, log_alpha, start, mode=mode, chunk_size=3)
        torch.testing.assert_close(S, log_alpha.sum(-1).exp()[..., None, None] * start)
        torch.testing.assert_close(out, log_alpha.cumsum(-1).exp()[..., None] * (q @ start))


@pytest.mark.oracle("a step of gradient descent by autograd")
def test_a_step_is_gradient_descent_on_the_squared_error_of_recall():
    q, k, v, beta, _ = inputs(1)
    S = torch.randn(2, 3, 4, 5, dtype=D, requires_grad=True)
    loss = 0.5 * (k @ S - v).square().sum()
    (slope,) = torch.autograd.grad(loss, S)
    _, after = delta_rule(q, k, v, beta, None, S)
    torch.testing.assert_close(after, S - beta[..., None] * slope)


def test_keys_longer_than_one_make_the_memory_explode():
    k, v, one = torch.randn(1, 1, 60, 4, dtype=D), torch.ones(1, 1, 60, 5, dtype=D), torch.ones(1, 1, 60, dtype=D)
    _, tame = delta_rule(k, F.normalize(k, dim=-1), v, one)
    _, wild = delta_rule(k, 2 * F.normalize(k, dim=-1), v, one)
    assert tame.abs().max() < 10 and wild.abs().max() > 1e6


def test_beta_two_mirrors_and_so_counts_parity():
    """I - 2 k k^T has the eigenvalue -1: each 1 in the input flips the sign of the memory. No decay in (0, 1) can."""
    bits = torch.tensor([1, 0, 1, 1, 0, 1, 1, 0])
    k, v = torch.ones(1, 1, 8, 1, dtype=D), torch.zeros(1, 1, 8, 1, dtype=D)
    out, _ = delta_rule(k, k, v, 2.0 * bits[None, None].double(), None, torch.ones(1, 1, 1, 1, dtype=D))
    assert torch.equal(out.flatten(), (-1.0) ** bits.cumsum(0))


def test_the_layer_uses_beta_up_to_one_or_two():
    layer, (x,) = example()
    with torch.no_grad():
        layer.beta_proj.weight *= 0
    assert layer.beta_max == 1
    other = GatedDeltaNet(4, 2, 3, conv_size=3, negative_eigenvalues=True).double()
    other.load_state_dict(layer.state_dict())
    _, half = layer(x[:, :1])
    _, whole = other(x[:, :1])
    torch.testing.assert_close(whole.memory, 2 * half.memory)


@pytest.mark.oracle("autograd through the recurrence")
def test_gradients_of_the_chunks_equal_those_of_the_loop():
    given = [x.requires_grad_() for x in inputs()]
    weight = torch.randn(2, 3, 7, 5, dtype=D)
    expected = torch.autograd.grad(by_projections(*given)[0], given, weight)
    torch.testing.assert_close(torch.autograd.grad(delta_rule(*given, mode="chunk", chunk_size=3)[0], given, weight), expected)


def test_a_chunk_in_sixteen_bits_would_be_inaccurate():
    """The triangular system is solved in 32 bits whatever comes in: only the rounding of the inputs is left."""
    torch.manual_seed(1)
    q, k, v, beta, _ = (x.bfloat16() for x in inputs(64))
    exact, _ = delta_rule(*(x.double() for x in (q, k, v, beta)))
    out, S = delta_rule(q, k, v, beta, mode="chunk")
    assert out.dtype == torch.bfloat16 and S.dtype == torch.float32
    torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=1e-3)
    y, state = GatedDeltaNet(8, 2, 4).bfloat16()(torch.randn(1, 3, 8).bfloat16())
    assert y.dtype == torch.bfloat16 and state.memory.dtype == torch.float32 and state.conv.dtype == torch.bfloat16


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_sequence_in_two_pieces_gives_what_the_whole_gives(cut):
    layer, (x,) = example()
    whole, end = layer(x)
    first, state = layer(x[:, :cut])
    rest, after = layer(x[:, cut:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)
    torch.testing.assert_close(after, end)
    assert after.conv.shape == (2, 24, 2) and after.memory.shape == (2, 2, 3, 6)


def test_causal_and_every_earlier_token_counts():
    layer, (x,) = example()
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v)[0][0].sum(-1), x)[:, 0].abs().sum(-1)
    assert torch.equal(jacobian > 0, torch.ones(5, 5, dtype=torch.bool).tril())


def test_layer_starts_with_the_decays_of_mamba_2():
    layer = GatedDeltaNet(4, 1000, 1)
    rate, step = layer.A_log.exp(), F.softplus(layer.dt_bias)
    assert 1 <= rate.min() < 1.2 and 15.8 < rate.max() <= 16 and 8 < rate.mean() < 9
    assert 0.999e-3 < step.min() < 1.1e-3 and 0.09 < step.max() < 0.1001 and 0.008 < step.median() < 0.0125
    assert layer.value_dim == 2 and layer.conv.kernel_size == (4,) and layer.conv.bias is None and layer.chunk_size == 64
    for name in ("qkv_proj", "beta_proj", "decay_proj", "gate_proj", "o_proj"):
        assert getattr(layer, name).bias is None
    assert layer.eps == layer.norm.eps == 1e-6


def test_numpy_variant_agrees(agree):
    given = [x[0, 0].numpy() for x in inputs(20)]
    out, S = delta_rule(*(torch.tensor(x)[None, None] for x in given))
    found, memory = numpy_variant.delta_rule(*given[:4], np.exp(given[4]))
    agree(found, out[0, 0])
    agree(memory, S[0, 0])
    for chunk in (1, 6, 20):
        found, memory = numpy_variant.in_chunks(*given[:4], np.exp(given[4]), chunk)
        agree(found, out[0, 0])
        agree(memory, S[0, 0])


@pytest.mark.parametrize("name", ["d_model", "n_heads", "head_dim", "expand_v", "conv_size", "chunk_size"])
def test_bad_sizes_say_which_and_why(name):
    given = dict(d_model=4, n_heads=2, head_dim=3)
    with pytest.raises(ValueError, match=f"{name}=0 is not a whole number above 0"):
        GatedDeltaNet(**{**given, name: 0})
    with pytest.raises(ValueError, match=f"{name}=1.5 is not a whole number"):
        GatedDeltaNet(**{**given, name: 1.5})


def test_sizes_of_one_are_enough():
    assert GatedDeltaNet(1, 1, 1, expand_v=1, conv_size=1, chunk_size=1)(torch.randn(1, 3, 1))[0].isfinite().all()


def test_wrong_shapes_name_the_expected_ones():
    layer, (x,) = example()
    with pytest.raises(ValueError, match=r"x has shape \(5, 4\); expected \(batch, time, d_model=4\)"):
        layer(x[0])
    _, (conv, memory) = layer(x)
    with pytest.raises(ValueError, match=r"state\[0\] has shape \(2, 24, 1\); expected \(batch=2, width=24, past=2\)"):
        layer(x, DeltaState(conv[..., 1:], memory))
    with pytest.raises(ValueError, match=r"state\[1\] has shape \(1, 2, 3, 6\); expected \(batch=2, heads=2, head_dim=3, value_dim=6\)"):
        layer(x, DeltaState(conv, memory[:1]))


@pytest.mark.parametrize("name", ["q", "k", "v", "beta", "log_alpha", "state"])
def test_each_argument_of_the_rule_is_checked(name):
    given = dict(zip(["q", "k", "v", "beta", "log_alpha"], inputs()), state=torch.zeros(2, 3, 4, 5, dtype=D))
    assert delta_rule(**given)[0].isfinite().all()
    smaller = given[name][0] if name == "q" else given[name][:, :, 1:]
    with pytest.raises(ValueError, match=rf"^{name} has shape .*; expected"):
        delta_rule(**{**given, name: smaller})
    with pytest.raises(TypeError, match=rf"^{name} has dtype"):
        delta_rule(**{**given, name: given[name].long()})


def test_other_bad_input_says_what_is_allowed():
    given = inputs()
    with pytest.raises(ValueError, match="mode='parallel' is neither 'recurrent' nor 'chunk'"):
        delta_rule(*given, mode="parallel")
    with pytest.raises(ValueError, match="chunk_size=0 or the number of steps, 7, is below 1"):
        delta_rule(*given, mode="chunk", chunk_size=0)
    with pytest.raises(ValueError, match="chunk_size=64 or the number of steps, 0, is below 1"):
        delta_rule(*(x[:, :, :0] for x in given))
