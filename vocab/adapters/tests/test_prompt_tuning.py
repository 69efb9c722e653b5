import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.adapters.prompt_tuning import classify, gradient
from vocab.adapters.prompt_tuning import PromptTuning
from vocab.attention.masks import both, causal_mask
from vocab.attention.multi_head import MultiHeadAttention

D = torch.float64


class Model(nn.Module):
    """A frozen one-layer language model that reads embeddings."""

    def __init__(self, vocabulary=11, d=8):
        super().__init__()
        self.table, self.attention, self.head = nn.Embedding(vocabulary, d), MultiHeadAttention(d, 2), nn.Linear(d, vocabulary)

    def forward(self, embeds, mask):
        seen = both(causal_mask(embeds.shape[1]), mask.bool()[:, None, None])
        return self.head(embeds + self.attention(embeds, attn_mask=seen))


def example():
    """For the contract suite: a prompt and its inputs."""
    return PromptTuning(2, 4).double(), (torch.randn(3, 5, 4, dtype=D), torch.ones(3, 5, dtype=torch.bool))


@pytest.mark.oracle("the frozen model fed with the same words as text")
def test_a_prompt_of_real_words_is_a_text_prompt():
    model, words, text = Model().double(), torch.tensor([3, 7, 1]), torch.tensor([[5, 2, 9, 4]])
    prompt = PromptTuning(3, 8, init="vocab", embedding=model.table.weight, token_ids=words)
    mask = torch.ones(1, 4, dtype=torch.long)
    soft = model(*prompt(model.table(text), mask))[:, 3:]
    whole = torch.cat((words[None], text), 1)
    torch.testing.assert_close(soft, model(model.table(whole), torch.ones(1, 7))[:, 3:])


@pytest.mark.oracle("peft PromptTuningConfig")
def test_gives_the_embeddings_of_peft():
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=13, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None)
    base = transformers.GPT2LMHeadModel(config).eval()
    theirs = peft.get_peft_model(base, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    ours = PromptTuning(3, 8)
    with torch.no_grad():
        ours.prompt.copy_(theirs.prompt_encoder["default"].embedding.weight)
    text = torch.tensor([[5, 2, 9]])
    embeds, mask = ours(base.transformer.wte(text), torch.ones_like(text))
    expected = theirs(input_ids=text, attention_mask=torch.ones_like(text)).logits
    found = base(inputs_embeds=embeds, attention_mask=mask).logits
    torch.testing.assert_close(found, expected)


def test_only_the_prompt_is_trained():
    model, prompt = Model().requires_grad_(False), PromptTuning(4, 8)
    text = torch.randint(11, (2, 5))
    model(*prompt(model.table(text), torch.ones(2, 5, dtype=torch.bool))).square().sum().backward()
    assert prompt.prompt.grad.abs().sum() > 0 and all(p.grad is None for p in model.parameters())
    assert sum(p.numel() for p in prompt.parameters()) == 4 * 8


def test_without_tokens_nothing_is_changed():
    x, mask = torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    embeds, seen = PromptTuning(0, 4)(x, mask)
    assert torch.equal(embeds, x) and torch.equal(seen, mask)


def test_the_mask_grows_by_ones_of_its_own_kind_and_padding_stays_padding():
    prompt, x = PromptTuning(2, 4), torch.zeros(1, 3, 4)
    for mask in (torch.tensor([[0, 1, 1]]), torch.tensor([[False, True, True]])):
        seen = prompt(x, mask)[1]
        assert seen.dtype == mask.dtype and seen.long().tolist() == [[1, 1, 0, 1, 1]]


def test_padding_before_the_prompt_would_not_be_the_same_place():
    """Padding stands between prompt and text: absolute positions of the prompt are 0, 1, ... in every sequence."""
    prompt = PromptTuning(2, 4)
    embeds, _ = prompt(torch.zeros(2, 3, 4), torch.tensor([[0, 0, 1], [1, 1, 1]]))
    assert torch.equal(embeds[0, :2], embeds[1, :2]) and torch.equal(embeds[0, :2], prompt.prompt)


def test_labels_of_the_prompt_are_left_out_of_the_loss():
    model, prompt, text = Model().double(), PromptTuning(3, 8).double(), torch.tensor([[5, 2, 9, 4]])
    logits = model(*prompt(model.table(text), torch.ones(1, 4, dtype=torch.long)))
    labels = prompt.labels(text)
    assert labels.tolist() == [[-100, -100, -100, 5, 2, 9, 4]]
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    by_hand = F.cross_entropy(logits[0, 2:-1], text[0])
    torch.testing.assert_close(loss, by_hand)
    assert prompt.labels(text, -1)[0, 0] == -1


def test_starts_small_or_like_the_table():
    assert PromptTuning(100, 100).prompt.std().item() == pytest.approx(0.02, rel=0.05)
    table = 3 * torch.randn(50, 100)
    assert PromptTuning(100, 100, embedding=table).prompt.std().item() == pytest.approx(3, rel=0.05)
    drawn = PromptTuning(20, 100, init="vocab", embedding=table).prompt
    assert all((row == table).all(1).any() for row in drawn) and drawn.unique(dim=0).shape[0] > 5


def test_the_vocabulary_stays_as_it_is():
    """Erratum: the vectors are no rows of the table, and the output layer knows nothing of them."""
    model, prompt = Model(), PromptTuning(2, 8)
    before = model.table.weight.clone()
    logits = model(*prompt(model.table(torch.tensor([[1]])), torch.ones(1, 1, dtype=torch.long)))
    assert logits.shape[-1] == 11 and torch.equal(model.table.weight, before)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: PromptTuning(-1, 4), "n_tokens=-1 is negative"),
    (lambda: PromptTuning(2, 4, init="text"), "init='text' is not 'random' or 'vocab'"),
    (lambda: PromptTuning(2, 4, init="vocab"), "init='vocab' needs the model's table as embedding"),
    (lambda: PromptTuning(2, 4, embedding=torch.zeros(5, 3)), r"embedding has shape \(5, 3\); expected \(vocabulary, d_model=4\)"),
    (lambda: PromptTuning(2, 4, init="vocab", embedding=torch.zeros(5, 4), token_ids=torch.tensor([1])), r"token_ids has shape \(1,\)"),
    (lambda: PromptTuning(2, 4)(torch.zeros(1, 3, 5), torch.ones(1, 3, dtype=torch.bool)), r"input_embeds has shape \(1, 3, 5\)"),
    (lambda: PromptTuning(2, 4)(torch.zeros(1, 3, 4), torch.ones(1, 2, dtype=torch.bool)), r"attention_mask has shape \(1, 2\)"),
])
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numpy_variant_agrees(agree):
    prompt, text, wk, wv, read = (torch.randn(*s, dtype=D, requires_grad=True) for s in ((2, 3), (5, 3), (3, 3), (3, 3), (3,)))
    query = torch.randn(3, dtype=D)
    tokens = torch.cat((prompt, text))
    weights = (tokens @ wk @ query / 3**0.5).softmax(0)
    logit = weights @ (tokens @ wv) @ read
    arrays = [t.detach().numpy() for t in (prompt, text, wk, wv, read, query)]
    agree(classify(*arrays), logit)
    y = torch.ones((), dtype=D)
    (expected,) = torch.autograd.grad(F.binary_cross_entropy_with_logits(logit, y), prompt)
    found, loss = gradient(*arrays, 1.0)
    agree(found, expected)
    assert loss == pytest.approx(float(np.log1p(np.exp(-logit.item()))))
