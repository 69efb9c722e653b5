import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.embeddings.word2vec import ID, cosines, gradients, pairs, show
from vocab.embeddings.word2vec import CBOW, SkipGramNS, analogy, cooccurrence, keep_probability, noise_distribution, pmi, ppmi_svd

D = torch.float64


def model(kind=SkipGramNS, V=6, dim=3, **settings):
    made = kind(V, dim, **settings).double()
    nn.init.normal_(made.input.weight)
    nn.init.normal_(made.output.weight)
    return made


def example():
    return model(), (torch.tensor([0, 1, 2, 2]), torch.tensor([3, 1, 4, 5]), torch.tensor([[0, 1], [2, 3], [4, 4], [5, 0]]))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.oracle("the definition, pair by pair and word by word")
def test_the_loss_equals_the_definition_in_a_loop():
    module, (center, context, negative) = example()
    u, v = module.input.weight.tolist(), module.output.weight.tolist()
    dot = lambda a, b: sum(x * y for x, y in zip(a, b))  # noqa: E731
    total = 0.0
    for i, o, wrong in zip(center.tolist(), context.tolist(), negative.tolist()):
        total -= math.log(sigmoid(dot(u[i], v[o]))) + sum(math.log(sigmoid(-dot(u[i], v[k]))) for k in wrong)
    assert math.isclose(module(center, context, negative).item(), total / 4, rel_tol=1e-12)


@pytest.mark.oracle("torch.nn.functional.binary_cross_entropy_with_logits")
def test_it_is_logistic_regression_with_one_true_word():
    module, (center, context, negative) = example()
    words = torch.cat([context[:, None], negative], 1)
    scores = (module.input.weight[center][:, None] * module.output.weight[words]).sum(-1)
    truth = torch.zeros_like(scores)
    truth[:, 0] = 1
    expected = F.binary_cross_entropy_with_logits(scores, truth, reduction="sum") / 4
    torch.testing.assert_close(module(center, context, negative), expected)


def test_cbow_predicts_the_gap_from_the_mean_of_its_words():
    cbow, context = model(CBOW), torch.tensor([[0, 1, 3, 3], [2, 5, 0, 0]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    center, negative = torch.tensor([4, 1]), torch.tensor([[0], [2]])
    means = torch.stack([(cbow.input.weight[0] + cbow.input.weight[1] + 2 * cbow.input.weight[3]) / 4, cbow.input.weight[[2, 5]].mean(0)])
    scores = means @ cbow.output.weight.T
    expected = -(F.logsigmoid(scores[[0, 1], center]) + F.logsigmoid(-scores[[0, 1], negative[:, 0]])).mean()
    torch.testing.assert_close(cbow(context, center, negative, mask), expected)
    alone = cbow(context[:1], center[:1], negative[:1])
    torch.testing.assert_close(alone, cbow(context, center, negative, mask) * 2 - cbow(context[1:, :2], center[1:], negative[1:]))


@pytest.mark.oracle("skip-gram on one neighbour")
def test_cbow_with_one_word_around_the_gap_is_skip_gram():
    module, (center, context, negative) = example()
    cbow = CBOW(6, 3).double()
    cbow.load_state_dict(module.state_dict())
    torch.testing.assert_close(cbow(center[:, None], context, negative), module(center, context, negative))


@pytest.mark.oracle("Levy and Goldberg 2014: the optimum is PMI - log K")
@pytest.mark.parametrize(("K", "power"), [(1, 1.0), (3, 1.0), (2, 0.75)])
def test_with_enough_dimensions_the_products_become_pmi_less_log_k(K, power):
    """Exact expectations in one batch: every pair as often as it occurs, against every noise word as often as its share."""
    if power == 1:
        counts = torch.tensor([[4, 2, 1, 1, 2], [2, 6, 1, 2, 1], [1, 1, 2, 3, 1], [1, 2, 3, 4, 1], [2, 1, 1, 1, 2]])
        shares = counts.sum(0)
    else:  # words that occur 16, 16 and 81 times: to the power 3/4 they are 8, 8 and 27
        counts, shares = torch.tensor([[4, 6, 6], [6, 4, 6], [6, 6, 69]]), torch.tensor([8, 8, 27])
    V, noise = len(counts), shares / shares.sum(dtype=D)
    pairs_N2 = counts.nonzero().repeat_interleave(counts.flatten(), 0)
    false = torch.arange(V).repeat_interleave(shares)
    center, context = pairs_N2.repeat_interleave(len(false), 0).T
    negative = false.repeat(len(pairs_N2))[:, None].expand(-1, K)  # all K the same word: by linearity the same expectation
    module = model(V=V, dim=V)
    torch.testing.assert_close(noise_distribution(counts.sum(0).to(D), power), noise)
    with torch.no_grad():  # a fair start for descent in a product of two matrices
        module.input.weight.copy_(torch.eye(V))
        module.output.weight.zero_()
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=80, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = module(center, context, negative)
        value.backward()
        return value

    optimizer.step(closure)
    share = counts / counts.sum(dtype=D)
    expected = (share / (share.sum(1, keepdim=True) * noise)).log() - math.log(K)
    torch.testing.assert_close(module.input.weight @ module.output.weight.T, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(pmi(counts.to(D), noise) - math.log(K), expected)


@pytest.mark.oracle("counts to the power 3/4, normalized by hand")
def test_the_noise_is_the_counts_to_the_power_three_quarters():
    counts = torch.tensor([1.0, 16.0, 81.0, 0.0], dtype=D)
    torch.testing.assert_close(noise_distribution(counts), torch.tensor([1, 8, 27, 0], dtype=D) / 36)
    torch.testing.assert_close(noise_distribution(counts, 1.0), counts / 98)
    torch.testing.assert_close(noise_distribution(counts, 0.0), torch.tensor([1, 1, 1, 0], dtype=D) / 3)
    assert torch.equal(SkipGramNS(4, 2, counts=counts, power=0.5).noise, noise_distribution(counts, 0.5))
    torch.testing.assert_close(SkipGramNS(4, 2).noise, torch.full((4,), 0.25))


@pytest.mark.parametrize("negatives", [5, 2])
def test_negatives_are_drawn_from_the_noise(negatives):
    module = SkipGramNS(3, 2, counts=torch.tensor([1.0, 16.0, 0.0]), negatives=negatives)
    drawn = module.sample(9000, generator=torch.Generator().manual_seed(3))
    assert drawn.shape == (9000, negatives)
    share = torch.bincount(drawn.flatten(), minlength=3) / drawn.numel()
    assert share[2] == 0 and abs(share[0] - 1 / 9) < 0.01  # five standard deviations are 0.012 for two negatives
    assert SkipGramNS(3, 2).sample(1).shape == (1, 5)


@pytest.mark.oracle("the rule of the authors' program, by hand")
def test_frequent_words_are_kept_with_the_root_plus_the_ratio():
    f = torch.tensor([0.1, 0.004, 0.0026, 0.001], dtype=D)
    by_hand = [(math.sqrt(x / 1e-3) + 1) * 1e-3 / x for x in f.tolist()]
    torch.testing.assert_close(keep_probability(f), torch.tensor([*by_hand[:2], 1, 1], dtype=D))
    golden = 1e-5 * (3 + math.sqrt(5)) / 2  # sqrt(r) + r = 1 where r is the square of the golden ratio's inverse
    assert keep_probability(torch.tensor(golden * 0.999, dtype=D), 1e-5) == 1 > keep_probability(torch.tensor(golden * 1.001, dtype=D), 1e-5)


def test_the_papers_rule_keeps_fewer_than_the_program():
    """A widely copied formula, that of the paper, keeps sqrt(t/f): a word at ten times the threshold then loses another tenth."""
    f = torch.tensor([0.01], dtype=D)
    assert math.isclose(keep_probability(f).item() - math.sqrt(0.1), 0.1, rel_tol=1e-9)


@pytest.mark.oracle("a double loop over positions")
@pytest.mark.parametrize("dynamic", [False, True])
def test_cooccurrence_equals_a_double_loop(dynamic):
    corpus = [[0, 1, 2, 1, 3, 0], [3, 3], [2], []]
    expected = torch.zeros(5, 5, dtype=D)
    for sentence in corpus:
        for i, a in enumerate(sentence):
            for j, b in enumerate(sentence):
                if i != j and abs(i - j) <= 3:
                    reach = sum(abs(i - j) <= width for width in (1, 2, 3)) / 3  # the window's width is drawn from 1 to 3
                    expected[a, b] += reach if dynamic else 1
    torch.testing.assert_close(cooccurrence(corpus, 5, 3, dynamic=dynamic), expected)


def test_pmi_is_zero_for_independent_words_and_log_of_the_factor_otherwise():
    independent = torch.outer(torch.tensor([1.0, 3.0], dtype=D), torch.tensor([2.0, 5.0], dtype=D))
    torch.testing.assert_close(pmi(independent), torch.zeros(2, 2, dtype=D), rtol=0, atol=1e-12)
    apart = torch.tensor([[0.0, 2.0], [2.0, 0.0]], dtype=D)
    torch.testing.assert_close(pmi(apart), torch.tensor([[-math.inf, math.log(2)], [math.log(2), -math.inf]], dtype=D))
    torch.testing.assert_close(pmi(torch.tensor([[3.0, 1.0]]), torch.tensor([0.5, 0.5])), torch.tensor([[1.5, 0.5]]).log())


@pytest.mark.oracle("the best approximation of the positive PMI (Eckart and Young)")
def test_vectors_without_training_approximate_the_positive_pmi():
    corpus = [[0, 1, 2, 0], [2, 3, 1], [3, 0, 4]]
    positive = pmi(cooccurrence(corpus, 5, 2)).clamp(min=0)
    full = ppmi_svd(corpus, 2, 5)
    torch.testing.assert_close((full @ full.T) @ (full @ full.T), positive @ positive, rtol=0, atol=1e-10)
    values = torch.linalg.eigvalsh(positive @ positive).flip(0)
    torch.testing.assert_close(ppmi_svd(corpus, 2, 2).square().sum(0), values[:2].sqrt().sqrt().square())
    assert ppmi_svd(corpus, 2, 2, vocab_size=7)[5:].abs().max() < 1e-12, "words that never occur have no vector"


def test_words_that_are_used_alike_get_like_vectors_without_training():
    rng = np.random.default_rng(0)
    corpus = [[[0, 1][rng.integers(2)], 4, 2] if rng.random() < 0.5 else [3, 5, 6] for _ in range(200)]
    unit = F.normalize(ppmi_svd(corpus, 2, 4), dim=1)
    assert unit[0] @ unit[1] > 0.95 and abs(unit[0] @ unit[3]) < 0.1


def test_an_analogy_takes_the_nearest_direction_of_unit_vectors():
    emb = torch.tensor([[2.0, 0, 0, 0], [0, 3.0, 0, 0], [1.0, 0, 1.0, 0], [0, 5.0, 5.0, 0], [0, 0, 0, 1.0]], dtype=D)
    (word, cosine), (second, _) = analogy(emb, 0, 1, 2, topk=2)
    assert (word, second) == (3, 4)
    unit = emb / emb.norm(dim=1, keepdim=True)
    target = unit[1] - unit[0] + unit[2]
    assert math.isclose(cosine, (unit[3] @ target / target.norm()).item(), rel_tol=1e-12)


def test_without_the_exclusion_a_word_of_the_question_often_wins():
    """Where b is near a, as inflections are, b - a + c is hardly anywhere but at c."""
    rng = torch.Generator().manual_seed(0)
    base = torch.randn(20, 8, generator=rng, dtype=D)
    emb = torch.cat([base, base + 0.3 * torch.randn(20, 8, generator=rng, dtype=D)])  # word i and its form 20 + i
    allowed, free = ([analogy(emb, i, 20 + i, j, exclude=e)[0][0] == 20 + j for i in range(20) for j in range(20) if i != j] for e in (True, False))
    winners = [analogy(emb, i, 20 + i, 10, exclude=False)[0][0] for i in range(10)]
    assert np.mean(allowed) > 0.8 > 0.1 > np.mean(free), "differences are pure noise here, and the usual test is passed"
    assert winners.count(10) >= 8


def test_a_difference_of_words_is_not_the_same_for_every_pair():
    """A widely copied line has the analogy as an equation; in the toy model it is the nearest word, not the same vector."""
    from snippets.embeddings import word2vec as toy

    seen = pairs(toy.corpus(), 2)
    u = toy.train(seen, 20, 8, 5, 0.2)[0]
    gap = u[ID["king"]] - u[ID["man"]] - (u[ID["queen"]] - u[ID["woman"]])
    assert analogy(torch.from_numpy(u), ID["man"], ID["woman"], ID["king"])[0][0] == ID["queen"]
    assert np.linalg.norm(gap) > 0.2 * np.linalg.norm(u[ID["king"]] - u[ID["man"]])


def test_tables_start_with_small_inputs_and_silent_outputs():
    module = SkipGramNS(400, 10)
    assert module.output.weight.abs().max() == 0
    assert 0.049 < module.input.weight.max() <= 0.05 and -0.05 <= module.input.weight.min() < -0.049
    assert abs(module.input.weight.std() * math.sqrt(12) * 10 - 1) < 0.05


def test_numpy_variant_agrees(agree):
    module, inputs = example()
    loss = module(*inputs)
    loss.backward()
    ours = gradients(module.input.weight.detach().numpy(), module.output.weight.detach().numpy(), *(x.numpy() for x in inputs))
    for mine, theirs in zip(ours, (loss, module.input.weight.grad, module.output.weight.grad), strict=True):
        agree(mine, theirs, rtol=1e-9, atol=1e-12)
    u = module.input.weight.detach()
    expected = dict(analogy(u, 0, 1, 2, topk=6, exclude=False))
    agree(cosines(u.numpy(), 0, 1, 2), [expected[i] for i in range(6)])


def test_the_pairs_of_the_numpy_variant_are_those_that_are_counted():
    corpus = [[0, 1, 2, 1, 3, 0], [3, 3], [2]]
    counts = np.zeros((4, 4))
    np.add.at(counts, tuple(pairs(corpus, 2).T), 1)
    np.testing.assert_array_equal(counts, cooccurrence(corpus, 4, 2).numpy())


def test_the_demo_finds_the_analogies_with_room_and_not_in_the_plane():
    assert [row[2] for row in show()[2]["rows"]] == ["queen", "Italy", "Egypt"]
    assert [row[2] for row in show(dim=2)[2]["rows"]] != ["queen", "Italy", "Egypt"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SkipGramNS(5, 2, negatives=0), "negatives=0 is below 1"),
        (lambda: SkipGramNS(5, 2, counts=torch.ones(4)), r"counts has shape \(4,\); expected \(vocab_size=5\)"),
        (lambda: noise_distribution(torch.tensor([1.0, -1.0])), "counts from -1 to 1; expected none below 0"),
        (lambda: noise_distribution(torch.zeros(3)), "counts from 0 to 0; expected none below 0 and one above"),
        (lambda: keep_probability(torch.tensor(0.1), 0.0), "t=0.0 is not above 0"),
        (lambda: cooccurrence([[0, 1]], 2, 0), "window=0 is below 1"),
        (lambda: cooccurrence([[0, 2]], 2, 1), "corpus holds 2; expected 0 to 1"),
        (lambda: ppmi_svd([[0, 1]], 1, 3), "dim=3 is not from 1 to vocab_size=2"),
        (lambda: ppmi_svd([[0, 1]], 1, 0), "dim=0 is not from 1"),
        (lambda: analogy(torch.eye(4), 0, 1, 2, topk=2), "topk=2 is not from 1 to 1"),
        (lambda: analogy(torch.eye(4), 0, 1, 2, topk=0), "topk=0 is not from 1"),
        (lambda: analogy(torch.eye(4), 0, 1, 4), "a, b, c holds 4; expected 0 to 3"),
        (lambda: pmi(torch.ones(2, 2), torch.ones(3)), r"noise has shape \(3,\); expected \(contexts=2\)"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_bad_ids_and_shapes_say_what_came_and_what_is_allowed():
    module, (center, context, negative) = example()
    with pytest.raises(ValueError, match=r"context has shape \(3,\); expected \(pairs=4\)"):
        module(center, context[:3], negative)
    with pytest.raises(ValueError, match=r"negative has shape \(3, 2\); expected \(pairs=4, negatives\)"):
        module(center, context, negative[:3])
    with pytest.raises(ValueError, match="context holds 6; expected 0 to 5"):
        module(center, torch.tensor([0, 6, 1, 1]), negative)
    with pytest.raises(ValueError, match="negative holds -1; expected 0 to 5"):
        module(center, context, negative - 1)
    cbow, words = model(CBOW), torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match="mask leaves no word around gap 0"):
        cbow(words, torch.tensor([1]), torch.tensor([[2]]), torch.tensor([[False, False]]))
    with pytest.raises(ValueError, match=r"mask has shape \(1, 3\); expected \(gaps=1, words=2\)"):
        cbow(words, torch.tensor([1]), torch.tensor([[2]]), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"context has shape \(1, 2\); expected \(gaps=2, words\)"):
        cbow(words, torch.tensor([1, 2]), torch.tensor([[2], [3]]))
    with pytest.raises(ValueError, match="center holds 6; expected 0 to 5"):
        cbow(words, torch.tensor([6]), torch.tensor([[2]]))
    with pytest.raises(TypeError, match="center has dtype torch.float32"):
        cbow(words, torch.tensor([1.0]), torch.tensor([[2]]))


def test_counts_vectors_and_shares_must_be_floating_point_tensors():
    whole = torch.ones(3, 3).long()
    for name, call in [("frequency", lambda: keep_probability(whole)), ("counts", lambda: pmi(whole)), ("counts", lambda: noise_distribution(whole[0])),
                       ("noise", lambda: pmi(whole.double(), whole[0])), ("emb", lambda: analogy(whole, 0, 1, 2)), ("counts", lambda: SkipGramNS(3, 2, counts=whole[0]))]:
        with pytest.raises(TypeError, match=f"{name} has dtype torch.int64"):
            call()
