import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.layers.embedding import embed, embed_backward, train
from vocab.layers.embedding import Embedding, EmbeddingBag

D = torch.float64


def example():
    return Embedding(5, 3).double(), (torch.tensor([[4, 0, 1], [4, 2, 3]]),)


@pytest.mark.oracle("a one-hot matrix product, and torch.nn.functional.embedding")
@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (2, 1, 4)])
def test_equals_one_hot_times_the_table(shape):
    table, ids = Embedding(7, 3).double(), torch.randint(7, shape)
    torch.testing.assert_close(table(ids), F.one_hot(ids, 7).double() @ table.weight, rtol=0, atol=0)
    torch.testing.assert_close(table(ids.int()), F.embedding(ids, table.weight), rtol=0, atol=0)


@pytest.mark.oracle("torch.Tensor.index_add of the output's gradients")
def test_gradients_of_a_repeated_id_add_up():
    table, ids = Embedding(7, 3).double(), torch.tensor([[2, 5, 2], [2, 0, 5]])
    grad = torch.randn(2, 3, 3, dtype=D)
    table(ids).backward(grad)
    expected = torch.zeros(7, 3, dtype=D).index_add(0, ids.flatten(), grad.view(-1, 3))
    torch.testing.assert_close(table.weight.grad, expected)
    assert (table.weight.grad.abs().sum(1) > 0).tolist() == [True, False, True, False, False, True, False]


def test_numpy_in_place_addition_loses_repeated_ids():
    """g[ids] += grad writes each row once; it is the classic way to get the gradient wrong."""
    ids, grad = np.array([2, 2, 2]), np.ones((3, 1))
    wrong = np.zeros((4, 1))
    wrong[ids] += grad
    assert wrong[2] == 1 and embed_backward(grad, ids, 4)[2] == 3


@pytest.mark.parametrize("padding", [0, 3, -1, -7])
def test_padding_starts_at_zero_and_gets_no_gradient(padding):
    table = Embedding(7, 3, padding_idx=padding).double()
    ids = torch.tensor([padding % 7, 1, padding % 7])
    assert table(ids)[0].abs().sum() == 0 and table(ids)[1].abs().sum() > 0
    (table(ids) ** 2 + table(ids)).sum().backward()
    assert table.weight.grad[padding].abs().sum() == 0 and table.weight.grad[1].abs().sum() > 0
    nn.init.normal_(table.weight)  # what many models do to all parameters after construction
    assert table(ids)[0].abs().sum() > 0


@pytest.mark.oracle("torch.nn.functional.embedding with max_norm")
@pytest.mark.parametrize("norm_type", [2.0, 1.0])
def test_the_norm_limit_shortens_the_rows_that_are_looked_up_and_no_others(norm_type):
    table, ids = Embedding(9, 3, max_norm=1.2, norm_type=norm_type).double(), torch.tensor([[1, 4, 4], [7, 1, 2]])
    table.weight.data *= torch.linspace(0.1, 3, 9, dtype=D)[:, None]
    theirs = table.weight.detach().clone()
    before = theirs.clone()
    expected = F.embedding(ids, theirs, max_norm=1.2, norm_type=norm_type)
    torch.testing.assert_close(table(ids), expected)
    torch.testing.assert_close(table.weight.detach(), theirs)
    changed = (table.weight != before).any(1)
    assert changed[[0, 3, 5, 6, 8]].sum() == 0 and changed[[4, 7]].all() and not changed[1]
    assert table.weight[ids].norm(norm_type, dim=-1).max() <= 1.2


def test_the_norm_limit_breaks_the_gradients_of_a_tied_table():
    table, x = Embedding(5, 3, max_norm=0.1), torch.randn(2, 3, requires_grad=True)
    logits = x @ table.weight.T
    table(torch.tensor([1, 2]))  # writes into the weight that logits needs for its backward pass
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logits.sum().backward()


def test_sparse_gradients_make_the_same_step_under_sgd():
    dense, sparse = Embedding(7, 3).double(), Embedding(7, 3, sparse=True).double()
    sparse.load_state_dict(dense.state_dict())
    ids = torch.tensor([2, 5, 2])
    for table in (dense, sparse):
        table(ids).square().sum().backward()
        torch.optim.SGD(table.parameters(), lr=0.1).step()
    assert sparse.weight.grad.is_sparse and not dense.weight.grad.is_sparse
    torch.testing.assert_close(dense.weight, sparse.weight)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize(
    ("optimizer", "takes"),
    [(torch.optim.Adam, False), (torch.optim.AdamW, False), (torch.optim.SGD, True), (torch.optim.Adagrad, True),
     (torch.optim.SparseAdam, True)],
)
def test_adam_and_adamw_refuse_sparse_gradients(optimizer, takes):
    """A widely copied guide recommends AdamW together with sparse gradients for rare tokens."""
    table = Embedding(7, 3, sparse=True)
    table(torch.tensor([2, 5])).sum().backward()
    if takes:
        before = table.weight.detach().clone()
        optimizer(table.parameters(), lr=0.1).step()
        assert (table.weight != before).any(1).tolist() == [False, False, True, False, False, True, False]
    else:
        with pytest.raises(RuntimeError, match="sparse"):
            optimizer(table.parameters(), lr=0.1).step()


def test_adam_moves_rows_that_are_not_in_the_batch_and_weight_decay_shrinks_them():
    table = Embedding(4, 3)
    adam = torch.optim.Adam(table.parameters(), lr=0.1)
    for ids in ([1], [2]):
        before = table.weight.detach().clone()
        adam.zero_grad()
        table(torch.tensor(ids)).sum().backward()
        adam.step()
    assert (table.weight != before).any(1).tolist() == [False, True, True, False]  # row 1 was not in the second batch
    decayed = torch.optim.AdamW(table.parameters(), lr=0.1, weight_decay=0.5)
    before = table.weight.detach().clone()
    decayed.zero_grad()
    table(torch.tensor([2])).sum().backward()
    decayed.step()
    torch.testing.assert_close(table.weight[3].detach(), before[3] * 0.95)


@pytest.mark.oracle("torch.nn.functional.embedding_bag")
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_equal_pytorchs_with_their_gradients(mode):
    bags = EmbeddingBag(9, 4, mode=mode).double()
    ids, offsets = torch.tensor([1, 4, 4, 0, 8, 2, 2]), torch.tensor([0, 3, 3, 4])  # the second bag is empty
    grad = torch.randn(4, 4, dtype=D)
    ours, theirs = bags(ids, offsets), F.embedding_bag(ids, bags.weight, offsets, mode=mode)
    torch.testing.assert_close(ours, theirs)
    assert ours[1].abs().sum() == 0
    torch.testing.assert_close(*(torch.autograd.grad(y, bags.weight, grad)[0] for y in (ours, theirs)))
    torch.testing.assert_close(bags(ids.int(), offsets.int()), theirs)


def test_bags_take_the_mean_unless_told_otherwise():
    bags = EmbeddingBag(9, 4).double()
    torch.testing.assert_close(bags(torch.tensor([1, 2]), torch.tensor([0]))[0], bags.weight[1:3].mean(0))
    assert bags(torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long)).shape == (0, 4)


def test_gpt2s_table_takes_154_megabytes():
    with torch.device("meta"):
        table = Embedding(50257, 768)
    assert round(table.weight.nbytes / 1e6) == 154 and round(table.bfloat16().weight.nbytes / 1e6) == 77


def test_starts_from_a_standard_normal():
    weight = Embedding(4000, 64).weight
    assert abs(weight.std() - 1) < 0.01 and abs(weight.mean()) < 0.01 and not Embedding(4, 4).sparse
    assert Embedding(4, 4)(torch.zeros(0, dtype=torch.long)).shape == (0, 4) and Embedding(1, 1).weight.shape == (1, 1)
    assert Embedding(4, 4, max_norm=1.0).norm_type == 2


def test_numpy_variant_agrees(agree):
    table, ids = Embedding(7, 3, padding_idx=5).double(), torch.tensor([2, 5, 2, 0])
    grad = torch.randn(4, 3, dtype=D)
    y = table(ids)
    agree(embed(table.weight.detach().numpy(), ids.numpy()), y)
    y.backward(grad)
    agree(embed_backward(grad.numpy(), ids.numpy(), 7, padding=5), table.weight.grad)


@pytest.mark.oracle("torch.nn.functional.cross_entropy and torch.optim.SGD")
def test_the_demos_hand_written_training_is_sgd(agree):
    table, heads, classes = Embedding(7, 2, padding_idx=0).double(), torch.randn(3, 2, dtype=D), torch.arange(7) % 3
    batches = [torch.randint(7, (5,)) for _ in range(6)]
    steps = train(table.weight.detach().numpy().copy(), heads.numpy(), classes.numpy(), [b.numpy() for b in batches], 0.3, 0)
    sgd = torch.optim.SGD(table.parameters(), lr=0.3)
    for ids, (ours, _) in zip(batches, steps):
        sgd.zero_grad()
        F.cross_entropy(table(ids) @ heads.T, classes[ids]).backward()
        sgd.step()
        agree(ours, table.weight)


def test_bad_ids_and_settings_say_which_and_why():
    for ids, found in ([7, 1], 7), ([1, -1], -1):
        for call in (Embedding(7, 3), lambda x: EmbeddingBag(7, 3)(x, torch.tensor([0]))):
            with pytest.raises(ValueError, match=f"ids holds {found}; expected 0 to 6"):
                call(torch.tensor(ids))
    for arguments, message in [
        (dict(padding_idx=7), "padding_idx=7 is not a row of num_embeddings=7"),
        (dict(padding_idx=-8), "padding_idx=-8 is not a row of num_embeddings=7"),
        (dict(max_norm=0.0), "max_norm=0.0 is not above 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Embedding(7, 3, **arguments)
    with pytest.raises(TypeError, match="ids has dtype torch.float32"):
        Embedding(7, 3)(torch.tensor([1.0]))
    for sizes, message in [((0, 3), "num_embeddings=0 is below 1"), ((7, 0), "embedding_dim=0 is below 1")]:
        with pytest.raises(ValueError, match=message):
            Embedding(*sizes)
    with pytest.raises(ValueError, match="mode='prod' is none of 'sum', 'mean', 'max'"):
        EmbeddingBag(7, 3, mode="prod")
    for offsets in ([1, 2], [0, 2, 1], [0, 4]):
        with pytest.raises(ValueError, match="must start at 0 and rise to at most 3, the number of ids"):
            EmbeddingBag(7, 3)(torch.tensor([1, 2, 3]), torch.tensor(offsets))
    with pytest.raises(ValueError, match=r"ids has shape \(1, 2\); expected \(n_ids\)"):
        EmbeddingBag(7, 3)(torch.tensor([[1, 2]]), torch.tensor([0]))
    for ids, offsets, name in [([0.5], [0], "ids"), ([0], [0.5], "offsets")]:
        with pytest.raises(TypeError, match=f"{name} has dtype"):
            EmbeddingBag(7, 3)(torch.tensor(ids), torch.tensor(offsets))
