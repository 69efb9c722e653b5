import copy

import numpy as np
import pytest
import torch
from torch import nn

from snippets.initialization import mup as numpy_variant
from vocab.initialization.lecun import lecun_normal_
from vocab.initialization.mup import mup_init_, mup_param_groups
from vocab.initialization.xavier import fans

BASE = 64


def net(width, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 4))
    for layer in model[::2]:
        lecun_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def train(model, optimizer, steps):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(32, 8, generator=generator), torch.randn(32, 4, generator=generator)
    with torch.no_grad():
        before = [model[:3](x), model(x)]
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        return [(after - b).square().mean().sqrt().item() for after, b in zip((model[:3](x), model(x)), before)]


def slopes(widths, mup, steps=3):
    found = []
    for width in widths:
        model = net(width)
        if mup:
            mup_init_(model, BASE)
        groups = mup_param_groups(model, 2e-3, BASE) if mup else [{"params": model.parameters(), "lr": 2e-3}]
        found.append(train(model, torch.optim.Adam(groups), steps))
    return np.polyfit(np.log(widths), np.log(found), 1)[0]


@pytest.mark.oracle("coordinate check: change of activations against width")
def test_changes_are_flat_in_width_under_mup_and_grow_under_the_standard_parametrization():
    hidden, output = slopes([128, 512, 2048, 4096], mup=True)
    assert abs(hidden) < 0.1 and abs(output) < 0.1
    hidden, output = slopes([128, 512, 2048], mup=False)
    assert hidden > 0.3 and output > 0.3


def test_one_forgotten_layer_breaks_the_check():
    found = []
    for width in (128, 512, 2048):
        model = mup_init_(net(width), BASE)
        first, second = mup_param_groups(model, 2e-3, BASE)
        forgotten = model[2].weight
        groups = [{**first, "params": [*first["params"], forgotten]}, {**second, "params": [p for p in second["params"] if p is not forgotten]}]
        found.append(train(model, torch.optim.Adam(groups), 3)[0])
    assert np.polyfit(np.log([128, 512, 2048]), np.log(found), 1)[0] > 0.3


def test_at_the_base_width_everything_is_the_standard_run_bit_for_bit():
    standard, ours = net(BASE), mup_init_(net(BASE), BASE)
    for a, b in zip(standard.parameters(), ours.parameters()):
        assert torch.equal(a, b)
    train(standard, torch.optim.Adam(standard.parameters(), lr=2e-3), 5)
    train(ours, torch.optim.Adam(mup_param_groups(ours, 2e-3, BASE)), 5)
    for a, b in zip(standard.parameters(), ours.parameters()):
        assert torch.equal(a, b)


@pytest.mark.oracle("closed form 1/√width of the logits at the start")
def test_logits_at_the_start_shrink_as_one_over_root_width():
    widths, sizes = [64, 256, 1024], []
    x = torch.randn(500, 8)
    for width in widths:
        with torch.no_grad():
            sizes.append(np.mean([mup_init_(net(width, seed), BASE)(x).square().mean().sqrt().item() for seed in range(6)]))
    assert np.polyfit(np.log(widths), np.log(sizes), 1)[0] == pytest.approx(-0.5, abs=0.08)


def test_only_the_output_is_scaled_and_matrices_behind_the_first_learn_slower():
    model = net(4 * BASE)
    old = copy.deepcopy(model)
    assert mup_init_(model, BASE) is model
    torch.testing.assert_close(model[4].weight, old[4].weight / 2)
    for i in (0, 2):
        assert torch.equal(model[i].weight, old[i].weight)
    fast, slow = mup_param_groups(model, 0.1, BASE)
    assert (fast["lr"], slow["lr"]) == (0.1, 0.025)
    assert {id(p) for p in slow["params"]} == {id(model[2].weight), id(model[4].weight)}
    assert {id(p) for p in fast["params"]} == {id(p) for p in (model[0].weight, model[0].bias, model[2].bias, model[4].bias)}


def test_embeddings_are_inputs_and_then_every_matrix_is_hidden_or_output():
    tokens, places, hidden, out = nn.Embedding(10, 2 * BASE), nn.Embedding(5, 2 * BASE), nn.Linear(2 * BASE, 8 * BASE), nn.Linear(8 * BASE, 10)
    model = nn.ModuleList([tokens, places, nn.LayerNorm(2 * BASE), hidden, out])
    fast, slow = mup_param_groups(model, 1.0, BASE)
    assert [id(p) for p in slow["params"]] == [id(hidden.weight), id(out.weight)] and slow["lr"] == 0.5
    assert len(fast["params"]) == 6
    before = out.weight.detach().clone()
    torch.testing.assert_close(mup_init_(model, BASE)[4].weight.detach(), before / 2**0.5)


def test_convolutions_count_channels():
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 5, 1))
    assert mup_param_groups(model, 1.0, 8)[1]["lr"] == 0.25
    assert fans(model[1].weight)[0] == 32 * 9


def test_attention_logits_over_d_are_independent_of_the_width_once_queries_and_keys_agree():
    """With 1/√d the logit of a query with the key that it has learned to match grows like √d."""
    sizes = {p: [(torch.ones(d) @ torch.ones(d)).item() / d**p for d in (16, 64, 256)] for p in (0.5, 1.0)}
    assert sizes[1.0] == [1, 1, 1] and sizes[0.5] == [4, 8, 16]


def test_bad_values_are_named():
    tied = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6))
    tied[1].weight = tied[0].weight
    for call, message in [
        (lambda: mup_init_(net(8), 0), "base_width=0 is below 1"),
        (lambda: mup_param_groups(net(8), 0.0, 8), "lr=0.0 is not above 0"),
        (lambda: mup_init_(nn.Linear(3, 3), 8), "model needs an input layer and an output layer"),
        (lambda: mup_init_(nn.Sequential(nn.Embedding(3, 3)), 8), "model needs an input layer and an output layer"),
        (lambda: mup_param_groups(tied, 0.1, 2), "input and output share a weight"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    assert mup_param_groups(net(4), 0.1, 1)[1]["lr"] == pytest.approx(0.025)


@pytest.mark.parametrize("mup", [True, False])
def test_numpy_variant_agrees(agree, mup):
    D, width = torch.float64, 128
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(10, 5)), rng.normal(size=(10, 1))
    losses, _, _ = numpy_variant.train(x, y, width, 0.01, mup, 4)
    model = nn.Sequential(nn.Linear(5, width, bias=False), nn.Tanh(), nn.Linear(width, width, bias=False), nn.Tanh(), nn.Linear(width, 1, bias=False)).to(D)
    with torch.no_grad():
        for layer, w in zip(model[::2], numpy_variant.start(5, width, False)):
            layer.weight.copy_(torch.from_numpy(w))
    if mup:
        mup_init_(model, numpy_variant.BASE)
    groups = mup_param_groups(model, 0.01, numpy_variant.BASE) if mup else [{"params": model.parameters(), "lr": 0.01}]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    expected = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = 0.5 * nn.functional.mse_loss(model(torch.from_numpy(x)), torch.from_numpy(y))
        expected.append(loss.item())
        loss.backward()
        optimizer.step()
    agree(losses, torch.tensor(expected, dtype=D))
