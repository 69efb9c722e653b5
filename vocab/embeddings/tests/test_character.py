import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.embeddings.character import cosine, embed_word, spell
from vocab.blocks.highway import HighwayLayer
from vocab.embeddings.character import CharCNNEmbedding

D = torch.float64
FILTERS = ((1, 3), (2, 4), (3, 2))


def example():
    chars = torch.tensor([[[3, 1, 4, 1], [5, 2, 0, 0]], [[6, 0, 0, 0], [2, 3, 4, 5]]])
    return make(n_highway=1, out_dim=3), (chars,)


def make(filters=FILTERS, **settings):
    module = CharCNNEmbedding(9, 4, filters, **settings).double()
    for conv in module.convs:
        conv.bias.data -= 0.5  # so that responses are negative at times, and zeros of padding would win
    return module


def words(*spellings, width=None):
    width = width or max(map(len, spellings))
    return torch.tensor([[list(s) + [0] * (width - len(s)) for s in spellings]])


@pytest.mark.oracle("torch.nn.Conv1d, tanh and a maximum, word by word")
@pytest.mark.parametrize("out_dim", [None, 5])
def test_equals_a_loop_over_words_without_padding(out_dim):
    module = make(out_dim=out_dim)
    spellings = [[3, 1, 4, 1, 5], [2, 6], [7], [8, 8, 8], [1, 2, 3, 4, 5, 6]]
    expected = []
    for word in spellings:
        x = module.chars.weight[torch.tensor(word)].T[None]
        found = []
        for conv, (width, count) in zip(module.convs, FILTERS):
            theirs = nn.Conv1d(4, count, width).double()
            theirs.load_state_dict(conv.state_dict())
            padded = F.pad(x, (0, max(0, width - len(word))))
            found.append(torch.tanh(theirs(padded)).amax(-1))
        y = torch.cat(found, 1)
        for layer in module.highways:
            gate = torch.sigmoid(F.linear(y, layer.gate.weight, layer.gate.bias))
            y = gate * F.relu(F.linear(y, layer.transform.weight, layer.transform.bias)) + (1 - gate) * y
        expected.append(y if out_dim is None else F.linear(y, module.proj.weight, module.proj.bias))
    torch.testing.assert_close(module(words(*spellings))[0], torch.cat(expected))


@pytest.mark.parametrize("more", [1, 2, 9])
def test_longer_padding_changes_nothing(more):
    module, (chars,) = example()
    torch.testing.assert_close(module(F.pad(chars, (0, more))), module(chars))
    module.chars.weight.data[0] = 100.0  # as after an initialization that runs over all weights
    torch.testing.assert_close(module(F.pad(chars, (0, more))), module(chars))


def test_without_the_mask_padding_would_win_where_responses_are_negative():
    module, chars = make(((1, 50),), n_highway=0), words([3], width=6)
    for conv in module.convs:
        conv.bias.data -= 5
    x = module.chars(chars[0]).mT
    unmasked = torch.tanh(module.convs[0](x)).amax(-1)
    assert (unmasked > module(chars)[0] + 1e-9).any()


def test_the_same_spelling_has_the_same_vector_wherever_it_stands():
    module = make()
    chars = words([3, 1], [5, 2, 7], [3, 1], [4]).repeat(2, 1, 1)
    chars[1] = chars[1].roll(1, 0)
    y = module(chars)
    torch.testing.assert_close(y[0, 0], y[0, 2])
    torch.testing.assert_close(y[1], y[0].roll(1, 0))
    assert not torch.allclose(y[0, 0], y[0, 1])


def test_anagrams_are_told_apart_by_filters_wider_than_one():
    same = make(((1, 20),))(words([3, 1, 4], [1, 4, 3]))[0]
    torch.testing.assert_close(same[0], same[1])
    for width in (2, 3):
        other = make(((width, 20),))(words([3, 1, 4], [1, 4, 3]))[0]
        assert (other[0] - other[1]).abs().max() > 1e-3


def test_words_shorter_than_a_filter_and_words_of_nothing_have_a_vector():
    module = make(((5, 3),), n_highway=0)
    y = module(words([3, 1], [], width=2))[0]
    conv = module.convs[0]
    rows = module.chars.weight[torch.tensor([3, 1])]
    torch.testing.assert_close(y[0], torch.tanh(torch.einsum("oek,ke->o", conv.weight[..., :2], rows) + conv.bias))
    torch.testing.assert_close(y[1], torch.tanh(conv.bias))


def test_a_filter_keeps_the_place_of_its_strongest_match_only():
    module, word = make(((2, 6),), n_highway=0), [3, 1, 4, 1, 5]
    y, pairs = module(words(word))[0, 0], module(words(*[word[i : i + 2] for i in range(4)]))[0]
    torch.testing.assert_close(y, pairs.amax(0))


@pytest.mark.oracle("Peters et al. 2018: 2,048 filters, projected to 512")
def test_the_filters_of_elmo_come_to_2048():
    filters = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))
    with torch.device("meta"):
        elmo = CharCNNEmbedding(262, 16, filters, out_dim=512)
    assert elmo.proj.weight.shape == (512, 2048) and len(elmo.highways) == 2
    assert isinstance(elmo.highways[0], HighwayLayer) and elmo.highways[0].dim == 2048
    table = 262 * 16
    convs = sum(16 * w * n + n for w, n in filters)
    assert sum(p.numel() for p in elmo.parameters()) == table + convs + 2 * (2 * 2048**2 + 2 * 2048) + 2048 * 512 + 512


def test_the_defaults_give_256_numbers():
    module = CharCNNEmbedding(30)
    assert module(words([3, 1], [7])).shape == (1, 2, 256) and module.chars.weight.shape == (30, 16)
    assert [(c.kernel_size[0], len(c.weight)) for c in module.convs] == [(1, 32), (2, 32), (3, 64), (4, 128)]
    assert sum(p.numel() for p in module.convs.parameters()) == 13_056 and sum(p.numel() for p in module.highways.parameters()) == 263_168


@pytest.mark.oracle("torch.nn.Conv1d refuses four dimensions")
def test_the_tensor_after_the_lookup_has_four_dimensions_and_no_convolution_takes_it():
    module, (chars,) = example()
    x = module.chars(chars)
    assert x.ndim == 4
    with pytest.raises(RuntimeError, match="Expected 2D .* or 3D"):
        nn.Conv1d(4, 3, 2).double()(x)
    for word, vector in zip(chars.flatten(0, 1), module(chars).flatten(0, 1)):
        torch.testing.assert_close(module(word[None, None])[0, 0], vector)


def test_padding_gets_no_gradient_and_the_loser_of_a_maximum_neither():
    module = make(((1, 1),), n_highway=0)
    module(words([3, 1], width=4)).sum().backward()
    moved = module.chars.weight.grad.abs().sum(1) > 0
    assert moved.sum() == 1 and (moved[3] or moved[1])


def test_numpy_variant_agrees(agree):
    module = make(n_highway=0)
    filters = [(c.weight.detach().numpy(), c.bias.detach().numpy()) for c in module.convs]
    for word in ([3, 1, 4, 1, 5], [2, 6], [7]):
        vector, _ = embed_word(np.array(word), module.chars.weight.detach().numpy(), filters)
        agree(vector, module(words(word, width=8))[0, 0])


def test_in_numpy_a_typo_moves_a_word_less_than_another_word_does():
    rng = np.random.default_rng(0)
    table, filters = rng.normal(size=(27, 8)), [(rng.normal(size=(64, 8, 3)) / 24**0.5, np.zeros(64))]
    x = np.stack([embed_word(spell(w), table, filters)[0] for w in ("international", "internatoinal", "kitchen")])
    assert cosine(x)[0, 1] > cosine(x)[0, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(filters=()), "filters is empty; expected pairs of a width and a number"),
        (dict(filters=((0, 4),)), "kernel_size=0 is below 1"),
        (dict(n_highway=-1), "n_highway=-1 is negative"),
        (dict(out_dim=0), "out_dim=0 is below 1"),
    ],
)
def test_settings_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        CharCNNEmbedding(9, **arguments)


def test_bad_input_says_what_came_and_what_is_allowed():
    module, (chars,) = example()
    with pytest.raises(ValueError, match="chars holds 9; expected 0 to 8"):
        module(torch.tensor([[[9]]]))
    with pytest.raises(ValueError, match=r"chars has shape \(2, 4\); expected \(batch, words, characters\)"):
        module(chars[0])
    with pytest.raises(ValueError, match="padding .0. before a character of the same word"):
        module(torch.tensor([[[0, 3, 1]]]))
    assert CharCNNEmbedding(9, out_dim=1)(chars).shape == (2, 2, 1)
