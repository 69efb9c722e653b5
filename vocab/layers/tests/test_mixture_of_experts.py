import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.layers.mixture_of_experts import mixture_of_experts
from vocab.layers.mixture_of_experts import MixtureOfExperts


def example():
    """For the contract suite: a small instance and its inputs."""
    moe = MixtureOfExperts(4, 6, n_experts=3, top_k=2, shared_experts=1, balance="loss").double()
    return moe, (torch.randn(2, 7, 4).double(),)


def make(*args, **kwargs):
    return MixtureOfExperts(*args, **kwargs).double()


def expert(moe, e, x, act=F.silu):
    d_ff = moe.down_EDF.shape[2]
    gate, up = x @ moe.gate_up_E2FD[e, :d_ff].T, x @ moe.gate_up_E2FD[e, d_ff:].T
    return (act(gate) * up) @ moe.down_EDF[e].T


def by_hand(moe, x, capacity=None, act=F.silu, bias=None):
    """Token by token and expert by expert; a place in an expert's queue is counted one pair at a time."""
    tokens = x.flatten(0, 1)
    logits = tokens @ moe.router_ED.T
    share = logits.exp() / logits.exp().sum(-1, keepdim=True)
    wanted = share if bias is None else share + bias
    chosen = [sorted(range(len(row)), key=lambda e: -row[e])[: moe.top_k] for row in wanted.tolist()]
    y, queue, dropped = [torch.zeros_like(t) for t in tokens], [0] * len(moe.router_ED), 0
    for rank in range(moe.top_k):
        for n, t in enumerate(tokens):
            e = chosen[n][rank]
            queue[e] += 1
            if capacity is not None and queue[e] > capacity:
                dropped += 1
                continue
            total = sum(share[n, i] for i in chosen[n]) if moe.normalize_gates else 1
            y[n] = y[n] + share[n, e] / total * expert(moe, e, t, act)
    return torch.stack(y).view_as(x), queue, dropped


@pytest.mark.oracle("a double loop over tokens and experts")
@pytest.mark.parametrize("top_k", [1, 2, 5])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.filterwarnings("ignore:top_k=1")
def test_equals_a_double_loop_over_tokens_and_experts(top_k, normalize):
    moe, x = make(4, 6, 5, top_k, normalize_gates=normalize), torch.randn(3, 7, 4).double()
    y, aux = moe(x)
    expected, queue, _ = by_hand(moe, x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(aux["load"], torch.tensor(queue).double() / (21 * top_k))
    assert aux["dropped"] == 0


@pytest.mark.oracle("a queue per expert, one pair at a time")
@pytest.mark.parametrize("factor", [0.2, 0.5, 0.77, 1.0, 1.25, 2.5])
def test_capacity_drops_what_comes_too_late(factor):
    moe, x = make(4, 6, 5, 2, capacity_factor=factor), torch.randn(3, 7, 4).double() + 0.5
    y, aux = moe(x)
    capacity = math.ceil(factor * 21 * 2 / 5)
    expected, queue, dropped = by_hand(moe, x, capacity)
    torch.testing.assert_close(y, expected)
    assert aux["dropped"] == dropped == sum(max(0, count - capacity) for count in queue)
    assert (aux["dropped"] > 0) == (factor < 2)
    torch.testing.assert_close(aux["load"], torch.tensor(queue).double() / 42)


def test_capacity_is_rounded_up_but_not_because_of_the_last_bit():
    """1.1 * 20 / 2 is 11.000000000000002 in floating point; the capacity is 11, and 12 for 1.15."""
    for factor, capacity in [(1.1, 11), (1.15, 12), (1.0, 10), (1.005, 11)]:
        moe = make(2, 3, 2, 1, capacity_factor=factor, normalize_gates=False)
        nn.init.constant_(moe.router_ED[1], -10)
        _, aux = moe(torch.ones(1, 20, 2).double())
        assert aux["load"][0] == 1 and aux["dropped"] == 20 - capacity


@pytest.mark.oracle("transformers.MixtralSparseMoeBlock")
def test_equals_mixtral_with_copied_weights():
    pytest.importorskip("transformers")
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(hidden_size=8, intermediate_size=12, num_local_experts=6, num_experts_per_tok=2)
    config._experts_implementation = "eager"
    block, moe = MixtralSparseMoeBlock(config), MixtureOfExperts(8, 12, 6, 2)
    with torch.no_grad():
        for theirs, ours in [(block.gate.weight, moe.router_ED), (block.experts.gate_up_proj, moe.gate_up_E2FD),
                             (block.experts.down_proj, moe.down_EDF)]:
            theirs.copy_(ours)
    x = torch.randn(2, 9, 8)
    torch.testing.assert_close(moe(x)[0], block(x), rtol=1e-5, atol=1e-6)


@pytest.mark.oracle("transformers load_balancing_loss_func, divided by top_k")
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_balance_loss_is_that_of_transformers_divided_by_top_k(top_k):
    pytest.importorskip("transformers")
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    moe, x = make(4, 6, 5, top_k, normalize_gates=False), torch.randn(3, 7, 4).double()
    theirs = load_balancing_loss_func((x.flatten(0, 1) @ moe.router_ED.T,), 5, top_k)
    torch.testing.assert_close(moe(x)[1]["load_balancing_loss"].float(), theirs.float() / top_k)


def test_balance_loss_is_one_for_an_even_router_and_the_number_of_experts_for_a_collapsed_one():
    moe, x = make(3, 4, 5, 1, normalize_gates=False, balance="loss"), torch.ones(1, 6, 3).double()
    nn.init.zeros_(moe.router_ED)
    torch.testing.assert_close(moe(x)[1]["load_balancing_loss"].item(), 1.0)
    moe.router_ED.data[2] = 100
    torch.testing.assert_close(moe(x)[1]["load_balancing_loss"].item(), 5.0)


def test_balance_loss_pulls_the_router_only_where_it_is_asked_for():
    for balance in (None, "bias"):
        assert not make(4, 6, 3, balance=balance)(torch.randn(2, 5, 4).double())[1]["load_balancing_loss"].requires_grad
    moe, x = make(4, 6, 3, 1, normalize_gates=False, balance="loss"), torch.randn(4, 8, 4).double() + 1
    before = moe(x)[1]["load_balancing_loss"]
    (grad,) = torch.autograd.grad(before, moe.router_ED)
    moe.router_ED.data -= 0.1 * grad
    assert moe(x)[1]["load_balancing_loss"] < before


def test_z_loss_is_the_mean_square_of_the_log_normalizer():
    moe, x = make(4, 6, 3), torch.randn(2, 5, 4).double()
    logits = x.flatten(0, 1) @ moe.router_ED.T
    torch.testing.assert_close(moe(x)[1]["z_loss"], logits.exp().sum(-1).log().pow(2).mean())


def test_experts_with_the_same_weights_are_that_one_expert():
    moe, x = make(4, 6, 5, 2), torch.randn(2, 7, 4).double()
    with torch.no_grad():
        for weight in (moe.gate_up_E2FD, moe.down_EDF):
            weight.copy_(weight[:1].expand(5, -1, -1).clone())
    torch.testing.assert_close(moe(x)[0], expert(moe, 0, x))


@pytest.mark.parametrize("normalize", [True, False])
def test_as_many_choices_as_experts_is_the_dense_mixture(normalize):
    moe, x = make(4, 6, 3, 3, normalize_gates=normalize), torch.randn(2, 7, 4).double()
    share = (x @ moe.router_ED.T).softmax(-1)
    dense = sum(share[..., e, None] * expert(moe, e, x) for e in range(3))
    torch.testing.assert_close(moe(x)[0], dense)


def test_the_names_of_the_experts_do_not_matter():
    moe, x = make(4, 6, 5, 2, capacity_factor=0.8), torch.randn(2, 7, 4).double()
    y, aux = moe(x)
    order = torch.tensor([3, 0, 4, 2, 1])
    with torch.no_grad():
        for weight in (moe.router_ED, moe.gate_up_E2FD, moe.down_EDF):
            weight.copy_(weight[order].clone())
    again, renamed = moe(x)
    torch.testing.assert_close(again, y)
    torch.testing.assert_close(renamed["load"], aux["load"][order])


def test_an_expert_that_nobody_chose_gets_no_gradient():
    moe = make(4, 6, 4, 2)
    moe.router_ED.data[3] = -100
    moe(torch.rand(2, 5, 4).double() + 0.1)[0].sum().backward()
    for weight in (moe.gate_up_E2FD, moe.down_EDF):
        assert torch.equal(weight.grad[3], torch.zeros_like(weight[3]))
        assert (weight.grad[:3].flatten(1).abs().sum(1) > 0).all()


def test_other_sequences_change_the_result_only_where_there_is_a_capacity():
    x = torch.randn(3, 7, 4).double()
    for factor, same in [(None, True), (0.7, False)]:
        torch.manual_seed(1)
        moe = make(4, 6, 3, 2, capacity_factor=factor)
        together, alone = moe(x)[0][2:], moe(x[2:])[0]
        assert torch.allclose(together, alone, rtol=1e-9) == same


def test_shared_experts_serve_every_token_with_weight_one():
    moe, x = make(4, 6, 3, 2, shared_experts=2), torch.randn(2, 7, 4).double()
    routed = by_hand(moe, x)[0]
    gates, ups = moe.shared_gate_up.unflatten(0, (2, 2, 6))
    downs = moe.shared_down.unflatten(1, (2, 6)).unbind(1)
    each = [(F.silu(x @ g.T) * (x @ u.T)) @ d.T for g, u, d in zip(gates, ups, downs)]
    torch.testing.assert_close(moe(x)[0], routed + each[0] + each[1])


@pytest.mark.parametrize(("name", "function"), [("silu", F.silu), ("gelu", F.gelu), ("relu", F.relu)])
def test_activation_is_applied_to_the_gate(name, function):
    moe, x = make(4, 6, 3, 2, activation=name), torch.randn(2, 7, 4).double()
    torch.testing.assert_close(moe(x)[0], by_hand(moe, x, act=function)[0])


def test_bias_moves_the_choice_and_not_the_weights():
    moe, x = make(4, 6, 4, 2, balance="bias"), torch.randn(2, 7, 4).double()
    moe.bias_E.copy_(torch.tensor([0.3, 0.0, -0.3, 0.1]))
    y, aux = moe(x)
    expected, queue, _ = by_hand(moe, x, bias=moe.bias_E)
    torch.testing.assert_close(y, expected)
    assert queue != by_hand(moe, x)[1], "the bias made no difference"


def test_bias_updates_balance_a_collapsed_router():
    moe, x = make(4, 6, 4, 1, normalize_gates=False, balance="bias"), torch.randn(4, 64, 4).double() * 0.5
    moe.router_ED.data[:, 0] += torch.tensor([1.0, 0, 0, 0])
    x[..., 0] += 2
    busiest = [moe(x)[1]["load"].max().item()]
    for _ in range(400):
        moe.update_bias(moe(x)[1]["load"], rate=5e-3)
    busiest.append(moe(x)[1]["load"].max().item())
    assert busiest[0] > 0.6 and busiest[1] < 0.35


def test_one_update_moves_each_bias_by_the_rate_against_its_load():
    moe = make(4, 6, 4, balance="bias")
    moe.update_bias(torch.tensor([0.75, 0.25, 0.0, 0.0]).double())
    torch.testing.assert_close(moe.bias_E, torch.tensor([-1e-3, 0, 1e-3, 1e-3]).double())
    with pytest.raises(ValueError, match="balance=None; update_bias is for balance='bias'"):
        make(4, 6).update_bias(torch.ones(8))
    with pytest.raises(ValueError, match=r"load has shape \(3,\); expected \(n_experts=4\)"):
        moe.update_bias(torch.ones(3))


def test_noise_is_added_to_the_logits_in_training_only():
    moe, x = make(4, 6, 5, 2, router_noise=0.5), torch.randn(50, 200, 4).double()
    clean = x.flatten(0, 1) @ moe.router_ED.T
    noise = moe._logits(x.flatten(0, 1)) - clean
    assert abs(noise.std() - 0.5) < 0.01 and abs(noise.mean()) < 0.01
    torch.testing.assert_close(moe.eval()(x[:1])[0], by_hand(moe, x[:1])[0])
    silent = make(4, 6, 5, 2)
    assert torch.equal(silent(x[:1])[0], silent.eval()(x[:1])[0])


def test_the_router_computes_in_32_bits_whatever_surrounds_it():
    moe, x = MixtureOfExperts(64, 8, 16, 2), torch.randn(1, 32, 64)
    exact = F.linear(x[0], moe.router_ED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(moe._logits(x[0]), exact)
    half = moe.bfloat16()
    logits = half._logits(x[0].bfloat16())
    assert torch.equal(logits, F.linear(x[0].bfloat16().float(), half.router_ED.float()))
    y, aux = half(x.bfloat16())
    assert y.dtype == torch.bfloat16 and aux["z_loss"].dtype == torch.float32


def test_one_choice_with_normalized_weights_warns_because_the_router_would_not_learn():
    with pytest.warns(UserWarning, match="the router learns nothing") as seen:
        moe = MixtureOfExperts(4, 6, n_experts=3, top_k=1)
    assert seen[0].filename == __file__
    moe.double()(torch.randn(2, 5, 4).double())[0].sum().backward()
    assert moe.router_ED.grad.abs().max() == 0
    other = make(4, 6, 3, 1, normalize_gates=False)
    other(torch.randn(2, 5, 4).double())[0].sum().backward()
    assert other.router_ED.grad.abs().max() > 0


def test_other_settings_do_not_warn(recwarn):
    make(4, 6), make(4, 6, 2, 1, normalize_gates=False)
    assert not recwarn.list


def test_defaults_are_eight_experts_of_which_two_are_used_without_a_limit():
    moe = MixtureOfExperts(4, 6)
    assert moe.gate_up_E2FD.shape == (8, 12, 4) and moe.down_EDF.shape == (8, 4, 6) and moe.top_k == 2
    assert moe.capacity_factor is None and moe.normalize_gates and not moe.router_noise
    assert moe.state_dict().keys() == {"router_ED", "gate_up_E2FD", "down_EDF"}


def test_each_expert_starts_like_a_linear_layer():
    moe = MixtureOfExperts(64, 256, 6, shared_experts=3)
    for weight, fan_in in [(moe.router_ED, 64), (moe.gate_up_E2FD, 64), (moe.down_EDF, 256), (moe.shared_gate_up, 64),
                           (moe.shared_down, 256)]:
        assert 0.95 * fan_in**-0.5 < weight.abs().max() <= fan_in**-0.5
        assert abs(weight.mean()) < 0.1 * fan_in**-0.5


@pytest.mark.oracle("Mixtral 8x7B: 46.7 billion parameters, 12.9 billion active (Jiang et al. 2024)")
def test_mixtral_8x7b_has_46_7_billion_parameters_of_which_12_9_are_active():
    with torch.device("meta"):
        moe = MixtureOfExperts(4096, 14336, 8, 2)
    sizes = {name: p.numel() for name, p in moe.named_parameters()}
    experts = sizes["gate_up_E2FD"] + sizes["down_EDF"]
    attention = 2 * 4096 * (32 + 8) * 128
    rest = 32 * (sizes["router_ED"] + attention + 2 * 4096) + 2 * 32000 * 4096 + 4096
    assert round((32 * experts + rest) / 1e9, 1) == 46.7
    assert round((32 * experts * 2 / 8 + rest) / 1e9, 1) == 12.9


@pytest.mark.oracle("Switch-C: 2,048 experts, 1,571 billion parameters (Fedus et al. 2021)")
def test_the_switch_model_with_2048_experts_is_switch_c():
    """A widely copied table gives them to Switch-XXL. 30 layers of 2,048 plain experts of 2,080 by 6,144 fill Switch-C."""
    assert round(30 * 2048 * 2 * 2080 * 6144 / 1e9, -1) == 1570


@pytest.mark.interp
@pytest.mark.parametrize("settings", [{}, {"capacity_factor": 0.75, "normalize_gates": False}, {"top_k": 3, "shared_experts": 1}], ids=str)
def test_kernel_agrees(settings, kernel_agrees):
    moe, x = MixtureOfExperts(6, 5, 4, **{"top_k": 2, **settings}).double(), torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)

    def run(_):
        y, aux = moe(x)
        return y, aux["z_loss"], aux["load"], aux["dropped"]

    kernel_agrees("moe", run, (x, *moe.parameters()), module=moe, atol=1e-13)


def test_numpy_variant_agrees(agree):
    for factor, normalize in itertools.product((None, 0.6), (True, False)):
        moe, x = make(4, 6, 5, 2, capacity_factor=factor, normalize_gates=normalize), torch.randn(1, 12, 4).double()
        experts = [lambda rows, e=e: expert(moe, e, torch.from_numpy(rows)).detach().numpy() for e in range(5)]
        capacity = None if factor is None else math.ceil(factor * 12 * 2 / 5)
        y, asked = mixture_of_experts(x[0].numpy(), moe.router_ED.detach().numpy(), experts, 2, capacity, normalize)
        ours, aux = moe(x)
        agree(y, ours[0])
        np.testing.assert_allclose(np.array(asked) / 24, aux["load"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(n_experts=2, top_k=3), "top_k=3 is not between 1 and n_experts=2"),
        (dict(top_k=0), "top_k=0 is not between 1 and n_experts=8"),
        (dict(capacity_factor=0.0), "capacity_factor=0.0 is not above 0"),
        (dict(router_noise=-0.1), "router_noise=-0.1 .* is below 0"),
        (dict(shared_experts=-1), "shared_experts=-1 is below 0"),
        (dict(balance="auto"), "balance='auto' is none of None, 'loss', 'bias'"),
        (dict(activation="tanh"), "activation='tanh' is none of silu, gelu, relu"),
    ],
)
def test_bad_settings_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        MixtureOfExperts(4, 6, **arguments)


@pytest.mark.parametrize("shape", [(7, 4), (2, 7, 5), (2, 3, 7, 4)])
def test_wrong_input_shape_names_the_expected_one(shape):
    with pytest.raises(ValueError, match=r"expected \(batch, time, d_model=4\)"):
        make(4, 6)(torch.zeros(shape).double())
