import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.layers.expert_choice import choose_tokens
from snippets.layers.expert_choice import expert_choice as numpy_expert_choice
from vocab.layers.expert_choice import ExpertChoice
from vocab.layers.mixture_of_experts import MixtureOfExperts

D = torch.float64


def example():
    return ExpertChoice(4, 6, 3, capacity_factor=1.5).double(), (torch.randn(2, 5, 4, dtype=D),)


def make(*sizes, **settings):
    return ExpertChoice(*sizes, **settings).double()


def expert(layer, e, x):
    gate, up = (x @ layer.gate_up_E2FD[e].T).chunk(2, -1)
    return (F.silu(gate) * up) @ layer.down_EDF[e].T


def shares(layer, tokens):
    return (tokens @ layer.router_ED.T).softmax(-1)


@pytest.mark.oracle("a loop over experts with a sorted list of tokens")
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7, 2.0])
def test_equals_a_loop_over_experts(factor):
    layer, x = make(4, 6, 5, capacity_factor=factor), torch.randn(3, 7, 4, dtype=D)
    tokens = x.flatten(0, 1)
    s, k = shares(layer, tokens), round(21 * factor / 5)
    y, count = torch.zeros_like(tokens), [0] * 21
    for e in range(5):
        for n in sorted(range(21), key=lambda n: -s[n, e].item())[:k]:
            y[n] = y[n] + s[n, e] * expert(layer, e, tokens[n])
            count[n] += 1
    ours, aux = layer(x)
    torch.testing.assert_close(ours.flatten(0, 1), y)
    assert aux["experts_per_token"].tolist() == count


@pytest.mark.parametrize(("n", "factor", "experts", "k"), [(12, 1.0, 4, 3), (10, 2.0, 4, 5), (7, 1.0, 3, 2), (16, 0.5, 8, 1)])
def test_every_expert_takes_the_same_number_of_tokens(n, factor, experts, k):
    layer = make(4, 6, experts, capacity_factor=factor)
    _, aux = layer(torch.randn(1, n, 4, dtype=D))
    assert aux["tokens_per_expert"].tolist() == [k] * experts and aux["experts_per_token"].sum() == k * experts
    assert len(aux["experts_per_token"]) == n
    assert make(4, 6, 3)(torch.randn(1, 6, 4, dtype=D))[1]["tokens_per_expert"].tolist() == [4, 4, 4]  # default factor 2


@pytest.mark.oracle("the dense softmax mixture")
def test_when_experts_take_all_tokens_it_is_the_dense_mixture():
    layer, x = make(4, 6, 3, capacity_factor=3.0), torch.randn(2, 5, 4, dtype=D)
    y, aux = layer(x)
    torch.testing.assert_close(y, sum(shares(layer, x)[..., e, None] * expert(layer, e, x) for e in range(3)))
    assert aux["experts_per_token"].tolist() == [3] * 10


def test_equals_token_choice_where_both_take_everything():
    layer, x = make(4, 6, 3, capacity_factor=3.0), torch.randn(2, 5, 4, dtype=D)
    token_choice = MixtureOfExperts(4, 6, 3, 3).double()  # with all experts, normalized gates are the softmax
    token_choice.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x)[0], token_choice(x)[0])


def test_a_later_token_changes_an_earlier_output_which_token_choice_does_not():
    """A widely copied page does not mention it: the routing looks into the future."""
    torch.manual_seed(5)
    layer, token_choice = make(4, 6, 3, capacity_factor=1.0), MixtureOfExperts(4, 6, 3, 1, normalize_gates=False).double()
    x = torch.randn(1, 12, 4, dtype=D)
    other = x.clone()
    other[:, -1] = 5 * layer.router_ED[0]  # now the best token for expert 0: it pushes an earlier one out
    leaks = (layer(x)[0] - layer(other)[0])[0, :-1].abs().max()
    assert leaks > 1e-3
    assert (token_choice(x)[0] - token_choice(other)[0])[0, :-1].abs().max() == 0


def test_the_result_for_a_sequence_depends_on_the_others_in_the_batch():
    layer, x = make(4, 6, 3, capacity_factor=1.0), torch.randn(3, 8, 4, dtype=D)
    assert not torch.allclose(layer(x)[0][:1], layer(x[:1])[0])


def test_some_tokens_get_many_experts_and_some_none_at_all():
    layer, x = make(4, 6, 4, capacity_factor=1.0), torch.randn(1, 40, 4, dtype=D)
    y, aux = layer(x)
    left_out = aux["experts_per_token"] == 0
    assert left_out.any() and aux["experts_per_token"].max() > 1
    assert (y[0, left_out] == 0).all() and (y[0, ~left_out].abs().sum(-1) > 0).all()


def test_permuting_tokens_permutes_the_result():
    layer, x = make(4, 6, 3, capacity_factor=1.0), torch.randn(1, 9, 4, dtype=D)
    order = torch.randperm(9)
    torch.testing.assert_close(layer(x[:, order])[0], layer(x)[0][:, order])


def test_the_router_learns_through_the_gates():
    layer, x = make(4, 6, 3, capacity_factor=1.0), torch.randn(1, 9, 4, dtype=D)
    layer(x)[0].square().sum().backward()
    assert layer.router_ED.grad.abs().sum(1).min() > 0
    half = ExpertChoice(4, 6, 3).bfloat16()
    assert half(torch.randn(1, 9, 4).bfloat16())[0].dtype == torch.bfloat16


def test_starts_like_linear_layers():
    layer = ExpertChoice(64, 256, 6)
    for weight, fan_in in [(layer.router_ED, 64), (layer.gate_up_E2FD, 64), (layer.down_EDF, 256)]:
        assert 0.95 * fan_in**-0.5 < weight.abs().max() <= fan_in**-0.5
    assert layer.gate_up_E2FD.shape == (6, 512, 64)


def test_numpy_variant_agrees(agree):
    for factor in (0.7, 1.0, 2.0):
        layer, x = make(4, 6, 5, capacity_factor=factor), torch.randn(1, 14, 4, dtype=D)
        experts = [lambda rows, e=e: expert(layer, e, torch.from_numpy(rows)).detach().numpy() for e in range(5)]
        y, taken = numpy_expert_choice(x[0].numpy(), layer.router_ED.detach().numpy(), experts, round(14 * factor / 5))
        ours, aux = layer(x)
        agree(y, ours[0])
        assert taken.sum(1).tolist() == aux["experts_per_token"].tolist()
    assert (choose_tokens(np.eye(3), 1) == np.eye(3, dtype=bool)).all()


def test_bad_settings_and_shapes_say_which_and_why():
    for sizes, message in [((0, 6, 3), "d_model=0"), ((4, 0, 3), "d_ff=0"), ((4, 6, 0), "n_experts=0")]:
        with pytest.raises(ValueError, match=f"{message} is below 1"):
            ExpertChoice(*sizes)
    for factor, message in [(0.1, "0 of 9 tokens; expected between 1 and 9"), (4.0, "12 of 9 tokens; expected between 1 and 9")]:
        with pytest.raises(ValueError, match=f"capacity_factor={factor} gives each of 3 experts {message}"):
            ExpertChoice(4, 6, 3, capacity_factor=factor)(torch.zeros(1, 9, 4))
    for shape in [(7, 4), (2, 7, 5)]:
        with pytest.raises(ValueError, match=r"expected \(batch, time, d_model=4\)"):
            ExpertChoice(4, 6, 3)(torch.zeros(shape))
