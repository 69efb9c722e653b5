import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.positional.learned import fit, gradient
from vocab.positional.learned import LearnedPositionalEmbedding


def example():
    """For the contract suite: the module and its input."""
    return LearnedPositionalEmbedding(5, 4).double(), (torch.randn(2, 5, 4, dtype=torch.float64),)


@pytest.mark.oracle("torch.nn.Embedding")
def test_adds_the_rows_of_an_embedding():
    embed = LearnedPositionalEmbedding(9, 6)
    table = nn.Embedding(9, 6, _weight=embed.weight.detach())
    x = torch.randn(3, 7, 6)
    torch.testing.assert_close(embed(x), x + table(torch.arange(7)), rtol=0, atol=0)
    ids = torch.tensor([8, 0, 3])
    torch.testing.assert_close(embed(x[:, :3], ids), x[:, :3] + table(ids), rtol=0, atol=0)


@pytest.mark.oracle("transformers BertEmbeddings")
def test_equals_the_position_part_of_bert():
    bert = pytest.importorskip("transformers.models.bert.modeling_bert")
    config = bert.BertConfig(vocab_size=11, hidden_size=8, max_position_embeddings=10, num_attention_heads=2, hidden_dropout_prob=0.0)
    theirs = bert.BertEmbeddings(config).eval()
    ours = LearnedPositionalEmbedding(10, 8)
    ours.load_state_dict({"weight": theirs.position_embeddings.weight})
    x = torch.randn(2, 6, 8)
    expected = theirs(inputs_embeds=x, token_type_ids=torch.zeros(2, 6, dtype=torch.long))
    found = theirs.LayerNorm(ours(x) + theirs.token_type_embeddings.weight[0])
    torch.testing.assert_close(found, expected)


@pytest.mark.oracle("sum over the batch")
def test_a_row_learns_from_its_position_in_every_sequence_and_rows_beyond_from_none():
    embed = LearnedPositionalEmbedding(8, 3).double()
    x, weights = torch.randn(4, 5, 3, dtype=torch.float64), torch.randn(4, 5, 3, dtype=torch.float64)
    (embed(x) * weights).sum().backward()
    torch.testing.assert_close(embed.weight.grad[:5], weights.sum(0))
    assert torch.equal(embed.weight.grad[5:], torch.zeros(3, 3, dtype=torch.float64))


def test_given_positions_undo_padding_on_the_left():
    embed = LearnedPositionalEmbedding(6, 4)
    text = torch.randn(1, 3, 4)
    padded = torch.cat((torch.zeros(1, 2, 4), text), 1)
    ids = torch.tensor([[0, 0, 0, 1, 2]])
    torch.testing.assert_close(embed(padded, ids)[:, 2:], embed(text), rtol=0, atol=0)
    assert not torch.allclose(embed(padded)[:, 2:], embed(text))


@pytest.mark.oracle("transformers RobertaEmbeddings.create_position_ids_from_input_ids")
def test_robertas_positions_begin_behind_the_padding_row():
    roberta = pytest.importorskip("transformers.models.roberta.modeling_roberta")
    tokens = torch.tensor([[5, 6, 7, 1, 1]])  # 1 is padding
    ids = roberta.RobertaEmbeddings.create_position_ids_from_input_ids(tokens, padding_idx=1)
    embed = LearnedPositionalEmbedding(7, 4, padding_idx=1)
    x = torch.randn(1, 5, 4)
    found = embed(x, ids)
    torch.testing.assert_close(found[:, :3], embed(x[:, :3]), rtol=0, atol=0)
    assert torch.equal(found[:, 3:], x[:, 3:]), "the padding row is zero"
    found.sum().backward()
    assert embed.weight.grad[1].abs().sum() == 0 and embed.weight.grad[2].abs().sum() > 0
    assert roberta.RobertaConfig(max_position_embeddings=514).pad_token_id == 1  # 512 positions and two rows before them


def test_starts_with_the_given_spread():
    assert LearnedPositionalEmbedding(500, 200).weight.std().item() == pytest.approx(0.02, rel=0.02)
    for std in (0.1, 1.0):
        assert LearnedPositionalEmbedding(500, 200, init_std=std).weight.std().item() == pytest.approx(std, rel=0.02)
    assert torch.equal(LearnedPositionalEmbedding(3, 2, init_std=0.0).weight, torch.zeros(3, 2))


def test_stretching_to_the_same_length_changes_nothing_and_doubling_keeps_every_second_row():
    embed = LearnedPositionalEmbedding(6, 4).double()
    torch.testing.assert_close(embed.extend(6).weight, embed.weight)
    longer = embed.extend(11)
    torch.testing.assert_close(longer.weight[::2], embed.weight)
    torch.testing.assert_close(longer.weight[1::2], (embed.weight[1:] + embed.weight[:-1]) / 2)
    assert longer.max_len == 11 and longer(torch.zeros(1, 11, 4, dtype=torch.float64)).shape == (1, 11, 4)


def test_repeating_starts_again_from_the_first_row():
    embed = LearnedPositionalEmbedding(3, 2)
    torch.testing.assert_close(embed.extend(8, "repeat").weight, embed.weight[[0, 1, 2, 0, 1, 2, 0, 1]], rtol=0, atol=0)


@pytest.mark.parametrize("method", ["repeat", "interpolate"])
def test_a_padding_row_is_no_position_to_be_stretched(method):
    embed = LearnedPositionalEmbedding(5, 2, padding_idx=1)
    before = embed.weight.detach().clone()
    longer = embed.extend(8, method)
    assert torch.equal(longer.weight[:2], before[:2]) and torch.equal(longer.weight[2], before[2])
    assert longer.padding_idx == 1
    torch.testing.assert_close(longer.weight[7], before[4])
    assert torch.equal(embed.weight, before)


def test_weight_decay_pulls_rows_without_data_to_zero():
    embed = LearnedPositionalEmbedding(4, 8, init_std=1.0)
    before = embed.weight.detach().clone()
    optimizer = torch.optim.AdamW(embed.parameters(), lr=0.01, weight_decay=1.0)
    for _ in range(50):
        optimizer.zero_grad()
        (embed(torch.zeros(1, 3, 8)) - before[:3]).square().sum().backward()  # the last row is never used
        optimizer.step()
    torch.testing.assert_close(embed.weight[3], before[3] * 0.99**50)
    assert embed.weight[3].norm() / before[3].norm() < 0.65 < (embed.weight[:3].norm() / before[:3].norm())


@pytest.mark.parametrize(("settings", "message"), [
    (dict(max_len=0), "padding_idx=None leaves no position in a table of max_len=0 rows"),
    (dict(padding_idx=4), "padding_idx=4 leaves no position in a table of max_len=5 rows"),
    (dict(padding_idx=-2), "padding_idx=-2 leaves no position"),
    (dict(init_std=-0.1), "init_std=-0.1 is negative"),
])
def test_settings_that_cannot_be_say_why(settings, message):
    with pytest.raises(ValueError, match=message):
        LearnedPositionalEmbedding(**{"max_len": 5, "d_model": 4, **settings})


def test_a_position_without_a_row_names_the_limit():
    embed = LearnedPositionalEmbedding(5, 4, padding_idx=0)
    assert embed(torch.zeros(1, 4, 4)).isfinite().all()
    with pytest.raises(ValueError, match=r"x has 5 tokens; the table has 4 positions \(max_len=5\)"):
        embed(torch.zeros(1, 5, 4))
    x = torch.zeros(1, 2, 4)
    assert embed(x, torch.tensor([[0, 4]])).isfinite().all()
    for ids in ([0, 5], [-1, 0]):
        with pytest.raises(ValueError, match=f"position_ids are from {min(ids)} to {max(ids)}; the table has rows 0 to 4"):
            embed(x, torch.tensor([ids]))
    with pytest.raises(ValueError, match=r"position_ids has shape \(3,\); expected \(time=2\)"):
        embed(x, torch.arange(3))
    with pytest.raises(ValueError, match=r"position_ids has shape \(2, 2\); expected \(batch=1, time=2\)"):
        embed(x, torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(TypeError, match="position_ids has dtype torch.float32"):
        embed(x, torch.zeros(2))


def test_a_wrong_width_is_named():
    with pytest.raises(ValueError, match=r"x has shape \(1, 2, 3\); expected \(batch, time, d_model=4\)"):
        LearnedPositionalEmbedding(5, 4)(torch.zeros(1, 2, 3))


def test_a_table_is_not_shortened_and_a_wrong_method_is_named():
    embed = LearnedPositionalEmbedding(5, 4)
    with pytest.raises(ValueError, match="new_len=4 is less than max_len=5"):
        embed.extend(4)
    with pytest.raises(ValueError, match="method='nearest' is not 'repeat' or 'interpolate'"):
        embed.extend(6, "nearest")


def test_the_demos_gradient_is_autograds(agree):
    table = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    target = torch.randn(6, 6, dtype=torch.float64)
    target = target + target.T
    loss = F.mse_loss(table @ table.T, target)
    (expected,) = torch.autograd.grad(loss, table)
    found, value = gradient(table.detach().numpy(), target.numpy())
    agree(found, expected)
    agree(value, loss)


def test_the_demos_training_lowers_its_loss_and_leaves_other_rows_alone():
    table, losses = fit(12, 8, steps=200, rate=0.1)
    untouched = np.random.default_rng(0).normal(0, 0.3, (12, 16))
    assert losses[-1] < 0.1 * losses[0]
    np.testing.assert_array_equal(table[8:], untouched[8:])
