import math

import pytest
import torch
from torch.nn import functional as F

from snippets.losses.load_balancing import balance_push, dispatched as dispatched_np, load_balancing_loss as loss_np, move_bias as move_np
from vocab.layers.mixture_of_experts import MixtureOfExperts
from vocab.losses.load_balancing import BiasBalancer, dispatched, load_balancing_loss, move_bias

LOGITS = 2 * torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def example():
    """For the contract suite: a small instance and its inputs."""
    return load_balancing_loss, (torch.randn(6, 4).double(), 2, 0.1, torch.tensor([True] * 5 + [False]))


def counted(logits, top_k):
    """The shares of the assignments, one token at a time."""
    counts, rows = [0] * logits.shape[-1], logits.flatten(0, -2).tolist()
    for row in rows:
        for expert in sorted(range(len(row)), key=lambda e: -row[e])[:top_k]:
            counts[expert] += 1
    return torch.tensor(counts).double() / (len(rows) * top_k)


@pytest.mark.oracle("E times the sum of f and P, token by token")
@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_is_the_definition_worked_out_token_by_token(top_k):
    p = (LOGITS.exp() / LOGITS.exp().sum(-1, keepdim=True)).flatten(0, 1)
    expected = sum(5 * f * sum(row[e] for row in p) / 27 for e, f in enumerate(counted(LOGITS, top_k)))
    torch.testing.assert_close(load_balancing_loss(LOGITS, top_k, coef=0.3), 0.3 * expected)


def test_defaults_are_those_of_switch():
    torch.testing.assert_close(load_balancing_loss(LOGITS), load_balancing_loss(LOGITS, 1, 1.0) / 100)


@pytest.mark.oracle("value of an even and of a collapsed router")
@pytest.mark.parametrize("experts", [1, 2, 7, 64])
def test_an_even_router_costs_the_coefficient_and_a_collapsed_one_that_times_the_experts(experts):
    even = torch.zeros(10, experts, dtype=torch.float64)
    for top_k in {1, math.ceil(experts / 2), experts}:
        assert load_balancing_loss(even, top_k, 0.02).item() == pytest.approx(0.02, rel=1e-12)
    even[:, 0] = 1000
    assert load_balancing_loss(even, 1, 0.02).item() == pytest.approx(0.02 * experts, rel=1e-12)


@pytest.mark.oracle("transformers load_balancing_loss_func of Mixtral, divided by top_k")
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_equals_that_of_mixtral_divided_by_top_k(top_k):
    pytest.importorskip("transformers")
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    logits, mask = LOGITS.float(), torch.rand(3, 9) < 0.7
    theirs = load_balancing_loss_func((logits.flatten(0, 1),), 5, top_k)
    torch.testing.assert_close(load_balancing_loss(logits, top_k, 1.0), theirs / top_k)
    theirs = load_balancing_loss_func((logits.flatten(0, 1),), 5, top_k, mask.long())
    torch.testing.assert_close(load_balancing_loss(logits, top_k, 1.0, mask), theirs / top_k)


@pytest.mark.oracle("transformers load_balancing_loss_func of Switch Transformers")
def test_equals_that_of_switch_transformers_which_takes_one_sequence_at_a_time():
    pytest.importorskip("transformers")
    from transformers.models.switch_transformers.modeling_switch_transformers import load_balancing_loss_func

    theirs = load_balancing_loss_func(LOGITS.softmax(-1), LOGITS.argmax(-1))
    each = torch.stack([load_balancing_loss(sequence, coef=1.0) for sequence in LOGITS])
    torch.testing.assert_close(each.mean(), theirs)


@pytest.mark.oracle("closed form: coef E/T p (f - sum f p)")
@pytest.mark.parametrize("top_k", [1, 3])
def test_gradient_is_the_closed_form(top_k):
    z = LOGITS.clone().requires_grad_()
    load_balancing_loss(z, top_k, 0.5).backward()
    f, p = counted(LOGITS, top_k), F.softmax(LOGITS, -1)
    torch.testing.assert_close(z.grad, 0.5 * 5 / 27 * p * (f - (p * f).sum(-1, keepdim=True)))


def test_gradient_flows_only_through_the_probabilities():
    z = LOGITS.clone().requires_grad_()
    (ours,) = torch.autograd.grad(load_balancing_loss(z, 2, 1.0), z)
    f = counted(LOGITS, 2)
    (constant,) = torch.autograd.grad(5 * (f * z.softmax(-1).mean((0, 1))).sum(), z)
    torch.testing.assert_close(ours, constant)
    given = f.clone().requires_grad_()
    load_balancing_loss(z, 2, 1.0, load=given).backward()
    assert given.grad is None


def test_equal_loads_are_not_pushed_however_certain_the_router_is():
    """Each expert gets two of eight tokens, with different certainty: value 1, gradient 0."""
    z = (torch.eye(4).repeat(2, 1) * torch.arange(1, 9)[:, None]).double().requires_grad_()
    value = load_balancing_loss(z, coef=1.0)
    value.backward()
    assert value.item() == pytest.approx(1, rel=1e-12) and z.grad.abs().max() < 1e-15


def test_an_uneven_router_can_cost_less_than_an_even_one():
    """Three tokens just prefer the first expert, one is certain of the second: 2 (0.75 * 0.385 + 0.25 * 0.615)."""
    z = torch.tensor([[0.51, 0.49]] * 3 + [[0.01, 0.99]], dtype=torch.float64).log()
    assert load_balancing_loss(z, coef=1.0).item() == pytest.approx(0.885, rel=1e-12)


@pytest.mark.parametrize("top_k", [1, 2])
def test_descending_it_evens_out_a_lopsided_router(top_k):
    x = torch.randn(500, 8, dtype=torch.float64)
    x[:, 0] = 1
    router = torch.randn(6, 8, dtype=torch.float64) * 0.3
    router[0, 0] += 2
    router.requires_grad_()
    before = dispatched((x @ router.T).topk(top_k).indices, 6).max()
    for _ in range(300):
        (grad,) = torch.autograd.grad(load_balancing_loss(x @ router.T, top_k, 1.0), router)
        router.data -= grad
    after = dispatched((x @ router.T).topk(top_k).indices, 6)
    assert before > 0.85 / top_k and after.max() < 1.25 / 6 and after.min() > 0.75 / 6


def test_two_collapsed_layers_look_balanced_together():
    """One layer sends all to the first of two experts, the other all to the second. Averaged over layers the load is even."""
    pytest.importorskip("transformers")
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    first = torch.tensor([[50.0, 0.0]]).expand(6, 2)
    assert load_balancing_loss_func((first, first.flip(1)), 2, 1).item() == pytest.approx(1)
    assert load_balancing_loss(first, coef=1.0).item() == load_balancing_loss(first.flip(1), coef=1.0).item() == pytest.approx(2)


def test_a_mean_over_experts_instead_of_tokens_is_constant():
    """Erratum: the probabilities of the K chosen sum to 1, so their mean is 1/K for every token, and the loss E/K for every router."""
    z = LOGITS.flatten(0, 1).clone().requires_grad_()
    collapsed = torch.tensor([100.0, 50, 0, 0, 0]).double().expand(6, 5)
    for router in (z, collapsed):
        best = router.topk(2)
        per_token = F.one_hot(best.indices, 5).double().mean(1)
        copied = 5**2 * (per_token * best.values.softmax(-1).mean(-1, keepdim=True)).mean()
        assert copied.item() == pytest.approx(5 / 2)
    (grad,) = torch.autograd.grad(5**2 * z.topk(2).values.softmax(-1).mean(-1).mean() / 5, z)
    assert grad.abs().max() < 1e-15
    assert load_balancing_loss(collapsed, 1, 1.0).item() == pytest.approx(5)
    assert load_balancing_loss(collapsed, 2, 1.0).item() == pytest.approx(5 / 2)  # the most that two choices can cost


def test_shards_must_average_the_load_before_the_product():
    """Two devices see one expert each. Alone each finds a collapse; together they are balanced."""
    one = torch.tensor([[20.0, 0.0]]).double().expand(8, 2)
    shards = (one, one.flip(1))
    alone = sum(load_balancing_loss(s, coef=1.0) for s in shards) / 2
    load = sum(dispatched(s.argmax(-1, keepdim=True), 2) for s in shards) / 2
    together = sum(load_balancing_loss(s, coef=1.0, load=load.double()) for s in shards) / 2
    assert alone.item() == pytest.approx(2, rel=1e-6)
    torch.testing.assert_close(together, load_balancing_loss(torch.cat(shards), coef=1.0))
    assert together.item() == pytest.approx(1, rel=1e-12)


def test_padding_does_not_count_whatever_it_holds():
    padded = torch.cat([LOGITS.flatten(0, 1), torch.full((4, 5), math.inf).double()])
    mask = torch.tensor([True] * 27 + [False] * 4)
    z = padded.clone().requires_grad_()
    value = load_balancing_loss(z, 2, 0.1, mask)
    torch.testing.assert_close(value, load_balancing_loss(LOGITS, 2, 0.1))
    torch.testing.assert_close(load_balancing_loss(LOGITS[0], 2, 0.1, torch.arange(9) == 4), load_balancing_loss(LOGITS[0, 4:5], 2, 0.1))
    value.backward()
    assert torch.equal(z.grad[27:], torch.zeros(4, 5).double()) and (z.grad[:27] != 0).all()


def test_nothing_to_count_costs_nothing():
    z = LOGITS.clone().requires_grad_()
    value = load_balancing_loss(z, 2, 1.0, torch.zeros(3, 9, dtype=torch.bool))
    value.backward()
    assert value.item() == 0 == load_balancing_loss(LOGITS[:0]).item() and z.grad.abs().max() == 0
    assert load_balancing_loss(LOGITS, coef=0.0).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_logits_of_ten_thousand(dtype):
    z = torch.tensor([[1e4, -1e4, 0], [1e4, 0, -1e4]], dtype=dtype, requires_grad=True)
    value = load_balancing_loss(z, coef=1.0)
    value.backward()
    assert value.item() == 3 and value.dtype == torch.float32 and z.grad.dtype == dtype
    assert z.grad.isfinite().all()


def test_sixteen_bits_are_widened_before_the_probabilities_are_added():
    z = LOGITS.repeat(400, 1, 1).half()  # 10,800 probabilities: a sum in float16 would stop growing at 2,048
    torch.testing.assert_close(load_balancing_loss(z, 1, 1.0), load_balancing_loss(z.float(), 1, 1.0))


def test_equals_the_balance_of_the_sparse_layer_also_where_a_bias_chooses():
    moe = MixtureOfExperts(4, 6, 5, 2, balance="bias").double()
    moe.bias_E.copy_(torch.tensor([0.4, 0.0, -0.4, 0.0, 0.1]))
    x = torch.randn(2, 7, 4).double()
    aux = moe(x)[1]
    logits = x.flatten(0, 1) @ moe.router_ED.T
    p = logits.softmax(-1)
    torch.testing.assert_close(aux["load"], counted(p + moe.bias_E, 2))
    torch.testing.assert_close(aux["load_balancing_loss"], 5 * (counted(p + moe.bias_E, 2) * p.mean(0)).sum())
    assert not torch.equal(aux["load"], counted(p, 2))


@pytest.mark.oracle("counting assignments one at a time")
def test_dispatched_counts_assignments():
    chosen = LOGITS.topk(2).indices
    torch.testing.assert_close(dispatched(chosen, 5, dtype=torch.float64), counted(LOGITS, 2))
    mask = torch.rand(3, 9) < 0.5
    torch.testing.assert_close(dispatched(chosen, 5, mask, torch.float64), counted(LOGITS[mask].unsqueeze(0), 2))
    assert torch.equal(dispatched(chosen[:0], 3), torch.zeros(3))


@pytest.mark.oracle("algorithm 1 of Wang et al. 2024, expert by expert")
def test_bias_moves_by_its_rate_against_the_load():
    balancer, expected = BiasBalancer(5, 0.25), [0.0] * 5
    assert BiasBalancer(5).update_rate == 1e-3
    for _ in range(4):
        counts = torch.randint(0, 9, (5,)).double()
        for e, count in enumerate(counts.tolist()):
            error = counts.mean().item() - count
            expected[e] += 0.25 * (error > 0) - 0.25 * (error < 0)
        assert balancer.step(counts).tolist() == expected == balancer.bias.tolist()
    balancer.step(torch.full((5,), 7.0))
    assert balancer.bias.tolist() == expected, "an even load moves nothing"


def test_bias_chooses_but_does_not_weigh_and_has_no_gradient():
    balancer = BiasBalancer(3)
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.2, 0.6, 0.7]])
    assert balancer(scores, 2).tolist() == [[0, 1], [2, 1]] and balancer(scores).tolist() == [[0], [2]]
    balancer.bias.copy_(torch.tensor([0.0, 0.0, 0.6]))
    assert balancer(scores, 2).tolist() == [[0, 2], [2, 1]]
    assert not list(balancer.parameters()) and balancer.state_dict().keys() == {"bias"}
    load = torch.tensor([0.5, 0.25, 0.25], requires_grad=True)
    assert not balancer.step(load).requires_grad


def test_bias_balances_a_router_that_does_not_learn():
    scores = torch.sigmoid(torch.randn(4000, 8).double() + torch.linspace(-1, 1, 8).double())
    balancer = BiasBalancer(8)
    first = dispatched(balancer(scores, 2), 8)
    for _ in range(1000):
        balancer.step(dispatched(balancer(scores, 2), 8))
    last = dispatched(balancer(scores, 2), 8)
    assert first.max() > 0.25 and last.max() < 1.04 / 8 and last.min() > 0.96 / 8
    assert (balancer.bias.diff() < 0).all(), "the experts that were preferred have the lowest biases"


def test_a_step_of_a_thousandth_is_lost_in_sixteen_bits():
    bias = torch.full((2,), 0.75, dtype=torch.bfloat16)  # where neighbors are 1/256 apart
    assert move_bias(bias, torch.tensor([1.0, 0.0]), 1e-3).tolist() == [0.75, 0.75]
    assert move_bias(bias.float(), torch.tensor([1.0, 0.0]), 1e-3).tolist() == pytest.approx([0.749, 0.751])


def test_second_derivatives():
    assert torch.autograd.gradgradcheck(lambda z: load_balancing_loss(z, 2, 1.0), (LOGITS[0].clone().requires_grad_(),))


BALANCER = BiasBalancer(4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: load_balancing_loss(LOGITS, 0), ValueError, "top_k=0 is not between 1 and the number of experts, 5"),
        (lambda: load_balancing_loss(LOGITS, 6), ValueError, "top_k=6 is not between 1 and the number of experts, 5"),
        (lambda: load_balancing_loss(LOGITS, 1, -0.1), ValueError, "coef=-0.1 is not 0 or more"),
        (lambda: load_balancing_loss(LOGITS, 1, math.nan), ValueError, "coef=nan"),
        (lambda: load_balancing_loss(LOGITS.sum()), ValueError, r"router_logits has shape \(\); expected \(\.\.\., experts\)"),
        (lambda: load_balancing_loss(LOGITS, mask=torch.ones(9, dtype=torch.bool)), ValueError,
         r"mask has shape \(9,\); expected that of the rows of router_logits, \(3, 9\)"),
        (lambda: load_balancing_loss(LOGITS, mask=torch.ones(3, 9)), TypeError, "mask has dtype torch.float32; expected torch.bool"),
        (lambda: load_balancing_loss(LOGITS, load=torch.ones(4)), ValueError, r"load has shape \(4,\); expected \(experts=5\)"),
        (lambda: dispatched(LOGITS, 5), TypeError, "chosen has dtype torch.float64; expected an integer dtype"),
        (lambda: BiasBalancer(0), ValueError, "n_experts=0 is below 1"),
        (lambda: BiasBalancer(2, 0.0), ValueError, "update_rate=0.0 is not above 0"),
        (lambda: BALANCER(LOGITS), ValueError, r"scores has shape \(3, 9, 5\); expected \(\.\.\., n_experts=4\)"),
        (lambda: BALANCER(LOGITS[..., :4], 5), ValueError, "top_k=5 is not between 1 and n_experts=4"),
        (lambda: BALANCER(LOGITS[..., :4], 0), ValueError, "top_k=0 is not between 1 and n_experts=4"),
        (lambda: BALANCER.step(torch.ones(3)), ValueError, r"load has shape \(3,\); expected \(n_experts=4\)"),
        (lambda: BALANCER.step([1, 2, 3, 4]), TypeError, "load is a list; expected a tensor"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_numpy_variant_agrees(agree):
    flat = LOGITS.flatten(0, 1)
    for top_k in (1, 2):
        z = flat.clone().requires_grad_()
        value = load_balancing_loss(z, top_k, 0.03)
        agree(loss_np(flat.numpy(), top_k, 0.03), value)
        load = dispatched(flat.topk(top_k).indices, 5, dtype=torch.float64)
        agree(dispatched_np(flat.numpy(), top_k), load)
        agree(balance_push(flat.softmax(-1).numpy(), load.numpy(), 0.03), torch.autograd.grad(value, z)[0])
        agree(move_np(torch.ones(5).double().numpy(), load.numpy(), 0.01), move_bias(torch.ones(5).double(), load, 0.01))
