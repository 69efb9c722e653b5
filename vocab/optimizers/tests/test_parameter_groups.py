import math

import numpy as np
import pytest
import torch
from torch import nn

from snippets.optimizers.parameter_groups import NAMES, losses, param_groups as by_names, pretrained, task, train
from vocab.optimizers.adamw import AdamW
from vocab.optimizers.parameter_groups import depths, param_groups


class Encoder(nn.Module):
    """A small Transformer with everything that groups must tell apart."""

    def __init__(self, tied=False):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.position = nn.Parameter(torch.zeros(5, 8))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(3))
        self.final = nn.LayerNorm(8)
        self.head = nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.final(x))


def by_name(model, groups):
    """The options of every parameter, by its name."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize("layer_decay", [None, 0.7])
@pytest.mark.parametrize("tied", [False, True])
def test_every_parameter_is_in_exactly_one_group(layer_decay, tied):
    model = Encoder(tied)
    model.final.weight.requires_grad_(False)
    groups = param_groups(model, 0.1, 0.01, layer_decay=layer_decay)
    found = [id(p) for group in groups for p in group["params"]]
    assert len(found) == len(set(found)) == len(list(model.parameters()))
    assert set(found) == {id(p) for p in model.parameters()}
    assert len({group["name"] for group in groups}) == len(groups)
    torch.optim.AdamW(groups)


@pytest.mark.oracle("transformers: names of parameters outside of normalizations, without biases")
def test_decay_goes_to_what_another_library_decays():
    get_parameter_names = pytest.importorskip("transformers.trainer_pt_utils").get_parameter_names
    model = Encoder()
    expected = {name for name in get_parameter_names(model, [nn.LayerNorm]) if "bias" not in name} & {name for name, _ in model.named_parameters()}
    found = {name for name, (_, decay) in by_name(model, param_groups(model, 0.1, 0.3)).items() if decay == 0.3}
    assert found == expected and 0 < len(found) < len(list(model.parameters()))
    assert "blocks.0.norm1.weight" not in found and "blocks.0.self_attn.in_proj_bias" not in found and "position" in found


def test_words_are_looked_for_in_names_and_classes_in_any_case():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Embedding(5, 4))
    options = by_name(model, param_groups(model, 0.1, 0.3))
    assert {name for name, (_, decay) in options.items() if not decay} == {"0.bias", "1.weight", "1.bias"}
    options = by_name(model, param_groups(model, 0.1, 0.3, no_decay=("EMBED",)))
    assert {name for name, (_, decay) in options.items() if not decay} == {"2.weight"}
    assert len(param_groups(model, 0.1, 0.3, no_decay=())) == 1


@pytest.mark.oracle("the rule lr d^(L - l), layers numbered by hand")
def test_rates_fall_from_the_head_to_the_embedding():
    model, d = Encoder(), 0.65
    options = by_name(model, param_groups(model, 0.1, 0.01, layer_decay=d))
    for start, layer in (("embed", 0), ("position", 0), ("blocks.0", 1), ("blocks.1", 2), ("blocks.2", 3), ("final", 4), ("head", 4)):
        rates = [rate for name, (rate, _) in options.items() if name.startswith(start)]
        assert rates == pytest.approx([0.1 * d ** (4 - layer)] * len(rates)) and rates, start


def test_layers_of_a_model_without_a_head_end_at_the_full_rate():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    assert [rate for rate, _ in by_name(model, param_groups(model, 0.1, 0.0, layer_decay=0.5)).values()] == [0.05, 0.05, 0.1, 0.1]
    single = nn.Linear(2, 2)
    assert {rate for rate, _ in by_name(single, param_groups(single, 0.1, 0.0, layer_decay=0.5)).values()} == {0.1}


def test_a_decoder_comes_after_its_encoder():
    found = depths(["encoder.layers.0.w", "encoder.layers.1.w", "encoder.norm.w", "decoder.layers.0.w", "decoder.layers.0.moe.3.w", "out.w"])
    assert list(found.values()) == [1, 2, 2, 3, 3, 4]


@pytest.mark.oracle("torch.optim.AdamW on the subset of the other parameters")
def test_a_group_with_rate_zero_stays_bit_for_bit_and_the_rest_learns_as_if_alone():
    models = []
    for alone in (False, True):
        torch.manual_seed(0)
        model = Encoder().double().eval()
        groups = param_groups(model, 0.01, 0.1)
        if alone:
            rest = [g for g in groups if g["weight_decay"]]
        else:
            rest = [dict(g, lr=g["lr"] if g["weight_decay"] else 0.0) for g in groups]
        optimizer = (torch.optim.AdamW if alone else AdamW)(rest)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        for step in range(5):
            ids = torch.randint(0, 11, (2, 5), generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            model(ids).square().mean().backward()
            optimizer.step()
        models.append(dict(model.named_parameters()))
    decayed = {name for name, (_, decay) in by_name(model, groups).items() if decay}
    for name, p in models[0].items():
        assert torch.equal(p, before[name]) is (name not in decayed), name
        torch.testing.assert_close(p, models[1][name], rtol=1e-9, atol=1e-12)


def test_a_parameter_in_two_groups_is_refused_and_a_later_one_is_not_trained():
    """Pitfalls of torch.optim."""
    model = nn.Sequential(nn.Linear(2, 2))
    groups = param_groups(model, 0.1, 0.01)
    with pytest.raises(ValueError, match="more than one parameter group"):
        torch.optim.SGD([*groups, {"params": [model[0].weight]}])
    optimizer = torch.optim.SGD(groups)
    model.append(nn.Linear(2, 1))
    model(torch.ones(3, 2)).sum().backward()
    before = model[1].weight.detach().clone()
    optimizer.step()
    assert torch.equal(model[1].weight, before) and model[1].weight.grad.abs().sum() > 0


def test_a_scheduler_multiplies_each_groups_own_rate():
    model = Encoder()
    optimizer = torch.optim.SGD(param_groups(model, 0.1, 0.0, layer_decay=0.5))
    start = [g["lr"] for g in optimizer.param_groups]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([lr / 4 for lr in start])
    assert len(set(start)) == 5


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (dict(lr=-0.1), ValueError, "lr=-0.1 is not 0 or more"),
    (dict(weight_decay=math.nan), ValueError, "weight_decay=nan is not 0 or more"),
    (dict(layer_decay=0.0), ValueError, r"layer_decay=0.0 is not in \(0, 1\]; None means one rate"),
    (dict(layer_decay=1.5), ValueError, "layer_decay=1.5"),
    (dict(no_decay="bias"), TypeError, r"no_decay='bias' is one string; expected several, like \('bias',\)"),
    (dict(model=[1]), TypeError, "model is a list; expected a torch.nn.Module"),
    (dict(model=nn.ReLU()), ValueError, "model ReLU has no parameters"),
])
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        param_groups(**{"model": nn.Linear(2, 2), "lr": 0.1, "weight_decay": 0.0, **arguments})


def test_extreme_numbers_are_allowed():
    assert [g["lr"] for g in param_groups(nn.Linear(2, 2), 0.0, 0.0, layer_decay=1.0)] == [0.0, 0.0]


def test_numpy_variant_agrees(agree):
    # without the head, as the names alone do not say where the last block ends
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    names = [name for name, _ in model.named_parameters()]
    theirs = by_name(model, param_groups(model, 0.1, 0.03, layer_decay=0.7))
    ours = by_names(names, 0.1, 0.03, layer_decay=0.7)
    agree(np.array([ours[name] for name in names]), torch.tensor([theirs[name] for name in names], dtype=torch.float64))


def test_demo_freezes_the_first_layer_at_rate_zero():
    w, data = pretrained(), task(0.7, 20, 4)
    assert losses(w, [task(0.0, 200, 2)])[0] < 0.05 < losses(w, [task(0.7, 200, 3)])[0]
    tuned, _ = train(w, *data, by_names(NAMES, 0.01, 0.05, layer_decay=0.0), 20)
    assert np.array_equal(tuned[NAMES[0]], w[NAMES[0]]) and not np.array_equal(tuned[NAMES[2]], w[NAMES[2]])
