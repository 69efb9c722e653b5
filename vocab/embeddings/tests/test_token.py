import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.embeddings.token import CLASS, corpus, gradients, train
from vocab.embeddings.token import TokenEmbedding

D = torch.float64


class Bigram(nn.Module):
    """Both ends with one matrix between them: the smallest model that uses all that the module has."""

    def __init__(self, **settings):
        super().__init__()
        self.ends, self.mixer = TokenEmbedding(6, 3, init_std=0.5, **settings), nn.Linear(3, 3, bias=False)

    def forward(self, ids):
        return self.ends.logits(self.mixer(self.ends(ids)))


def example():
    return Bigram(tied=False, scale=True, bias=True).double(), (torch.tensor([[4, 0, 1, 5], [4, 2, 3, 3]]),)


@pytest.mark.oracle("a one-hot matrix product")
def test_looking_up_equals_one_hot_times_the_matrix():
    model, ids = TokenEmbedding(7, 4).double(), torch.tensor([[6, 0, 6], [1, 2, 5]])
    torch.testing.assert_close(model(ids), F.one_hot(ids, 7).double() @ model.table.weight, rtol=0, atol=0)


@pytest.mark.oracle("the hidden state's product with every row, one by one")
@pytest.mark.parametrize("tied", [True, False])
def test_a_score_is_the_product_with_the_row_of_its_id(tied):
    model, h = TokenEmbedding(7, 4, tied=tied, bias=True).double(), torch.randn(2, 3, 4, dtype=D)
    nn.init.normal_(model.bias)
    rows = model.table.weight if tied else model.head
    expected = torch.stack([(h * row).sum(-1) + b for row, b in zip(rows, model.bias)], -1)
    torch.testing.assert_close(model.logits(h), expected)
    assert tied or not torch.equal(model.table.weight, model.head)


@pytest.mark.oracle("two untied copies whose gradients are added")
@pytest.mark.parametrize("scale", [False, True])
def test_the_gradient_of_the_tied_matrix_is_the_sum_of_what_both_ends_ask_for(scale):
    tied, apart = Bigram(scale=scale).double(), Bigram(tied=False, scale=scale).double()
    apart.mixer.load_state_dict(tied.mixer.state_dict())
    apart.ends.table.weight.data.copy_(tied.ends.table.weight)
    apart.ends.head.data.copy_(tied.ends.table.weight)
    ids, targets = torch.tensor([[4, 0, 1]]), torch.tensor([[0, 1, 1]])
    for model in (tied, apart):
        F.cross_entropy(model(ids).flatten(0, 1), targets.flatten()).backward()
    lookup, head = apart.ends.table.weight.grad, apart.ends.head.grad
    torch.testing.assert_close(tied.ends.table.weight.grad, lookup + head)
    assert lookup[[2, 3, 5]].abs().sum() == 0, "ids that are not in the batch get nothing from the lookup"
    assert (head.abs().sum(1) > 0).all(), "and something from the softmax"


def test_the_scale_multiplies_the_input_by_the_root_of_the_width_and_not_the_scores():
    plain, scaled = (TokenEmbedding(7, 9, scale=s).double() for s in (False, True))
    scaled.load_state_dict(plain.state_dict())
    ids, h = torch.tensor([[2, 6]]), torch.randn(1, 2, 9, dtype=D)
    torch.testing.assert_close(scaled(ids), 3 * plain(ids))
    assert torch.equal(scaled.logits(h), plain.logits(h))


@pytest.mark.oracle("transformers GPT2LMHeadModel")
def test_gpt2_shares_one_tensor_and_has_124_439_808_parameters_with_it():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        whole = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    assert sum(p.numel() for p in whole.parameters()) == 124_439_808
    saved = sum(p.numel() for p in TokenEmbedding(50257, 768).parameters())
    assert saved == 38_597_376 and round(saved / 124_439_808, 2) == 0.31
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=11, n_embd=6, n_layer=1, n_head=2)).double()
    assert theirs.lm_head.weight.data_ptr() == theirs.transformer.wte.weight.data_ptr()
    ours = TokenEmbedding(11, 6).double()
    ours.table.weight.data.copy_(theirs.lm_head.weight)
    ids = torch.tensor([[3, 10, 0]])
    torch.testing.assert_close(ours.logits(ours(ids)), theirs.lm_head(theirs.transformer.wte(ids)))


def test_tied_ends_are_one_parameter_and_one_entry_of_the_checkpoint():
    assert list(TokenEmbedding(5, 2).state_dict()) == ["table.weight"]
    apart = TokenEmbedding(5, 2, tied=False, bias=True).state_dict()
    assert sorted(apart) == ["bias", "head", "table.weight"]
    assert torch.equal(apart["bias"], torch.zeros(5))


@pytest.mark.parametrize("tied", [True, False])
def test_resizing_keeps_every_old_score_bit_for_bit(tied):
    model = TokenEmbedding(5, 4, tied=tied, scale=True, padding_idx=1, bias=True, init_std=0.3).double()
    for p in model.parameters():
        p.data = torch.randint(-8, 9, p.shape).double()  # whole numbers: no order of summation can round
    before = {name: p.clone() for name, p in model.named_parameters()}
    h, ids = torch.randint(-8, 9, (2, 3, 4)).double(), torch.tensor([[0, 4, 1]])
    larger, smaller = model.resize(8), model.resize(3)
    assert torch.equal(larger.logits(h)[..., :5], model.logits(h)) and torch.equal(larger(ids), model(ids))
    assert torch.equal(smaller.logits(h), model.logits(h)[..., :3])
    assert (larger.tied, larger.table.padding_idx, larger.init_std) == (tied, 1, 0.3)
    torch.testing.assert_close(larger.logits(h)[..., 5:], model.logits(h).mean(-1, keepdim=True).expand(-1, -1, 3))
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])


@pytest.mark.oracle("Jensen's inequality: at most 1 / V")
def test_no_new_id_is_more_probable_than_one_in_v():
    model = TokenEmbedding(20, 4, init_std=1.0).double()
    h = 5 * torch.randn(500, 4, dtype=D)
    assert model.resize(23).logits(h).softmax(-1)[:, 20:].max() <= 1 / 20
    noisy = torch.cat([model.table.weight, torch.randn(3, 4, dtype=D)])
    assert (h @ noisy.T).softmax(-1)[:, 20:].max() > 0.9, "rows drawn at random may take the whole probability"


def test_a_resized_vocabulary_without_its_bias_would_not_fit():
    model = TokenEmbedding(5, 4, bias=True)
    assert model.resize(6).bias.shape == (6,)
    with pytest.raises(RuntimeError):
        F.linear(torch.zeros(1, 4), model.resize(6).table.weight, model.bias)


def test_rows_of_deviation_one_start_far_above_the_loss_of_a_fair_guess():
    ids, h = torch.randint(1000, (64,)), F.layer_norm(torch.randn(64, 256), (256,))
    loss = {std: F.cross_entropy(TokenEmbedding(1000, 256, init_std=std).logits(h), ids).item() for std in (0.02, 1.0)}
    assert abs(loss[0.02] - math.log(1000)) < 0.15
    assert loss[1.0] > 6 * math.log(1000)


def test_the_first_rows_have_the_deviation_that_was_asked_for():
    for std in (0.02, 0.5):
        model = TokenEmbedding(400, 50, tied=False, init_std=std)
        assert abs(model.table.weight.std() / std - 1) < 0.03 and abs(model.head.std() / std - 1) < 0.03
    assert abs(TokenEmbedding(400, 50).table.weight.std() / 0.02 - 1) < 0.03


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_output_moves_the_padding_row_that_the_lookup_leaves_alone(tied):
    model = TokenEmbedding(6, 3, tied=tied, padding_idx=0).double()
    assert model(torch.tensor([[0]])).abs().sum() == 0
    F.cross_entropy(model.logits(model(torch.tensor([0, 2, 3]))), torch.tensor([2, 3, 4])).backward()
    assert (model.table.weight.grad[0].abs().sum() > 0) == tied


def test_a_matrix_listed_twice_for_an_optimizer_is_warned_about():
    model = TokenEmbedding(5, 2)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        torch.optim.SGD([{"params": [model.table.weight, model.table.weight]}], lr=0.1)


def test_words_that_are_used_alike_end_up_as_neighbours():
    """A widely copied text calls the first layer's space scrambled: even a bigram model sorts it by use."""
    words, counts = corpus(20)
    kinds = np.array([CLASS.get(w, w) for w in words])
    table = train(counts, 1.0, tied=False)[0]
    distance = np.linalg.norm(table[:, None] - table, axis=-1)
    np.fill_diagonal(distance, np.inf)
    nearest = kinds[distance.argmin(1)]
    nouns_verbs = np.isin(kinds, ["nouns", "verbs"])
    assert (nearest == kinds)[nouns_verbs].mean() > 0.8


@pytest.mark.parametrize("tied", [True, False])
def test_numpy_variant_agrees(agree, tied):
    model = Bigram(tied=tied).double()
    pairs = torch.randint(6, (40, 2))
    loss = F.cross_entropy(model(pairs[:, 0]), pairs[:, 1])
    loss.backward()
    counts = np.zeros((6, 6))
    np.add.at(counts, tuple(pairs.T.numpy()), 1)
    table, mixer = model.ends.table.weight, model.mixer.weight
    head = None if tied else model.ends.head.detach().numpy()
    ours = gradients(counts, table.detach().numpy(), mixer.detach().numpy().T, head)
    expected = [loss, table.grad, mixer.grad.T] + ([] if tied else [model.ends.head.grad])
    for mine, theirs in zip(ours, expected, strict=True):
        agree(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(init_std=0.0), "init_std=0.0 is not above 0"),
        (dict(init_std=-0.1), "init_std=-0.1 is not above 0"),
        (dict(padding_idx=6), "padding_idx=6 is not a row of num_embeddings=6"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        TokenEmbedding(6, 3, **settings)


def test_bad_input_says_what_came_and_what_is_allowed():
    model = TokenEmbedding(6, 3, padding_idx=5)
    with pytest.raises(ValueError, match="ids holds 6; expected 0 to 5"):
        model(torch.tensor([[1, 6]]))
    with pytest.raises(ValueError, match=r"h has shape \(2, 4\); expected \(\.\.\., d_model=3\)"):
        model.logits(torch.zeros(2, 4))
    with pytest.raises(TypeError, match="h has dtype torch.int64"):
        model.logits(torch.zeros(2, 3).long())
    with pytest.raises(ValueError, match="padding_idx=5 is not a row of num_embeddings=5"):
        model.resize(5)
    with pytest.raises(ValueError, match="num_embeddings=0 is below 1"):
        TokenEmbedding(6, 3).resize(0)


def test_the_settings_can_be_read_off_the_printed_module():
    assert "tied=True, scale=False" in repr(TokenEmbedding(6, 3))
