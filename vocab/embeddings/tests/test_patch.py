import numpy as np
import pytest
import torch
from torch import nn

from snippets.embeddings.patch import patchify as numpy_patchify
from snippets.embeddings.patch import reconstruct
from snippets.embeddings.patch import unpatchify as numpy_unpatchify
from vocab.embeddings.patch import PatchEmbedding, patchify, unpatchify

D = torch.float64


def example():
    return PatchEmbedding((4, 6), 2, 3, 5, cls_token=True).double(), (torch.randn(2, 3, 4, 6, dtype=D),)


@pytest.mark.oracle("torch.nn.Conv2d with kernel and stride p")
@pytest.mark.parametrize("p", [1, 2, 4])
def test_equals_a_convolution_whose_stride_is_its_kernel(p):
    ours = PatchEmbedding((4, 8), p, 3, 5).double()
    theirs = nn.Conv2d(3, 5, p, stride=p).double()
    theirs.load_state_dict(ours.proj.state_dict())
    x = torch.randn(2, 3, 4, 8, dtype=D)
    torch.testing.assert_close(ours(x), theirs(x).flatten(2).transpose(1, 2))
    as_map = PatchEmbedding((4, 8), p, 3, 5, flatten=False).double()
    as_map.load_state_dict(ours.state_dict())
    torch.testing.assert_close(as_map(x), theirs(x))


@pytest.mark.oracle("torch.nn.Linear on the pixels of each patch")
def test_equals_a_linear_layer_on_rows_of_pixels():
    ours, linear = PatchEmbedding((4, 6), 2, 3, 5).double(), nn.Linear(12, 5).double()
    linear.weight.data, linear.bias.data = ours.proj.weight.flatten(1), ours.proj.bias
    x = torch.randn(2, 3, 4, 6, dtype=D)
    torch.testing.assert_close(ours(x), linear(patchify(x, 2)))


@pytest.mark.oracle("transformers ViTPatchEmbeddings and ViTEmbeddings")
def test_equals_the_vision_transformers_of_transformers():
    vit = pytest.importorskip("transformers.models.vit.modeling_vit")
    from transformers import ViTConfig

    config = ViTConfig(image_size=8, patch_size=4, num_channels=3, hidden_size=6)
    theirs, ours = vit.ViTEmbeddings(config).double().eval(), PatchEmbedding(8, 4, 3, 6, cls_token=True).double()
    nn.init.normal_(theirs.cls_token)
    ours.proj.load_state_dict(theirs.patch_embeddings.projection.state_dict())
    ours.cls_token.data.copy_(theirs.cls_token)
    x = torch.randn(2, 3, 8, 8, dtype=D)
    torch.testing.assert_close(ours(x)[:, 1:], theirs.patch_embeddings(x))
    torch.testing.assert_close(ours(x) + theirs.position_embeddings, theirs(x))


@pytest.mark.oracle("slices of the image, one by one")
def test_patches_are_slices_channel_by_channel_and_line_by_line():
    x = torch.randn(2, 3, 4, 6)
    rows = [x[:, :, r : r + 2, c : c + 2].reshape(2, -1) for r in (0, 2) for c in (0, 2, 4)]
    assert torch.equal(patchify(x, 2), torch.stack(rows, 1))


@pytest.mark.parametrize(("p", "size"), [(1, (3, 2)), (2, (4, 6)), (3, (3, 9))])
def test_putting_the_patches_back_gives_the_image(p, size):
    x = torch.randn(2, 3, *size)
    assert torch.equal(unpatchify(patchify(x, p), p, size), x)


@pytest.mark.oracle("torch.nn.functional.pixel_unshuffle")
def test_patches_are_the_columns_of_pixel_unshuffle():
    x = torch.randn(2, 3, 4, 6)
    assert torch.equal(patchify(x, 2), nn.functional.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2))


def test_tokens_come_row_by_row():
    """Patch (r, c) is constant r·S + c, so its token's number is its place."""
    numbers = torch.arange(6, dtype=D).view(1, 1, 2, 3)
    x = numbers.repeat_interleave(4, 2).repeat_interleave(4, 3)
    embed = PatchEmbedding((8, 12), 4, 1, 1).double()
    nn.init.constant_(embed.proj.weight, 1 / 16)
    nn.init.zeros_(embed.proj.bias)
    torch.testing.assert_close(embed(x)[0, :, 0], torch.arange(6, dtype=D))


@pytest.mark.oracle("the support of the Jacobian")
def test_a_token_sees_the_pixels_of_its_own_patch_and_no_others():
    embed = PatchEmbedding((4, 6), 2, 1, 3).double()
    jacobian = torch.autograd.functional.jacobian(lambda x: embed(x[None, None])[0].abs().sum(-1), torch.randn(4, 6, dtype=D))
    for n in range(6):
        own = torch.zeros(4, 6, dtype=torch.bool)
        own[n // 3 * 2 : n // 3 * 2 + 2, n % 3 * 2 : n % 3 * 2 + 2] = True
        assert torch.equal(jacobian[n] != 0, own)


def test_the_class_token_comes_first_and_is_the_same_for_every_image():
    embed, x = PatchEmbedding(4, 2, 1, 3, cls_token=True).double(), torch.randn(2, 1, 4, 4, dtype=D)
    with_token = embed(x)
    assert torch.equal(with_token[0, 0], embed.cls_token[0, 0]) and torch.equal(with_token[1, 0], embed.cls_token[0, 0])
    embed.cls_token = None
    assert torch.equal(with_token[:, 1:], embed(x))
    first = PatchEmbedding(4, 2, 1, 4000, cls_token=True).cls_token
    assert 0.018 < first.std() < 0.022


@pytest.mark.oracle("the published size of ViT-B/16")
def test_vit_base_has_196_tokens_and_590592_weights_by_default():
    embed = PatchEmbedding()
    assert sum(p.numel() for p in embed.parameters()) == 3 * 16**2 * 768 + 768 == 590_592
    assert embed(torch.zeros(1, 3, 224, 224)).shape[1] == (224 // 16) ** 2 == 196


def test_without_a_size_every_multiple_of_the_patch_is_taken():
    embed = PatchEmbedding(None, 2, 1, 3)
    assert embed(torch.zeros(1, 1, 2, 8)).shape[1] == 4
    with pytest.raises(ValueError, match="x is 2 by 7, no multiple of the patch size 2: 0 rows and 1 columns would be left over"):
        embed(torch.zeros(1, 1, 2, 7))


@pytest.mark.oracle("numpy.linalg.svd: the Eckart-Young bound")
def test_the_best_linear_tokens_lose_the_small_singular_values():
    patches = np.random.default_rng(0).normal(size=(20, 9))
    values = np.linalg.svd(patches - patches.mean(0), compute_uv=False)
    for dim in (1, 4, 9):
        error = ((reconstruct(patches, dim, "PCA") - patches) ** 2).sum()
        np.testing.assert_allclose(error, (values[dim:] ** 2).sum(), atol=1e-20)
        assert ((reconstruct(patches, dim, "random") - patches) ** 2).sum() >= error - 1e-12


def test_numpy_variant_agrees(agree):
    x = torch.randn(6, 8, dtype=D)
    patches = numpy_patchify(x.numpy(), 2)
    agree(patches, patchify(x[None, None], 2)[0])
    agree(numpy_unpatchify(patches, 2, 6, 8), x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(img_size=224, patch_size=15), "img_size is 224 by 224, no multiple of the patch size 15: 14 rows and 14 columns"),
        (dict(img_size=(224, 225)), "img_size is 224 by 225, no multiple of the patch size 16: 0 rows and 1 columns"),
        (dict(img_size=(224, 224, 3)), r"img_size=\(224, 224, 3\) has 3 numbers; expected one, or 2"),
        (dict(img_size=0), "img_size=0 is below 1"),
        (dict(cls_token=True, flatten=False), "a map has no place for a further token"),
        (dict(embed_dim=0), "out_channels=0 is below 1"),
    ],
)
def test_settings_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        PatchEmbedding(**arguments)


def test_bad_input_says_what_came_and_what_is_allowed():
    embed = PatchEmbedding((4, 6), 2, 3, 5)
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 6, 4\); expected \(batch, in_channels=3, height=4, width=6\)"):
        embed(torch.zeros(1, 3, 6, 4))
    with pytest.raises(ValueError, match=r"x has shape \(1, 4, 4, 6\); expected \(batch, in_channels=3"):
        embed(torch.zeros(1, 4, 4, 6))
    with pytest.raises(ValueError, match="x is 3 by 4, no multiple of the patch size 2: 1 rows and 0 columns"):
        patchify(torch.zeros(1, 1, 3, 4), 2)
    with pytest.raises(ValueError, match=r"x has shape \(4, 4\); expected \(batch, channels, height, width\)"):
        patchify(torch.zeros(4, 4), 2)
    with pytest.raises(ValueError, match="size is 4 by 5, no multiple of the patch size 2"):
        unpatchify(torch.zeros(1, 4, 4), 2, (4, 5))
    with pytest.raises(ValueError, match=r"patches has shape \(1, 5, 4\); expected \(batch, patches=4, numbers_of_a_patch\)"):
        unpatchify(torch.zeros(1, 5, 4), 2, (4, 4))
    with pytest.raises(ValueError, match="patches has rows of 6 numbers, which is no multiple of p² = 4"):
        unpatchify(torch.zeros(1, 4, 6), 2, (4, 4))
    with pytest.raises(ValueError, match="p=0 is below 1"):
        patchify(torch.zeros(1, 1, 4, 4), 0)
    with pytest.raises(TypeError, match="patches is a list"):
        unpatchify([1.0], 1, (1, 1))
