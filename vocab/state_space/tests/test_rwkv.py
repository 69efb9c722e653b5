import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.state_space import rwkv as numpy_variant
from vocab.state_space.rwkv import RWKVChannelMix, RWKVTimeMix, WKVState, token_shift, wkv

D = torch.float64


def example():
    return RWKVTimeMix(4, layer=1, n_layers=3).double(), (torch.randn(2, 5, 4, dtype=D),)


def inputs(time=9, channels=3):
    k, v = torch.randn(2, 2, time, channels, dtype=D)
    return 2 * k, v, torch.rand(channels, dtype=D) + 0.05, torch.randn(channels, dtype=D)


def average(k, v, w, u):
    """The definition: all weights of each token, divided by their sum."""
    out = torch.zeros_like(v)
    for t in range(k.shape[1]):
        log_weights = [k[:, i] - (t - 1 - i) * w for i in range(t)] + [k[:, t] + u]
        out[:, t] = (torch.stack(log_weights, 1).softmax(1) * v[:, : t + 1]).sum(1)
    return out


@pytest.mark.oracle("the weighted average over all earlier tokens")
@pytest.mark.parametrize("time", [1, 2, 3, 9, 16, 33])
def test_it_is_the_average_with_exponential_weights(time):
    given = inputs(time)
    torch.testing.assert_close(wkv(*given), average(*given), rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("transformers rwkv_linear_attention_cpu")
def test_equals_the_loop_of_transformers():
    pytest.importorskip("transformers")
    from transformers.models.rwkv.modeling_rwkv import rwkv_linear_attention_cpu

    k, v, w, u = (x.float() for x in inputs(20))
    # There the decay is handed over as the logarithm of w, and made negative inside.
    expected, parts = rwkv_linear_attention_cpu(w.log(), u, k, v, return_state=True)
    out, state = wkv(k, v, w, u, return_state=True)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tuple(state), tuple(parts), rtol=1e-4, atol=1e-5)


@pytest.mark.oracle("transformers.RwkvModel: a block's attention and feed-forward layer")
def test_layers_equal_transformers_with_copied_weights_and_start_as_there():
    pytest.importorskip("transformers")
    from transformers import RwkvConfig, RwkvModel

    model = RwkvModel(RwkvConfig(vocab_size=5, hidden_size=8, num_hidden_layers=3, attention_hidden_size=8)).eval()
    for layer in range(3):
        theirs = model.blocks[layer].attention, model.blocks[layer].feed_forward
        ours = RWKVTimeMix(8, layer=layer, n_layers=3), RWKVChannelMix(8, layer=layer, n_layers=3)
        names = {"time_decay": "log_w", "time_first": "u", "time_mix_key": "mix_k", "time_mix_value": "mix_v", "time_mix_receptance": "mix_r"}
        for library, module in zip(theirs, ours):
            weights = {names.get(n, n): p.flatten() if "time" in n else p for n, p in library.state_dict().items()}
            for name, start in module.state_dict().items():
                if name[:3] == "mix" or name == "log_w":
                    torch.testing.assert_close(start, weights[name])
            module.load_state_dict(weights)
            x = torch.randn(2, 7, 8)
            with torch.no_grad():
                torch.testing.assert_close(module(x)[0], library(x)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.oracle("transformers.RwkvModel: its first bonus")
def test_the_bonus_of_the_widely_copied_start_is_one_everywhere():
    """ones_like(x * log(0.3) + zigzag) is 1, whatever is inside; meant was ones * log(0.3) + zigzag."""
    pytest.importorskip("transformers")
    from transformers import RwkvConfig, RwkvModel

    model = RwkvModel(RwkvConfig(vocab_size=5, hidden_size=6, num_hidden_layers=2, attention_hidden_size=6))
    assert torch.equal(model.blocks[0].attention.time_first, torch.ones(6))
    expected = [math.log(0.3) + x for x in (0.0, 0.5, -0.5, 0.0, 0.5, -0.5)]
    assert RWKVTimeMix(6).u.tolist() == pytest.approx(expected)


def test_adding_a_constant_to_all_keys_changes_nothing():
    k, v, w, u = inputs()
    torch.testing.assert_close(wkv(k + torch.tensor([300.0, -300.0, 1e4], dtype=D), v, w, u), wkv(k, v, w, u))


def test_huge_keys_do_not_overflow_and_exponentials_alone_do():
    k, v, w, u = (x.float() for x in inputs())
    k = k + 200
    naive = ((k.exp() * v).cumsum(1) / k.exp().cumsum(1))
    assert naive.isnan().any()
    out, state = wkv(k, v, w, u, return_state=True)
    assert out.isfinite().all() and all(part.isfinite().all() for part in state)
    torch.testing.assert_close(out, average(k, v, w, u), rtol=1e-4, atol=1e-5)


def test_the_output_lies_between_the_smallest_and_largest_value_so_far():
    k, v, w, u = inputs(40)
    out = wkv(k, v, w, u)
    low, high = v.cummin(1).values, v.cummax(1).values
    assert (out >= low - 1e-12).all() and (out <= high + 1e-12).all()
    assert ((out > low) & (out < high))[:, 2:].float().mean() > 0.9


def test_a_large_decay_leaves_the_token_before_and_the_present_one():
    k, v, w, u = inputs()
    out = wkv(k, v, w + 1e4, u)
    share = (k[:, 1:] + u - k[:, :-1]).sigmoid()
    torch.testing.assert_close(out[:, 1:], share * v[:, 1:] + (1 - share) * v[:, :-1])
    torch.testing.assert_close(out[:, 0], v[:, 0])


def test_a_large_bonus_leaves_the_present_token_and_a_small_one_the_past():
    k, v, w, u = inputs()
    torch.testing.assert_close(wkv(k, v, w, u + 1e4), v)
    blind = wkv(k, v, w, u - 1e4)
    changed = v.clone()
    changed[:, 4] += 1
    assert torch.equal(wkv(k, changed, w, u - 1e4)[:, 4], blind[:, 4])


def test_weights_do_not_depend_on_who_reads():
    """There is no product of a query and a key: what past tokens count relative to each other is the same for every reader."""
    k, v, w, u = inputs(6)
    basis = torch.eye(6, dtype=D)[None, :, :].expand(2, -1, -1)
    wide = lambda x: x[..., :1].expand(*x.shape[:-1], 6)  # noqa: E731
    weights = wkv(wide(k), basis, wide(w), wide(u))  # (B, t, i): values are one-hot
    ratio = weights[:, :, 0] / weights[:, :, 1]
    torch.testing.assert_close(ratio[:, 2:], ratio[:, 2:3].expand(-1, 4))
    torch.testing.assert_close(ratio[:, 2], (k[:, 0, 0] - k[:, 1, 0] - w[0]).exp())


@pytest.mark.oracle("autograd through the definition")
def test_gradients_equal_those_of_the_definition():
    given = [x.requires_grad_() for x in inputs()]
    weight = torch.randn(2, 9, 3, dtype=D)
    expected = torch.autograd.grad(average(*given), given, weight)
    torch.testing.assert_close(torch.autograd.grad(wkv(*given), given, weight), expected)


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_an_average_in_two_pieces_is_the_average_of_the_whole(cut):
    k, v, w, u = inputs()
    whole, end = wkv(k, v, w, u, return_state=True)
    first, state = wkv(k[:, :cut], v[:, :cut], w, u, return_state=True)
    rest, after = wkv(k[:, cut:], v[:, cut:], w, u, state=state, return_state=True)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)
    torch.testing.assert_close(after, end)


def test_tokens_one_by_one_give_what_the_whole_gives():
    for mix in (RWKVTimeMix(4).double(), RWKVChannelMix(4, 6).double()):
        x = torch.randn(2, 6, 4, dtype=D)
        whole, end = mix(x)
        state, outputs = None, []
        for t in range(6):
            y, state = mix(x[:, t : t + 1], state)
            outputs.append(y)
        torch.testing.assert_close(torch.cat(outputs, 1), whole)
        torch.testing.assert_close(state, end)


def test_both_layers_keep_five_vectors():
    x = torch.randn(1, 3, 8)
    _, (last, average_state) = RWKVTimeMix(8)(x)
    _, shifted = RWKVChannelMix(8)(x)
    kept = [last, *average_state, shifted]
    assert sum(part.numel() for part in kept) == 5 * 8
    assert torch.equal(last, x[:, -1]) and torch.equal(shifted, x[:, -1])


def test_token_shift_and_mix_factors():
    x = torch.randn(2, 4, 3, dtype=D)
    torch.testing.assert_close(token_shift(x)[:, 1:], x[:, :-1])
    assert (token_shift(x)[:, 0] == 0).all()
    assert torch.equal(token_shift(x, x[:, 3])[:, 0], x[:, 3])
    mix = RWKVChannelMix(3).double()
    with torch.no_grad():
        mix.mix_k.fill_(1.0), mix.mix_r.zero_()  # the key sees the token, the receptance the one before
    h = F.relu(x @ mix.key.weight.T) ** 2
    expected = (token_shift(x) @ mix.receptance.weight.T).sigmoid() * (h @ mix.value.weight.T)
    torch.testing.assert_close(mix(x)[0], expected)


def test_causal_and_every_earlier_token_counts():
    mix, (x,) = example()
    jacobian = torch.autograd.functional.jacobian(lambda v: mix(v)[0][0].sum(-1), x)[:, 0].abs().sum(-1)
    assert torch.equal(jacobian > 0, torch.ones(5, 5, dtype=torch.bool).tril())


def test_first_values():
    mix = RWKVTimeMix(5)
    torch.testing.assert_close(mix.log_w, -5 + 8 * (torch.arange(5) / 4) ** 0.7)
    assert math.exp(5) == pytest.approx(148, abs=0.5) and mix.log_w[-1] == 3
    deep = RWKVTimeMix(5, layer=3, n_layers=4)
    torch.testing.assert_close(deep.log_w, -5 + 8 * (torch.arange(5) / 4) ** 2.0)
    torch.testing.assert_close(deep.mix_v, (torch.arange(5) / 5) ** 0.25 + 0.3)
    assert RWKVTimeMix(1)(torch.randn(1, 2, 1))[0].isfinite().all()
    assert RWKVChannelMix(8).key.weight.shape == (32, 8) and RWKVChannelMix(8, 12).value.weight.shape == (8, 12)
    assert RWKVChannelMix(1, 1)(torch.randn(1, 2, 1))[0].isfinite().all()
    for module in (mix, RWKVChannelMix(8)):
        assert all("bias" not in name for name, _ in module.named_parameters())


def test_sixteen_bits_are_computed_in_thirty_two():
    k = torch.zeros(1, 2000, 1, dtype=torch.bfloat16)
    out, state = wkv(k, k + 1, torch.tensor([1e-6]), torch.zeros(1), return_state=True)
    assert out.dtype == torch.bfloat16 and state.den.dtype == torch.float32
    assert state.den.item() == pytest.approx(2000, rel=2e-3)  # in bfloat16 it would stop at 256
    y, (_, state) = RWKVTimeMix(4).bfloat16()(torch.randn(1, 3, 4).bfloat16())
    assert y.dtype == torch.bfloat16 and state.num.dtype == torch.float32


def test_numpy_variant_agrees(agree):
    k, v, w, u = (x.numpy() for x in inputs(12))
    out = wkv(*(torch.tensor(x) for x in (k, v, w, u)))
    for c in range(3):
        agree(numpy_variant.wkv(k[0, :, c], v[0, :, c], w[c], u[c]), out[0, :, c])
        agree(numpy_variant.weights(k[0, :, c], w[c], u[c]) @ v[0, :, c], out[0, :, c])
    far = numpy_variant.wkv(k[0, :, 0] + 1000, v[0, :, 0], w[0], u[0])
    np.testing.assert_allclose(far, out[0, :, 0], rtol=1e-9)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RWKVTimeMix(0), "d_model=0 is not a whole number above 0"),
        (lambda: RWKVChannelMix(1.5), "d_model=1.5 is not"),
        (lambda: RWKVTimeMix(4, layer=2, n_layers=2), "layer=2 is not from 0 to n_layers - 1 = 1"),
        (lambda: RWKVTimeMix(4, layer=-1), "layer=-1 is not from 0"),
        (lambda: RWKVChannelMix(4, 0), "d_ff=0 is not a whole number above 0"),
        (lambda: RWKVChannelMix(4, 2.5), "d_ff=2.5 is not"),
    ],
)
def test_settings_that_cannot_be_say_which_and_why(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_wrong_shapes_name_the_expected_ones():
    for mix in (RWKVTimeMix(4), RWKVChannelMix(4)):
        with pytest.raises(ValueError, match=r"x has shape \(2, 5, 3\); expected \(batch, time, d_model=4\)"):
            mix(torch.randn(2, 5, 3))
    with pytest.raises(ValueError, match=r"last has shape \(1, 4\); expected \(batch=2, d_model=4\)"):
        RWKVChannelMix(4)(torch.randn(2, 5, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"last has shape \(2, 3\); expected \(batch=2, d_model=4\)"):
        token_shift(torch.randn(2, 5, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"x has shape \(5, 4\); expected \(batch, time, d_model\)"):
        token_shift(torch.randn(5, 4))


@pytest.mark.parametrize("name", ["k", "v", "decay_w", "bonus_u"])
def test_each_argument_of_the_average_is_checked(name):
    given = dict(zip(["k", "v", "decay_w", "bonus_u"], inputs()))
    with pytest.raises(ValueError, match=rf"^{name} has shape .*; expected"):
        wkv(**{**given, name: given[name][0] if name == "k" else given[name][..., 1:]})
    with pytest.raises(TypeError, match=rf"^{name} has dtype"):
        wkv(**{**given, name: given[name].long()})
    with pytest.raises(ValueError, match=r"k has shape \(2, 0, 3\); an average needs one token or more"):
        wkv(given["k"][:, :0], given["v"][:, :0], given["decay_w"], given["bonus_u"])
    zero = torch.zeros(2, 3, dtype=D)
    for field in WKVState._fields:
        with pytest.raises(ValueError, match=rf"state.{field} has shape \(1, 3\); expected \(batch=2, channels=3\)"):
            wkv(**given, state=WKVState(zero, zero, zero)._replace(**{field: zero[:1]}))
