import numpy as np
import pytest
import torch
from torch import nn

from snippets.embeddings.segment import bert_input
from snippets.embeddings.segment import segment_ids as numpy_segment_ids
from vocab.embeddings.segment import BertEmbeddings, segment_ids

D = torch.float64


def example():
    ids = torch.tensor([[1, 7, 3, 2, 4, 2], [1, 5, 2, 3, 2, 0]])
    positions = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]])
    return wide(8, 4, 6, dropout=0.0, padding_idx=None), (ids, segment_ids(ids, 2), positions)


def wide(*sizes, **settings):
    """With rows of ordinary size, so that no part of the sum hides behind another."""
    module = BertEmbeddings(*sizes, **settings).double()
    for table in (module.token.table.weight, module.position.weight, module.segment, module.norm.weight, module.norm.bias):
        nn.init.normal_(table)
    return module


@pytest.mark.oracle("transformers BertEmbeddings")
@pytest.mark.parametrize("given", [0, 1, 2])
def test_equals_transformers_with_the_same_tables(given):
    bert = pytest.importorskip("transformers.models.bert.modeling_bert")
    from transformers import BertConfig

    theirs = bert.BertEmbeddings(BertConfig(vocab_size=8, hidden_size=4, max_position_embeddings=6)).double().eval()
    ours = wide(8, 4, 6).eval()
    pairs = [(theirs.word_embeddings, ours.token.table.weight), (theirs.position_embeddings, ours.position.weight),
             (theirs.token_type_embeddings, ours.segment), (theirs.LayerNorm, ours.norm.weight)]
    for module, table in pairs:
        module.weight.data.copy_(table)
    theirs.LayerNorm.bias.data.copy_(ours.norm.bias)
    inputs = example()[1][: 1 + given]
    torch.testing.assert_close(ours(*inputs), theirs(*inputs), rtol=1e-12, atol=1e-12)
    assert theirs.LayerNorm.eps == ours.norm.eps and theirs.dropout.p == ours.dropout


@pytest.mark.oracle("three lookups, added in any order")
def test_without_the_norm_it_is_the_sum_of_three_rows():
    module, (ids, segments, positions) = example()
    module.norm = nn.Identity()
    token, place, part = module.token.table.weight[ids], module.position.weight[positions], module.segment[segments]
    for a, b, c in [(token, place, part), (part, token, place), (place, part, token)]:
        torch.testing.assert_close(module(ids, segments, positions), a + b + c)


def test_what_is_added_to_one_table_can_be_taken_from_another():
    """The three tables are not told apart by the data: a constant may live in any of them."""
    module, inputs = example()
    before, c = module(*inputs), torch.randn(4, dtype=D)
    module.segment.data += c
    assert not torch.allclose(module(*inputs), before)
    module.position.weight.data -= c
    torch.testing.assert_close(module(*inputs), before)


def test_the_other_segment_moves_every_token_by_one_vector():
    module, (ids, segments, positions) = example()
    module.norm = nn.Identity()
    moved = module(ids, torch.ones_like(ids), positions) - module(ids, torch.zeros_like(ids), positions)
    torch.testing.assert_close(moved, (module.segment[1] - module.segment[0]).expand_as(moved))


@pytest.mark.oracle("the sum of the output's gradients over a segment's places")
def test_the_gradient_of_a_segments_row_is_the_sum_over_its_places():
    module, (ids, segments, positions) = wide(8, 4, 6, dropout=0.0), example()[1]
    module.norm = nn.Identity()
    grad = torch.randn(2, 6, 4, dtype=D)
    module(ids, segments, positions).backward(grad)
    torch.testing.assert_close(module.segment.grad, torch.stack([grad[segments == s].sum(0) for s in (0, 1)]))
    assert module.token.table.weight.grad[0].abs().sum() == 0, "padding gets no gradient"
    torch.testing.assert_close(module.token.table.weight.grad[2], grad[ids == 2].sum(0))


@pytest.mark.oracle("the template of BERT's tokenizer, written out")
@pytest.mark.parametrize(("a", "b", "padding"), [(3, 2, 0), (1, 1, 2), (0, 4, 1), (4, 0, 3)])
def test_segments_follow_the_template(a, b, padding):
    ids = torch.tensor([[101, *[7] * a, 102, *[8] * b, 102, *[0] * padding]])
    expected = [0] * (a + 2) + [1] * (b + 1) + [0] * padding
    assert segment_ids(ids, 102).tolist() == [expected]


def test_a_text_without_a_partner_is_all_zero():
    ids = torch.tensor([[101, 7, 102, 0, 0], [101, 7, 102, 8, 102], [7, 7, 7, 7, 7]], dtype=torch.int32)
    assert segment_ids(ids, 102).tolist() == [[0] * 5, [0, 0, 0, 1, 1], [0] * 5]
    assert segment_ids(ids, 102).dtype == torch.int32
    with pytest.raises(ValueError, match=r"ids has 3 separators \(sep_id=102\) in a text; a pair has 2"):
        segment_ids(torch.tensor([[101, 102, 102, 102]]), 102)
    with pytest.raises(TypeError, match="ids has dtype torch.float32"):
        segment_ids(torch.zeros(1, 3), 102)


def test_forgotten_segments_are_all_the_first_and_nothing_complains():
    module, (ids, segments, positions) = example()
    torch.testing.assert_close(module(ids), module(ids, torch.zeros_like(ids)))
    assert not torch.allclose(module(ids), module(ids, segments))


@pytest.mark.oracle("transformers BertModel: 109,482,240 weights")
def test_bert_base_spends_23_8_million_weights_here():
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        whole = sum(p.numel() for p in transformers.BertModel(transformers.BertConfig()).parameters())
    ours = sum(p.numel() for p in BertEmbeddings(30522, 768).parameters())
    assert ours == (30522 + 512 + 2) * 768 + 2 * 768 == 23_837_184
    assert whole == 109_482_240 and round(ours / whole, 2) == 0.22


def test_dropout_acts_in_training_only_on_what_the_norm_gives():
    module = wide(8, 4, 6, dropout=0.5)
    ids = torch.randint(8, (200, 6))
    clean = module.eval()(ids)
    noisy = module.train()(ids)
    kept = noisy != 0
    assert 0.45 < kept.double().mean() < 0.55
    torch.testing.assert_close(noisy[kept], 2 * clean[kept])


def test_tables_start_with_the_deviation_of_bert_and_padding_with_zero():
    module = BertEmbeddings(300, 200, 300, 200)
    for table in (module.token.table.weight[1:], module.position.weight, module.segment):
        assert abs(table.std() / 0.02 - 1) < 0.03
    assert module.token.table.weight[0].abs().sum() == 0 and module.dropout == 0.1 and module.norm.eps == 1e-12
    assert BertEmbeddings(5, 4, padding_idx=None).token.table.weight[0].abs().sum() > 0
    assert len(BertEmbeddings(5, 4).position.weight) == 512 and len(BertEmbeddings(5, 4).segment) == 2


def test_numpy_variant_agrees(agree):
    module, (ids, segments, _) = example()
    nn.init.ones_(module.norm.weight), nn.init.zeros_(module.norm.bias)
    tables = [t.detach().numpy() for t in (module.token.table.weight, module.position.weight, module.segment)]
    expected = module(ids, segments)
    for row in (0, 1):
        assert numpy_segment_ids(ids[row].numpy(), 2).tolist() == segments[row].tolist()
        agree(bert_input(ids[row].numpy(), segments[row].numpy(), *tables), expected[row])


def test_bad_input_says_what_came_and_what_is_allowed():
    module, (ids, segments, positions) = example()
    with pytest.raises(ValueError, match="token_type_ids holds 2; expected 0 to 1"):
        module(ids, segments + 1)
    with pytest.raises(ValueError, match="input_ids holds 8; expected 0 to 7"):
        module(ids + 1)
    with pytest.raises(ValueError, match=r"token_type_ids has shape \(2, 5\); expected \(batch=2, time=6\)"):
        module(ids, segments[:, 1:])
    with pytest.raises(ValueError, match=r"input_ids has shape \(6,\); expected \(batch, time\)"):
        module(ids[0])
    with pytest.raises(ValueError, match="x has 7 tokens; the table has 6 positions"):
        module(torch.ones(1, 7, dtype=torch.long))
    with pytest.raises(ValueError, match="position_ids are from 1 to 6; the table has rows 0 to 5"):
        module(ids, segments, torch.arange(1, 7))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(n_segments=0), "n_segments=0 is below 1"),
        (dict(dropout=1.0), r"dropout=1.0 is not in \[0, 1\)"),
        (dict(dropout=-0.1), r"dropout=-0.1 is not in \[0, 1\)"),
        (dict(max_len=0), "leaves no position in a table of max_len=0 rows"),
        (dict(eps=-1.0), "eps=-1.0 is negative"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        BertEmbeddings(8, 4, **settings)


def test_one_segment_is_a_constant_as_in_roberta():
    module = wide(8, 4, 6, n_segments=1).eval()
    ids = torch.tensor([[1, 7, 3]])
    with pytest.raises(ValueError, match="token_type_ids holds 1; expected 0 to 0"):
        module(ids, torch.tensor([[0, 0, 1]]))
    folded = wide(8, 4, 6, n_segments=1).eval()
    folded.load_state_dict(module.state_dict())
    folded.position.weight.data += folded.segment.data
    folded.segment.data.zero_()
    np.testing.assert_allclose(folded(ids).detach(), module(ids).detach())
