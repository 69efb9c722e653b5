import copy

import pytest
import torch
from torch import nn

from snippets.adapters.peft import memory as numpy_memory
from snippets.adapters.peft import trained_numbers
from vocab.adapters.bottleneck_adapter import BottleneckAdapter, insert_adapters
from vocab.adapters.ia3 import IA3Linear
from vocab.adapters.lora import LoRALinear, apply_lora
from vocab.adapters.peft import count_parameters, finetune_memory, freeze_except
from vocab.positional.nope import NoPEDecoderBlock


def model():
    return nn.Sequential(NoPEDecoderBlock(8, 2), NoPEDecoderBlock(8, 2))


def train(model, steps=5):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(2, 4, 8)).square().mean().backward()
        optimizer.step()


def bitfit(m):
    freeze_except(m, ["*.bias"])


def lora(m):
    apply_lora(m, ["q_proj", "v_proj"], r=2)


def bottleneck(m):
    insert_adapters(m, 8, bottleneck=2)


@pytest.mark.parametrize("method", [bitfit, lora, bottleneck])
def test_frozen_numbers_stay_bit_for_bit_and_trained_ones_move(method):
    adapted = model()
    method(adapted)
    before = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    train(adapted)
    moved = {name for name, p in adapted.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert 0 < len(moved) < len(before)


@pytest.mark.oracle("peft print_trainable_parameters")
def test_counts_are_pefts():
    peft = pytest.importorskip("peft")
    plain = nn.ModuleDict({"q_proj": nn.Linear(8, 8), "o_proj": nn.Linear(8, 6)})
    theirs = peft.get_peft_model(copy.deepcopy(plain), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    apply_lora(plain, ["q_proj"], r=2)
    trainable, total = theirs.get_nb_trainable_parameters()
    assert count_parameters(plain) == {"total": total, "trainable": trainable, "ratio": trainable / total}


@pytest.mark.oracle("closed forms of the methods")
def test_counts_of_the_methods():
    r, inputs, outputs, d, m = 3, 10, 6, 20, 4
    assert count_parameters(LoRALinear(nn.Linear(inputs, outputs), r))["trainable"] == r * (inputs + outputs)
    assert count_parameters(BottleneckAdapter(d, m))["trainable"] == 2 * d * m + d + m
    layer = IA3Linear(nn.Linear(d, 5)), IA3Linear(nn.Linear(d, 7)), IA3Linear(nn.Linear(80, d), feedforward=True)
    assert sum(count_parameters(x)["trainable"] for x in layer) == 5 + 7 + 80


def test_a_shared_parameter_counts_once():
    tied = nn.ModuleDict({"embed": nn.Embedding(7, 3), "head": nn.Linear(3, 7, bias=False)})
    tied["head"].weight = tied["embed"].weight
    assert count_parameters(tied) == {"total": 21, "trainable": 21, "ratio": 1.0}
    assert count_parameters(nn.Identity()) == {"total": 0, "trainable": 0, "ratio": 0.0}


@pytest.mark.oracle("published: 16 bytes for each parameter of AdamW in mixed precision")
def test_full_fine_tuning_takes_16_bytes_a_parameter_and_frozen_weights_two():
    full = finetune_memory(1e9, 1e9)
    assert full == {"weights": 2e9, "grads": 2e9, "optimizer": 12e9, "total": 16e9}
    part = finetune_memory(1e9, 1e7)
    assert part["total"] == pytest.approx(2e9 + 14 * 1e7)
    assert finetune_memory(1e9, 0, param_bytes=0.5)["total"] == 0.5e9
    assert finetune_memory(10, 10, grad_bytes=4, optimizer_bytes=4, master_bytes=0)["total"] == 10 * (2 + 4 + 4)


def test_batch_statistics_of_a_frozen_model_still_move_in_training_mode():
    norm = nn.BatchNorm1d(3).requires_grad_(False)
    norm(torch.randn(8, 3) + 5)
    assert norm.running_mean.abs().max() > 0.1
    before = norm.running_mean.clone()
    norm.eval()(torch.randn(8, 3) + 5)
    assert torch.equal(norm.running_mean, before)


def test_checkpointing_with_frozen_inputs_trains_nothing_unless_told_otherwise():
    from torch.utils.checkpoint import checkpoint

    first, second = nn.Linear(3, 3).requires_grad_(False), nn.Linear(3, 3)
    x = first(torch.randn(2, 3))
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad"):
        out = checkpoint(second, x, use_reentrant=True)
    assert not out.requires_grad, "the reentrant form looks at the inputs only"
    checkpoint(second, x, use_reentrant=False).sum().backward()
    assert second.weight.grad is not None


def test_layers_below_the_first_trained_one_have_no_backward_pass():
    stack = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    freeze_except(stack, ["1.weight"])
    hidden = stack[0](torch.randn(2, 4))
    assert not hidden.requires_grad and stack[1](hidden).requires_grad


def test_bitfit_trains_the_biases():
    names = freeze_except(model(), ["*.bias"])
    assert names and all(name.endswith(".bias") for name in names)
    both = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert freeze_except(both, ["0.*", "*.bias"]) == ["0.weight", "0.bias", "1.bias"]
    assert [p.requires_grad for p in both.parameters()] == [True, True, False, True]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: freeze_except(nn.Linear(2, 2), ["*.lora"]), r"patterns: '\*.lora' fits no parameter; there are weight, bias"),
    (lambda: finetune_memory(10, 11), "n_trainable=11 is more than n_params=10"),
    (lambda: finetune_memory(-1, 0), "n_params=-1 is negative"),
    (lambda: finetune_memory(1, 1, grad_bytes=-2), "grad_bytes=-2 is negative"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert finetune_memory(0, 0)["total"] == 0


def test_a_pattern_that_fits_nothing_changes_nothing():
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError):
        freeze_except(layer, ["weight", "nothing"])
    assert all(p.requires_grad for p in layer.parameters())


def test_numpy_variant_agrees(agree):
    ours = finetune_memory(7e9, 2e7, param_bytes=0.5)
    agree(numpy_memory(7e9, 2e7, 0.5), torch.tensor([ours["weights"], ours["grads"], ours["optimizer"]], dtype=torch.float64))
    d, layers = 64, 3
    counted = trained_numbers(d, layers, rank=4)
    blocks = nn.ModuleList(nn.ModuleDict({"q": nn.Linear(d, d), "v": nn.Linear(d, d)}) for _ in range(layers))
    apply_lora(blocks, ["q", "v"], r=4)
    assert counted["LoRA on q and v"] == count_parameters(blocks)["trainable"]
    assert counted["bottleneck 64"] == layers * count_parameters(BottleneckAdapter(d, 64))["trainable"]
