import numpy as np
import pytest
import torch
from torch import nn

from snippets.adapters.lora import fit, tail
from vocab.adapters.lora import LoRALinear, apply_lora

D = torch.float64


def made(r=2, alpha=3.0, inputs=5, outputs=4, **settings):
    layer = LoRALinear(nn.Linear(inputs, outputs), r, alpha, **settings).to(D)
    nn.init.normal_(layer.B)
    return layer


def example():
    """For the contract suite: a layer with a change, and its input."""
    return made(), (torch.randn(3, 5, dtype=D),)


def test_at_the_start_it_is_the_frozen_layer_bit_for_bit():
    base = nn.Linear(6, 3)
    x = torch.randn(4, 6)
    expected = base(x)
    assert torch.equal(LoRALinear(base, 2)(x), expected)
    assert not base.weight.requires_grad and not base.bias.requires_grad


@pytest.mark.oracle("peft LoraConfig")
@pytest.mark.parametrize("rslora", [False, True])
def test_equals_peft(rslora):
    peft = pytest.importorskip("peft")
    model = nn.Sequential(nn.Linear(6, 5)).to(D)
    ours = LoRALinear(nn.Linear(6, 5).to(D), 3, 7.0, rslora=rslora)
    ours.base.load_state_dict(model[0].state_dict())
    nn.init.normal_(ours.B)
    theirs = peft.get_peft_model(model, peft.LoraConfig(r=3, lora_alpha=7.0, target_modules=["0"], use_rslora=rslora)).to(D)
    layer = theirs.base_model.model[0]
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(ours.A), layer.lora_B["default"].weight.copy_(ours.B)
    x = torch.randn(4, 6, dtype=D)
    torch.testing.assert_close(ours(x), theirs(x))


def test_the_output_changes_by_the_scaled_product():
    layer, x = made(r=2, alpha=3.0), torch.randn(7, 5, dtype=D)
    expected = x @ layer.base.weight.T + layer.base.bias + 1.5 * (x @ layer.A.T) @ layer.B.T
    torch.testing.assert_close(layer(x), expected)
    assert made(r=4, alpha=3.0, rslora=True).scaling == 1.5


@pytest.mark.parametrize("bias", [True, False])
def test_merged_equals_unmerged_and_unmerging_restores_the_weight(bias):
    layer = LoRALinear(nn.Linear(5, 4, bias=bias), 2).to(D)
    nn.init.normal_(layer.B)
    x, before = torch.randn(3, 5, dtype=D), layer.base.weight.clone()
    expected = layer(x)
    torch.testing.assert_close(layer.merge()(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.merge()(x), expected, rtol=1e-12, atol=1e-12)  # a second time changes nothing
    assert not torch.allclose(layer.base.weight, before)
    layer.unmerge(), layer.unmerge()
    torch.testing.assert_close(layer.base.weight, before, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.oracle("singular values")
def test_the_change_has_at_most_rank_r():
    layer = made(r=3, inputs=9, outputs=7)
    before = layer.base.weight.clone()
    change = layer.merge().base.weight - before
    assert torch.linalg.matrix_rank(change, rtol=1e-10) == 3
    torch.testing.assert_close(layer.change(), change)


def test_with_full_rank_any_weight_can_be_reached():
    target = torch.randn(4, 5, dtype=D)
    layer = LoRALinear(nn.Linear(5, 4), r=4, alpha=4.0).to(D)
    with torch.no_grad():
        layer.B.copy_((target - layer.base.weight) @ torch.linalg.pinv(layer.A))
        u, s, v = torch.linalg.svd(target - layer.base.weight, full_matrices=False)
        layer.A.copy_(v), layer.B.copy_(u * s)
    torch.testing.assert_close(layer.merge().base.weight, target)


def test_the_first_gradient_is_zero_for_a_and_not_for_b():
    layer, x = LoRALinear(nn.Linear(5, 4), 2).to(D), torch.randn(3, 5, dtype=D)
    layer(x).square().sum().backward()
    assert layer.A.grad.abs().max() == 0 and layer.B.grad.abs().max() > 0
    assert layer.base.weight.grad is None


def test_a_starts_as_a_linear_layer_does():
    layer = LoRALinear(nn.Linear(10_000, 20), 8)
    assert layer.A.abs().max().item() == pytest.approx(0.01, rel=1e-3) and layer.A.std().item() == pytest.approx(0.01 / 3**0.5, rel=0.02)
    assert layer.scaling == 2.0 and layer.B.abs().max() == 0


@pytest.mark.oracle("published count: 37.7 million for GPT-3")
def test_gpt_3_has_38_million_parameters_with_rank_8_on_queries_and_values():
    d, layers = 12288, 96
    one = sum(p.numel() for n, p in LoRALinear(nn.Linear(d, d, device="meta"), 8).named_parameters() if p.requires_grad)
    assert one == 8 * (d + d) and 2 * layers * one == 37_748_736


def test_dropout_acts_on_the_input_of_a_in_training_only():
    layer, x = made(dropout=0.5), torch.ones(200, 5, dtype=D)
    assert torch.equal(layer.eval()(x), layer(x)) and layer(x).std(0).max() < 1e-12
    change = layer.train()(x) - layer.base(x)
    assert change.std(0).max() > 0.1, "the change is thinned out, the frozen layer is not"
    torch.testing.assert_close(layer.merge()(x), layer.base(x))


def test_a_model_is_frozen_and_only_named_layers_are_replaced():
    model = nn.ModuleDict({"q_proj": nn.Linear(4, 4), "k_proj": nn.Linear(4, 4), "mlp": nn.ModuleDict({"q_proj": nn.Linear(4, 6)})})
    assert apply_lora(model, ["q_proj"], r=2, alpha=8.0, rslora=True) == ["q_proj", "mlp.q_proj"]
    assert isinstance(model["mlp"]["q_proj"], LoRALinear) and isinstance(model["k_proj"], nn.Linear)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"q_proj.A", "q_proj.B", "mlp.q_proj.A", "mlp.q_proj.B"}
    assert model["q_proj"].scaling == 8 / 2**0.5
    again = nn.Sequential(nn.Linear(3, 3))
    apply_lora(again, ["0"], r=3)
    assert again[0].A.shape == (3, 3) and again[0].scaling == 16 / 3


def test_a_tied_weight_is_not_adapted():
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    with pytest.raises(ValueError, match="head shares its weight with another module"):
        apply_lora(model, ["head"], r=2)
    assert model["embed"].weight.requires_grad, "nothing was changed"


def test_changing_the_rank_alone_changes_the_step():
    assert [made(r=r, alpha=16.0, inputs=64, outputs=64).scaling for r in (8, 16, 32)] == [2.0, 1.0, 0.5]


def test_without_alpha_over_r_a_loaded_adapter_is_too_weak():
    """Erratum: with alpha 32 and rank 8 the change is four times B A."""
    layer = made(r=8, alpha=32.0, inputs=16, outputs=16)
    torch.testing.assert_close(layer.change(), 4 * layer.B @ layer.A)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: LoRALinear(nn.Conv1d(2, 2, 1)), TypeError, "base is a Conv1d; expected torch.nn.Linear"),
    (lambda: made(r=0), ValueError, "r=0 is not from 1 to 4, the smaller side of the weight"),
    (lambda: made(r=5), ValueError, "r=5 is not from 1 to 4"),
    (lambda: made(dropout=1.0), ValueError, "dropout=1.0 is not from 0 up to 1"),
    (lambda: made(dropout=-0.1), ValueError, "dropout=-0.1"),
    (lambda: made()(torch.zeros(2, 4, dtype=D)), ValueError, r"x has shape \(2, 4\); expected \(..., in_features=5\)"),
    (lambda: apply_lora(nn.ModuleDict({"out": nn.Linear(2, 2)}), ["q"]), ValueError, r"target_modules=\['q'\]: no linear layer has such a name; there are \['out'\]"),
])
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_demo_takes_the_same_steps_as_autograd(agree):
    target = torch.randn(6, 6, dtype=D)
    A, B, losses = fit(target.numpy(), rank=2, scaling=1.5, rate=0.05, steps=7)
    a = torch.tensor(fit(target.numpy(), 2, 1.5, 0.05, 0)[0], requires_grad=True)
    b = torch.zeros(6, 2, dtype=D, requires_grad=True)
    optimizer = torch.optim.SGD([a, b], lr=0.05)
    for _ in range(7):
        optimizer.zero_grad()
        (0.5 * (1.5 * b @ a - target).square().sum()).backward()
        optimizer.step()
    agree(A, a), agree(B, b)
    assert len(losses) == 8


@pytest.mark.oracle("Eckart and Young: the tail of the singular values")
def test_the_demos_bound_is_the_best_a_rank_can_do():
    matrix = np.random.default_rng(0).normal(size=(8, 8))
    u, s, v = np.linalg.svd(matrix)
    for rank in (1, 3, 8):
        best = u[:, :rank] * s[:rank] @ v[:rank]
        assert tail(matrix, rank) == pytest.approx(np.linalg.norm(matrix - best), abs=1e-12)
    _, _, errors = fit(matrix, 3, 1.0, 0.05, 2000)
    assert errors[-1] == pytest.approx(tail(matrix, 3), rel=1e-3) and errors.min() >= tail(matrix, 3) - 1e-9
