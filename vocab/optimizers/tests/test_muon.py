import pytest
import torch
from torch.nn import Parameter

from snippets.optimizers.muon import muon_step, newton_schulz as newton_schulz_np
from vocab.optimizers.muon import Muon, newton_schulz
from vocab.optimizers.tests.walks import assert_same_steps, layers, numbers_per_weight, take

CUBIC = (1.5, -0.5, 0.0)


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: Muon(params, lr=0.02, flatten=True)), ()


def matrix(rows, columns, values=None, seed=0):
    """A random matrix, or one with these singular values."""
    torch.manual_seed(seed)
    x = torch.randn(rows, columns, dtype=torch.float64)
    if values is None:
        return x
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    return u @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ v


@pytest.mark.oracle("torch.optim.Muon, in its bfloat16")
@pytest.mark.parametrize("options", [dict(), dict(nesterov=False, momentum=0.8), dict(adjust_lr_fn="match_rms_adamw", weight_decay=0.3), dict(ns_steps=3)])
def test_equals_torch(options):
    ours, theirs = layers((12, 8), (6, 20)), layers((12, 8), (6, 20))
    one, two = Muon(ours, lr=0.01, **options), torch.optim.Muon(theirs, lr=0.01, **options)
    assert_same_steps(one, two, ours, theirs, steps=50, rtol=1e-2, atol=5e-3)


@pytest.mark.oracle("the update rule around torch.linalg.svd")
@pytest.mark.parametrize(("nesterov", "fn", "size"), [(True, None, (5 / 3) ** 0.5), (False, "match_rms_adamw", 0.2 * 5**0.5)])
def test_with_the_exact_iteration_each_step_is_the_polar_factor_of_the_momentum(nesterov, fn, size):
    (w,) = layers((5, 3))
    optimizer = Muon([w], lr=0.02, momentum=0.7, nesterov=nesterov, adjust_lr_fn=fn, weight_decay=0.5, ns_coefficients=CUBIC, ns_steps=60,
                     ns_dtype=torch.float64)
    m = torch.zeros(5, 3, dtype=torch.float64)
    for t in range(50):
        before = w.detach().clone()
        take(optimizer, [w], t)
        m = 0.7 * m + 0.3 * w.grad
        u, _, v = torch.linalg.svd(0.7 * m + 0.3 * w.grad if nesterov else m, full_matrices=False)
        torch.testing.assert_close(w.detach(), before * 0.99 - 0.02 * size * (u @ v), rtol=1e-9, atol=1e-10)


@pytest.mark.oracle("torch.linalg.svd: the same singular vectors")
@pytest.mark.parametrize("shape", [(64, 128), (30, 20)])
def test_singular_vectors_stay_and_values_come_near_one(shape):
    """Erratum: the orthogonalization is approximate, and meant to be."""
    x = matrix(*shape)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    values = u.mT @ newton_schulz(x) @ v.mT
    diagonal = values.diagonal()
    assert (values - torch.diag(diagonal)).abs().max() < 1e-9
    assert 0.6 < diagonal.min() and diagonal.max() < 1.25
    assert (diagonal - 1).abs().max() > 0.05, "not 1"


@pytest.mark.oracle("the scalar polynomial, applied to each singular value")
def test_each_round_is_the_same_polynomial_of_each_singular_value():
    start = [0.9, 0.3, 0.05]
    x = matrix(3, 6, start)
    expected = [value / sum(s * s for s in start) ** 0.5 for value in start]
    a, b, c = 3.4445, -4.775, 2.0315
    for steps in range(6):
        found = torch.linalg.svdvals(newton_schulz(x, steps=steps))
        torch.testing.assert_close(found, torch.tensor(sorted(map(abs, expected), reverse=True), dtype=torch.float64), rtol=1e-9, atol=1e-12)
        expected = [a * s + b * s**3 + c * s**5 for s in expected]


@pytest.mark.oracle("U V^T of torch.linalg.svd")
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_the_classical_coefficients_converge_to_the_polar_factor(shape):
    x = matrix(*shape)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(newton_schulz(x, CUBIC, steps=80), u @ v, rtol=0, atol=1e-10)


@pytest.mark.oracle("invariance: a gradient times a constant")
def test_the_step_does_not_depend_on_the_gradients_scale():
    found = []
    for scale in (1e-3, 1e5):
        (w,) = layers((6, 4))
        optimizer = Muon([w], lr=0.1, ns_dtype=None)
        for t in range(10):
            torch.manual_seed(t)
            w.grad = scale * torch.randn_like(w)
            optimizer.step()
        found.append(w.detach())
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("invariance: rotations of rows and columns")
def test_rotating_the_weights_rotates_the_path():
    q = torch.linalg.qr(matrix(5, 5, seed=4)).Q
    (w,) = layers((5, 3))
    twin = Parameter(q @ w.detach())
    one, two = (Muon([p], lr=0.1, ns_dtype=None) for p in (w, twin))
    for t in range(20):
        torch.manual_seed(t)
        w.grad = torch.randn_like(w)
        twin.grad = q @ w.grad
        one.step()
        two.step()
    torch.testing.assert_close(twin.detach(), q @ w.detach(), rtol=1e-9, atol=1e-10)


def test_momentum_is_orthogonalized_and_not_the_gradient():
    """Erratum: after a turn of the gradient, the step still has the old direction."""
    w = Parameter(torch.zeros(2, 2, dtype=torch.float64))
    optimizer = Muon([w], lr=1.0, weight_decay=0.0, ns_coefficients=CUBIC, ns_steps=60, ns_dtype=None)
    for sign in (1.0, 1.0, 1.0, -1.0):
        w.grad = sign * torch.eye(2, dtype=torch.float64)
        before = w.detach().clone()
        optimizer.step()
    torch.testing.assert_close(w.detach() - before, -torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-9)


def test_joined_projections_are_another_matrix_than_their_parts():
    """Pitfall: a fused QKV weight is one matrix."""
    q, k = matrix(4, 6), 100 * matrix(4, 6, seed=1)
    apart = torch.cat([newton_schulz(q, CUBIC, 60), newton_schulz(k, CUBIC, 60)])
    joined = newton_schulz(torch.cat([q, k]), CUBIC, 200)
    assert (joined - apart).norm() > 0.5
    shares = [joined[:4].norm() / joined.norm(), apart[:4].norm() / apart.norm()]
    assert shares[1].item() == pytest.approx(0.5**0.5, rel=1e-6)
    assert shares[0] < 0.65, "the larger projection takes directions from the smaller one"


def test_kernels_are_matrices_of_their_first_dimension_and_vectors_are_rows():
    (kernel,), (bias,) = layers((4, 3, 2, 2)), layers((5,))
    flat = Parameter(kernel.detach().reshape(4, 12).clone())
    options = dict(lr=0.1, weight_decay=0.0, ns_dtype=None)
    one, two = Muon([kernel, bias], flatten=True, **options), Muon([flat], **options)
    kernel.grad = torch.randn_like(kernel)
    flat.grad, bias.grad = kernel.grad.reshape(4, 12), torch.randn_like(bias)
    before = bias.detach().clone()
    one.step()
    two.step()
    torch.testing.assert_close(kernel.detach().reshape(4, 12), flat.detach(), rtol=1e-12, atol=1e-14)
    moved = before - bias.detach()
    scale = torch.linalg.vector_norm(moved) / bias.grad.norm()
    torch.testing.assert_close(moved, scale * bias.grad, rtol=1e-9, atol=1e-12)
    assert 0.06 < moved.norm() < 0.13


@pytest.mark.parametrize(("shape", "size"), [((12, 3), 2.0), ((3, 12), 1.0)])
def test_tall_matrices_move_further(shape, size):
    (w,) = layers(shape)
    before = w.detach().clone()
    w.grad = torch.randn_like(w)
    Muon([w], lr=0.1, weight_decay=0.0, ns_coefficients=CUBIC, ns_steps=60, ns_dtype=None).step()
    torch.testing.assert_close(torch.linalg.svdvals(w.detach() - before), torch.full((3,), 0.1 * size, dtype=torch.float64))


def test_matched_steps_have_a_root_mean_square_of_a_fifth():
    (w,) = layers((30, 50))
    before = w.detach().clone()
    w.grad = torch.randn_like(w)
    Muon([w], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw", ns_coefficients=CUBIC, ns_steps=60, ns_dtype=None).step()
    assert (w.detach() - before).square().mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=1e-6)


def test_a_zero_gradient_is_no_nan():
    w = Parameter(torch.ones(3, 2))
    w.grad = torch.zeros_like(w)
    Muon([w], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(w.data, torch.ones(3, 2))


def test_state_is_one_momentum():
    params = layers((5, 4))
    optimizer = Muon(params)
    take(optimizer, params, 0)
    assert numbers_per_weight(optimizer, params[0]) == 1


def test_defaults_are_torchs():
    ours, theirs = Muon(layers((2, 2))).defaults, torch.optim.Muon(layers((2, 2))).defaults
    assert {name: ours[name] for name in theirs} == theirs
    assert (ours["flatten"], ours["ns_dtype"]) == (False, torch.bfloat16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lr=-0.1), "lr=-0.1 is not 0 or more"),
        (dict(momentum=1.0), r"momentum=1.0 is not in \[0, 1\)"),
        (dict(ns_steps=100), "ns_steps=100 is not from 0 to 99"),
        (dict(ns_steps=-1), "ns_steps=-1 is not from 0 to 99"),
        (dict(ns_coefficients=(1.5, -0.5)), r"ns_coefficients=\(1.5, -0.5\) are not 3 numbers"),
        (dict(adjust_lr_fn="rms"), "adjust_lr_fn='rms' is not None, 'original' or 'match_rms_adamw'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Muon(layers((2, 2)), **options)


def test_what_is_no_matrix_is_refused_before_training():
    for bad in (Parameter(torch.zeros(3)), Parameter(torch.zeros(2, 2, 3)), Parameter(torch.zeros(2, 2, dtype=torch.complex64))):
        with pytest.raises(ValueError, match="is no real matrix; give it to AdamW"):
            Muon([bad])
    optimizer = Muon(layers((2, 2)))
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        optimizer.add_param_group({"params": [Parameter(torch.zeros(3))]})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match=r"x has shape \(3,\); expected \(rows, columns\)"):
        newton_schulz(torch.zeros(3))


def test_without_momentum_and_rounds_it_is_normalized_gradient_descent():
    (w,) = layers((4, 4))
    optimizer, x = Muon([w], lr=0.1, momentum=0.0, ns_steps=0, weight_decay=0.0, ns_dtype=None), w.detach().clone()
    for _ in range(5):
        w.grad = torch.randn(4, 4, dtype=torch.float64)
        x -= 0.1 * w.grad / w.grad.norm()
        optimizer.step()
    torch.testing.assert_close(w.detach(), x)


def test_by_default_five_rounds_that_do_not_see_the_size_of_a_gradient_down_to_1e_7():
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(newton_schulz(x), newton_schulz(x, steps=5), rtol=0, atol=0)
    torch.testing.assert_close(newton_schulz(1e-6 * x / x.norm()), newton_schulz(x))
    assert newton_schulz(1e-11 * x / x.norm()).norm() < 0.1 * newton_schulz(x).norm(), "far below it the step fades with the gradient"


@pytest.mark.parametrize("shape", [(5, 3), (3, 7)])
def test_numpy_variant_agrees(agree, shape):
    (w,) = layers(shape)
    start, state, gradients = w.detach().numpy().copy(), {}, torch.randn(60, *shape, dtype=torch.float64)
    optimizer = Muon([w], lr=0.03, ns_dtype=None)
    for g in gradients:
        w.grad = g.clone()
        optimizer.step()
    found = start
    for t, g in enumerate(gradients.numpy(), 1):
        found = muon_step(found, g, state, t, lr=0.03, weight_decay=0.1)
    agree(found, w)
    agree(newton_schulz_np(start, CUBIC, 7), newton_schulz(torch.from_numpy(start), CUBIC, 7))


@pytest.mark.interp
@pytest.mark.parametrize("foreach", [False, True])
def test_kernel_agrees(kernel_agrees, foreach):
    def run(backend):
        params = layers((5, 3), (3, 7), (4, 2, 2))
        optimizer = Muon(params, lr=0.03, flatten=True, ns_dtype=None, foreach=foreach, backend=backend)
        for t in range(2):
            take(optimizer, params, t)
        return params

    kernel_agrees("newton_schulz", run)


def test_a_kernel_that_cannot_run_says_why():
    params = layers((3, 2))
    with pytest.raises(RuntimeError, match="newton_schulz cannot run with backend='triton'"):
        take(Muon(params, backend="triton"), params, 0)
    with pytest.raises(ValueError, match="backend is 'cuda'"):
        newton_schulz(torch.zeros(3, 2), backend="cuda")
