import math

import numpy as np
import pytest
import torch

from snippets.layers.capsule import routing
from snippets.layers.capsule import squash as numpy_squash
from vocab.layers.capsule import CapsuleLayer, dynamic_routing, margin_loss, squash

D = torch.float64


def example():
    return CapsuleLayer(5, 3, 4, 2).double(), (torch.randn(2, 5, 3, dtype=D),)


def by_hand(weight, u, iters):
    """Four loops over lists: batch, rounds, outputs and inputs."""
    result, couplings = [], []
    inputs, outputs = weight.shape[:2]
    for sample in u:
        hat = [[weight[i, j] @ sample[i] for j in range(outputs)] for i in range(inputs)]
        b = [[0.0] * outputs for _ in range(inputs)]
        for _ in range(iters):
            c = [[math.exp(x) / sum(math.exp(y) for y in row) for x in row] for row in b]
            v = []
            for j in range(outputs):
                s = sum(c[i][j] * hat[i][j] for i in range(inputs))
                square = float(s @ s)
                v.append(square / (1 + square) * s / math.sqrt(square))
                for i in range(inputs):
                    b[i][j] += float(hat[i][j] @ v[j])
        result.append(torch.stack(v))
        couplings.append(c)
    return torch.stack(result), torch.tensor(couplings, dtype=D)


@pytest.mark.oracle("an explicit loop over batch, rounds, outputs and inputs")
@pytest.mark.parametrize("iters", [1, 2, 3, 5])
def test_equals_explicit_loops(iters):
    layer, u = CapsuleLayer(5, 3, 4, 2, iters).double(), 2 * torch.randn(3, 5, 3, dtype=D)
    expected, couplings = by_hand(layer.weight_IJed.detach(), u, iters)
    torch.testing.assert_close(layer(u), expected)
    u_hat = torch.stack([torch.stack([u[:, i] @ layer.weight_IJed[i, j].T for j in range(4)], 1) for i in range(5)], 1)
    torch.testing.assert_close(dynamic_routing(u_hat, iters)[1].detach(), couplings)
    assert CapsuleLayer(5, 3, 4, 2).routing_iters == 3
    torch.testing.assert_close(dynamic_routing(u_hat)[1], dynamic_routing(u_hat, 3)[1])


@pytest.mark.oracle("closed form of the length")
def test_squash_keeps_the_direction_and_brings_the_length_below_one():
    s = torch.randn(50, 4, dtype=D) * torch.logspace(-4, 3, 50, dtype=D)[:, None]
    square = s.square().sum(-1)
    torch.testing.assert_close(squash(s).norm(dim=-1), square / (1 + square))
    torch.testing.assert_close(squash(s) / squash(s).norm(dim=-1, keepdim=True), s / s.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(squash(s.T, dim=0), squash(s).T)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, D])
def test_squash_of_zero_is_zero_with_a_finite_gradient(dtype):
    s = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    squash(s).sum().backward()
    assert (squash(s) == 0).all() and (s.grad.abs() < 0.01).all()
    naive = torch.zeros(3, requires_grad=True)  # the way it is often written
    (naive * naive.square().sum().sqrt()).sum().backward()
    assert naive.grad.isnan().all()


def test_coupling_coefficients_of_an_input_sum_to_one_in_every_round():
    u_hat = torch.randn(2, 7, 4, 3, dtype=D)
    for iters in range(1, 6):
        c = dynamic_routing(u_hat, iters)[1]
        torch.testing.assert_close(c.sum(-1), torch.ones(2, 7, dtype=D))
        assert iters == 1 or (c.sum(1) - 7 / 4).abs().max() > 1e-3  # over inputs they do not


def test_one_round_is_a_plain_average():
    u_hat = torch.randn(2, 7, 4, 3, dtype=D)
    v, c = dynamic_routing(u_hat, 1)
    assert torch.equal(c, torch.full_like(c, 0.25))
    torch.testing.assert_close(v, squash(u_hat.sum(1) / 4))


def test_agreement_draws_the_inputs_over_round_by_round():
    u_hat = torch.zeros(1, 4, 2, 2, dtype=D)
    u_hat[0, :, 0] = torch.tensor([0.8, 0.6])  # all agree about output 0
    u_hat[0, :, 1] = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])  # and cancel for output 1
    shares = [dynamic_routing(u_hat, iters)[1][0, :, 0] for iters in range(1, 8)]
    for before, after in zip(shares, shares[1:]):
        assert (after > before).all()
    assert shares[-1].min() > 0.95


def test_turning_all_predictions_turns_the_outputs_and_leaves_their_lengths():
    """A widely copied page promises invariance. What routing has is equivariance; only the length stays."""
    u_hat = torch.randn(2, 7, 4, 3, dtype=D)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=D))
    v, c = dynamic_routing(u_hat, 3)
    turned, same = dynamic_routing(u_hat @ turn, 3)
    torch.testing.assert_close(turned, v @ turn)
    torch.testing.assert_close(same, c)
    torch.testing.assert_close(turned.norm(dim=-1), v.norm(dim=-1))
    assert not torch.allclose(turned, v, rtol=0.1)


def test_many_rounds_send_an_input_to_one_output_only():
    c = dynamic_routing(torch.randn(1, 7, 4, 3, dtype=D), 200)[1]
    assert c.max(-1).values.min() > 0.95


@pytest.mark.oracle("the size of the MNIST network (Sabour et al. 2017)")
def test_the_digit_capsules_of_mnist_have_1_474_560_weights():
    with torch.device("meta"):
        layer = CapsuleLayer(1152, 8, 10, 16)
    assert sum(p.numel() for p in layer.parameters()) == 1_474_560


def test_detached_routing_gives_the_same_output_and_the_gradient_of_the_last_round():
    u_hat = torch.randn(2, 5, 4, 3, dtype=D, requires_grad=True)
    (v, c), (same, _) = dynamic_routing(u_hat, 3, detach=True), dynamic_routing(u_hat, 3)
    torch.testing.assert_close(v, same)
    held = squash(torch.einsum("bij, bije -> bje", c.detach(), u_hat))
    grads = [torch.autograd.grad(y.square().sum(), u_hat, retain_graph=True)[0] for y in (v, held, same)]
    torch.testing.assert_close(grads[0], grads[1])
    assert not torch.allclose(grads[0], grads[2], rtol=1e-3)
    layer, u = CapsuleLayer(5, 3, 4, 2, detach_routing=True).double(), torch.randn(2, 5, 3, dtype=D)
    full = CapsuleLayer(5, 3, 4, 2).double()
    full.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(u), full(u))
    for each in (layer, full):
        each(u).square().sum().backward()
    assert not torch.allclose(layer.weight_IJed.grad, full.weight_IJed.grad, rtol=1e-3)


@pytest.mark.oracle("the margin loss written out for every class")
def test_margin_loss_equals_its_formula():
    v, target = torch.rand(6, 4, 3, dtype=D), torch.tensor([0, 3, 1, 1, 2, 0])
    expected = 0.0
    for row, t in zip(v, target.tolist()):
        for k, capsule in enumerate(row):
            length = math.sqrt(float(capsule @ capsule))
            expected += max(0, 0.9 - length) ** 2 if k == t else 0.5 * max(0, length - 0.1) ** 2
    assert margin_loss(v, target).item() == pytest.approx(expected / 6)
    several = torch.zeros(6, 4, dtype=torch.bool)
    several[torch.arange(6), target] = True
    torch.testing.assert_close(margin_loss(v, several), margin_loss(v, target.int()))
    several[:, 3] = True
    assert margin_loss(v, several).item() != pytest.approx(expected / 6)
    settled = torch.tensor([[[0.9, 0.0], [0.0, 0.1]]], dtype=D)
    assert margin_loss(settled, torch.tensor([0])) == pytest.approx(0, abs=1e-12)
    assert margin_loss(settled, torch.tensor([1]), m_plus=1.0, m_minus=0.2, lam=2.0).item() == pytest.approx(0.81 + 2 * 0.49)


def test_margin_loss_has_a_finite_gradient_at_zero():
    v = torch.zeros(1, 3, 2, requires_grad=True)
    margin_loss(v, torch.tensor([1])).backward()
    assert v.grad.isfinite().all()


def test_starts_within_one_over_the_root_of_the_input():
    weight = CapsuleLayer(50, 16, 10, 4).weight_IJed
    assert 0.249 < weight.abs().max() <= 0.25 and abs(weight.mean()) < 0.01


def test_numpy_variant_agrees(agree):
    u_hat = torch.randn(1, 7, 4, 3, dtype=D)
    v, history = routing(u_hat[0].numpy(), 4)
    for iters in range(1, 5):
        agree(history[iters - 1], dynamic_routing(u_hat, iters)[1][0])
    agree(v, dynamic_routing(u_hat, 4)[0][0])
    agree(numpy_squash(u_hat.numpy()), squash(u_hat))


def test_bad_settings_and_shapes_say_which_and_why():
    for sizes, name in [((0, 3, 4, 2), "in_capsules"), ((5, 0, 4, 2), "in_dim"), ((5, 3, 0, 2), "out_capsules"),
                        ((5, 3, 4, 0), "out_dim"), ((5, 3, 4, 2, 0), "routing_iters")]:
        with pytest.raises(ValueError, match=f"{name}=0 is below 1"):
            CapsuleLayer(*sizes)
    for shape in [(2, 5, 4), (2, 6, 3), (5, 3)]:
        with pytest.raises(ValueError, match=r"expected \(batch, in_capsules=5, in_dim=3\)"):
            CapsuleLayer(5, 3, 4, 2)(torch.zeros(shape))
    with pytest.raises(ValueError, match="iters=0 is below 1"):
        dynamic_routing(torch.zeros(1, 2, 3, 4), 0)
    with pytest.raises(ValueError, match=r"u_hat has shape \(2, 3, 4\)"):
        dynamic_routing(torch.zeros(2, 3, 4))
    with pytest.raises(TypeError, match="s has dtype torch.int64"):
        squash(torch.zeros(3).long())
    v = torch.zeros(2, 3, 4)
    for target, message in [([0, 3], r"target=\[0, 3\] holds a class outside 0 to 2"), ([-1, 0], "outside 0 to 2"),
                            ([0], r"target has shape \(1,\); expected \(batch=2\)"),
                            ([[True, False]] * 2, r"target has shape \(2, 2\); expected \(batch=2, out_capsules=3\)")]:
        with pytest.raises(ValueError, match=message):
            margin_loss(v, torch.tensor(target))
    with pytest.raises(ValueError, match=r"v has shape \(2, 3\)"):
        margin_loss(v[..., 0], torch.tensor([0, 1]))
    assert np.isfinite(margin_loss(v, torch.tensor([0, 2])).item())
