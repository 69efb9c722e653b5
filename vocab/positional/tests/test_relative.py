import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.positional.relative import attention as numpy_attention
from snippets.positional.relative import logits as numpy_logits
from vocab.positional.relative import RelativeMultiHeadAttention, rel_shift

D = torch.float64


def example():
    """For the contract suite: the module and its input."""
    return RelativeMultiHeadAttention(6, 2, max_distance=2).double(), (torch.randn(2, 4, 6, dtype=D),)


def made(**settings):
    attention = RelativeMultiHeadAttention(**{"d_model": 8, "n_heads": 2, "max_distance": 3, **settings}).double()
    torch.nn.init.normal_(attention.key_table)
    if attention.value_table is not None:
        torch.nn.init.normal_(attention.value_table)
    return attention


def by_loops(attention, x):
    """The paper's equations, pair by pair."""
    batch, time, _ = x.shape
    heads, d = attention.n_heads, attention.head_dim
    q, k, v = (p(x).view(batch, time, heads, d) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    out = torch.zeros(batch, time, heads, d, dtype=x.dtype)
    for b in range(batch):
        for h in range(heads):
            for i in range(time):
                index = [max(-attention.max_distance, min(attention.max_distance, j - i)) + attention.max_distance for j in range(time)]
                scores = torch.stack([q[b, i, h] @ (k[b, j, h] + attention.key_table[index[j]]) / d**0.5 for j in range(time)])
                for j, p in enumerate(scores.softmax(0)):
                    value = v[b, j, h] if attention.value_table is None else v[b, j, h] + attention.value_table[index[j]]
                    out[b, i, h] += p * value
    return attention.o_proj(out.flatten(2))


@pytest.mark.oracle("equations 3 and 4 pair by pair")
@pytest.mark.parametrize("value_relations", [True, False])
@pytest.mark.parametrize("max_distance", [1, 3, 50])
def test_equals_the_papers_equations(value_relations, max_distance):
    attention = made(value_relations=value_relations, max_distance=max_distance, bias=True)
    x = torch.randn(2, 6, 8, dtype=D)
    torch.testing.assert_close(attention(x), by_loops(attention, x))


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention")
def test_with_tables_of_zeros_it_is_plain_attention():
    attention, x = made(), torch.randn(2, 5, 8, dtype=D)
    torch.nn.init.zeros_(attention.key_table), torch.nn.init.zeros_(attention.value_table)
    q, k, v = (p(x).view(2, 5, 2, 4).transpose(1, 2) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    out = F.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attention(x), attention.o_proj(out.transpose(1, 2).flatten(2)))


def test_a_text_that_is_moved_gives_the_same_result():
    attention, x = made(), torch.randn(1, 5, 8, dtype=D)
    around = torch.cat((torch.randn(1, 3, 8, dtype=D), x, torch.randn(1, 2, 8, dtype=D)), 1)
    seen = torch.zeros(1, 1, 1, 10, dtype=torch.bool)
    seen[..., 3:8] = True
    torch.testing.assert_close(attention(around, seen)[:, 3:8], attention(x))


@pytest.mark.oracle("gather by index")
@pytest.mark.parametrize("time", [1, 2, 7])
def test_shifting_is_gathering(time):
    logits = torch.randn(2, 3, time, 2 * time - 1, dtype=D)
    index = torch.arange(time) - torch.arange(time)[:, None] + time - 1
    torch.testing.assert_close(rel_shift(logits), logits.gather(-1, index.expand(2, 3, time, time)), rtol=0, atol=0)


def test_distances_beyond_the_largest_share_a_vector():
    attention = made(max_distance=2)
    vectors = attention.vectors(attention.key_table, 6)
    assert len(vectors) == 11
    assert all(torch.equal(v, attention.key_table[0]) for v in vectors[:4])
    assert all(torch.equal(v, attention.key_table[4]) for v in vectors[-4:])
    assert torch.equal(vectors[5], attention.key_table[2]) and torch.equal(vectors[6], attention.key_table[3])


def test_before_and_after_are_different():
    """The table is read at key minus query; read the other way round, earlier and later are exchanged."""
    attention = made(value_relations=False)
    x = torch.randn(1, 1, 8, dtype=D).expand(-1, 4, -1)  # all tokens alike: only distances count
    with torch.no_grad():
        attention.key_table.zero_()
        attention.key_table[attention.max_distance - 1] = attention.q_proj(x)[0, 0, :4] * 50  # one back
    q, (k, _) = attention.q_proj(x).view(1, 4, 2, 4).transpose(1, 2), attention.keys_and_values(x)
    scores = q @ k.transpose(-2, -1) + rel_shift(q @ attention.vectors(attention.key_table, 4).T)
    assert scores[0, 0].argmax(-1).tolist()[1:] == [0, 1, 2]


def test_what_is_stored_grows_with_the_length_and_not_with_its_square():
    """A vector for every pair of tokens would be T² d numbers; per distance there are 2 T - 1."""
    attention = made(max_distance=500)
    for time in (50, 100):
        assert attention.vectors(attention.key_table, time).numel() == (2 * time - 1) * attention.head_dim


def test_hidden_keys_get_nothing_and_dropout_acts_in_training_only():
    attention, x = made(dropout=0.5).eval(), torch.randn(1, 4, 8, dtype=D)
    causal = torch.ones(4, 4).tril().bool()
    changed = torch.cat((x[:, :3], torch.randn(1, 1, 8, dtype=D)), 1)
    torch.testing.assert_close(attention(x, causal)[:, :3], attention(changed, causal)[:, :3])
    assert torch.equal(attention(x), attention(x))
    attention.train()
    assert not torch.equal(attention(x), attention(x))


def test_tables_start_small_and_biases_are_off():
    attention = RelativeMultiHeadAttention(64, 2)
    assert attention.key_table.shape == attention.value_table.shape == (33, 32)
    for table in (attention.key_table, attention.value_table):
        assert table.std().item() == pytest.approx(0.02, rel=0.15)
    assert attention.q_proj.bias is None


@pytest.mark.parametrize(("call", "message"), [
    (lambda: RelativeMultiHeadAttention(8, 2, 0), "max_distance=0 is below 1"),
    (lambda: RelativeMultiHeadAttention(8, 3), "d_model=8 is not a multiple of n_heads=3"),
    (lambda: rel_shift(torch.zeros(3, 4)), "logits has 4 columns for 3 rows; expected 5"),
    (lambda: made()(torch.zeros(1, 3, 6)), r"x has shape \(1, 3, 6\); expected \(batch, time, d_model=8\)"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numpy_variant_agrees(agree):
    attention, x = made(n_heads=1), torch.randn(1, 7, 8, dtype=D)
    q, k, v = (p(x)[0].detach().numpy() for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    tables = attention.key_table.detach().numpy(), attention.value_table.detach().numpy()
    out, weights = numpy_attention(q, k, v, *tables)
    agree(out @ attention.o_proj.weight.detach().numpy().T, attention(x)[0])
    np.testing.assert_allclose(weights.sum(-1), 1)
    vectors = attention.vectors(attention.key_table, 7)
    agree(numpy_logits(q, tables[0]), rel_shift(torch.from_numpy(q) @ vectors.T))
