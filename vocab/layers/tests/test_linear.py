import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from snippets.layers.linear import linear as numpy_linear
from snippets.layers.linear import linear_backward as numpy_backward
from vocab.layers.linear import Linear, linear_backward

D = torch.float64


def example():
    return Linear(4, 3).double(), (torch.randn(2, 5, 4, dtype=D),)


class HandWritten(torch.autograd.Function):
    """F.linear forward, our gradients backward."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        return linear_backward(grad, *ctx.saved_tensors)


@pytest.mark.oracle("torch.nn.functional.linear")
@pytest.mark.parametrize("rows", [(), (7,), (2, 5), (2, 1, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_pytorch(rows, bias):
    layer, x = Linear(4, 3, bias).double(), torch.randn(*rows, 4, dtype=D)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))
    assert (layer.bias is not None) == bias


@pytest.mark.oracle("torch.autograd over torch.nn.functional.linear")
@pytest.mark.parametrize("rows", [(), (7,), (2, 5)])
def test_hand_written_gradients_equal_autograd_summed_over_all_rows(rows):
    x, w, b = (torch.randn(*shape, dtype=D, requires_grad=True) for shape in ((*rows, 4), (3, 4), (3,)))
    grad = torch.randn(*rows, 3, dtype=D)
    expected = torch.autograd.grad(F.linear(x, w, b), (x, w, b), grad)
    torch.testing.assert_close(linear_backward(grad, x, w), expected)


@pytest.mark.oracle("finite differences (torch.autograd.gradcheck)")
def test_hand_written_gradients_pass_gradcheck():
    inputs = [torch.randn(*shape, dtype=D, requires_grad=True) for shape in ((2, 5, 4), (3, 4), (3,))]
    assert torch.autograd.gradcheck(HandWritten.apply, inputs)


@pytest.mark.oracle("torch.nn.Linear, same random numbers")
def test_starts_exactly_as_pytorchs_layer_does():
    torch.manual_seed(3)
    ours = Linear(7, 5)
    torch.manual_seed(3)
    theirs = nn.Linear(7, 5)
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-6, atol=0)
    assert Linear(1, 3).bias is not None  # a bias is the default
    assert str(ours) == "Linear(7, 5, bias=True)"


@pytest.mark.parametrize(("i", "o"), [(6, 2), (2, 6), (4, 4)])
def test_no_more_directions_come_out_than_the_smaller_side_has(i, o):
    layer, x = Linear(i, o).double(), torch.randn(i, dtype=D)
    jacobian = torch.autograd.functional.jacobian(layer, x)
    assert torch.linalg.matrix_rank(jacobian) == min(i, o)
    torch.testing.assert_close(jacobian, layer.weight.detach())


def test_backward_costs_twice_the_forward_pass():
    layer, x = Linear(32, 48), torch.randn(10, 32, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        y = layer(x)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert forward.get_total_flops() == 2 * 10 * 32 * 48  # a multiply-add counts as two
    assert backward.get_total_flops() == 2 * forward.get_total_flops()
    assert sum(p.numel() for p in layer.parameters()) == 32 * 48 + 48


def test_two_layers_without_a_nonlinearity_are_one():
    a, b, x = Linear(4, 9).double(), Linear(9, 3).double(), torch.randn(6, 4, dtype=D)
    weight, bias = b.weight @ a.weight, b.weight @ a.bias + b.bias
    torch.testing.assert_close(b(a(x)), F.linear(x, weight, bias))


def test_a_bias_before_batch_normalization_changes_nothing():
    layer, norm, x = Linear(4, 3).double(), nn.BatchNorm1d(3).double(), torch.randn(16, 4, dtype=D)
    before = norm(layer(x))
    layer.bias.data += 5
    torch.testing.assert_close(norm(layer(x)), before)
    (norm(layer(x)) ** 3).sum().backward()
    assert layer.bias.grad.abs().max() < 1e-9 and layer.weight.grad.abs().max() > 1e-3


def test_column_vectors_take_w_x_and_rows_take_x_w_transposed():
    """A widely copied definition calls x a column of R^n and W an m by n matrix, and writes y = x W^T."""
    layer, x = Linear(4, 3, bias=False).double(), torch.randn(4, dtype=D)
    column = x[:, None]
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        column @ layer.weight.T
    torch.testing.assert_close((layer.weight @ column)[:, 0], layer(x))


def test_numpy_variant_agrees(agree):
    layer, x, grad = Linear(4, 3).double(), torch.randn(6, 4, dtype=D), torch.randn(6, 3, dtype=D)
    w, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    agree(numpy_linear(x.numpy(), w, b), layer(x))
    for ours, theirs in zip(numpy_backward(grad.numpy(), x.numpy(), w), linear_backward(grad, x, layer.weight)):
        agree(ours, theirs)
    np.testing.assert_allclose(numpy_linear(np.eye(4), w), w.T)


def test_wrong_width_names_both_numbers():
    with pytest.raises(ValueError, match=r"x has shape \(2, 5\); expected \(\.\.\., in_features=4\)"):
        Linear(4, 3)(torch.zeros(2, 5))
    for sizes, message in [((0, 3), "in_features=0 is below 1"), ((4, 0), "out_features=0 is below 1")]:
        with pytest.raises(ValueError, match=message):
            Linear(*sizes)
    with pytest.raises(ValueError, match=r"grad has shape \(6, 2\); expected \(\.\.\., out_features=3\)"):
        linear_backward(torch.zeros(6, 2), torch.zeros(6, 4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"x has shape \(6, 5\)"):
        linear_backward(torch.zeros(6, 3), torch.zeros(6, 5), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"weight has shape \(3,\)"):
        linear_backward(torch.zeros(6, 3), torch.zeros(6, 4), torch.zeros(3))
    with pytest.raises(ValueError, match=r"grad has rows \(6,\) and x has \(5,\); expected the same"):
        linear_backward(torch.zeros(6, 3), torch.zeros(5, 4), torch.zeros(3, 4))


@pytest.mark.oracle("transformers: which projections have a bias")
def test_whether_attention_has_a_bias_differs_between_models():
    """A widely copied description says that attention blocks use no bias."""
    transformers = pytest.importorskip("transformers")
    small = dict(hidden_size=8, intermediate_size=8, num_attention_heads=2, num_hidden_layers=1, vocab_size=8)
    with torch.device("meta"):
        gpt2 = transformers.GPT2Model(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=8))
        bert = transformers.BertModel(transformers.BertConfig(**small))
        qwen2 = transformers.Qwen2Model(transformers.Qwen2Config(**small, num_key_value_heads=2))
        llama = transformers.LlamaModel(transformers.LlamaConfig(**small, num_key_value_heads=2))
    assert gpt2.h[0].attn.c_attn.bias is not None
    assert bert.encoder.layer[0].attention.self.query.bias is not None
    for name, has in dict(q_proj=True, k_proj=True, v_proj=True, o_proj=False).items():
        assert (getattr(qwen2.layers[0].self_attn, name).bias is not None) == has
        assert getattr(llama.layers[0].self_attn, name).bias is None
