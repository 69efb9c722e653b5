import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.state_space.mamba import selective_scan as numpy_scan
from vocab.state_space.mamba import Mamba, MambaState, selective_scan


def example():
    """For the contract suite: a small instance and its inputs."""
    return Mamba(4, d_state=3, d_conv=3).double(), (torch.randn(2, 5, 4).double(),)


def scan_inputs(batch=2, inner=3, time=7, d_state=4):
    u, z = torch.randn(2, batch, inner, time).double()
    dt, A = torch.rand(batch, inner, time).double(), -torch.rand(inner, d_state).double() - 0.1
    B, C = torch.randn(2, batch, d_state, time).double()
    return u, dt, A, B, C, torch.randn(inner).double(), z


def one_number_at_a_time(u, dt, A, B, C, D, z):
    rows = []
    for b in range(len(u)):
        for e in range(u.shape[1]):
            h, y = [torch.zeros_like(A[0, 0])] * A.shape[1], []
            for t in range(u.shape[2]):
                h = [torch.exp(dt[b, e, t] * A[e, n]) * h[n] + dt[b, e, t] * B[b, n, t] * u[b, e, t] for n in range(len(h))]
                out = sum(C[b, n, t] * h[n] for n in range(len(h))) + D[e] * u[b, e, t]
                y.append(out * z[b, e, t] / (1 + torch.exp(-z[b, e, t])))
            rows.append(torch.stack(y))
    return torch.stack(rows).view_as(u)


def as_one_matrix(u, dt, A, B, C):
    """The same map unrolled: token s reaches token t through C_t exp(A (dt_{s+1} + ... + dt_t)) dt_s B_s."""
    total = dt.cumsum(-1)
    time = u.shape[-1]
    decay = torch.einsum("bets,en->betsn", total[..., :, None] - total[..., None, :], A).exp()
    weight = torch.einsum("bnt,betsn,bes,bns->bets", C, decay, dt, B)
    return torch.einsum("bets,bes->bet", weight * torch.ones(time, time).tril(), u)


@pytest.mark.oracle("the recurrence one number at a time, with all gradients")
def test_scan_and_all_its_gradients_equal_the_recurrence_one_number_at_a_time():
    inputs = [x.requires_grad_() for x in scan_inputs()]
    ours, theirs = selective_scan(*inputs), one_number_at_a_time(*inputs)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs, weight), torch.autograd.grad(theirs, inputs, weight))


@pytest.mark.oracle("the unrolled lower triangular matrix")
def test_scan_is_multiplication_by_a_lower_triangular_matrix():
    u, dt, A, B, C, _, _ = scan_inputs()
    torch.testing.assert_close(selective_scan(u, dt, A, B, C), as_one_matrix(u, dt, A, B, C))


@pytest.mark.oracle("time-invariant convolution")
def test_constant_dt_b_and_c_give_a_time_invariant_convolution():
    u, dt, A, B, C, _, _ = scan_inputs(time=9)
    dt, B, C = (x[..., :1].expand(-1, -1, 9) for x in (dt, B, C))
    lags = torch.arange(9.0, dtype=torch.float64)
    decay = (dt[..., :1, None] * A[..., None] * lags).exp()
    kernel = torch.einsum("bn,benl,be,bn->bel", C[..., 0], decay, dt[..., 0], B[..., 0])
    spectrum = torch.fft.rfft(kernel, 18) * torch.fft.rfft(u, 18)
    torch.testing.assert_close(selective_scan(u, dt, A, B, C), torch.fft.irfft(spectrum, 18)[..., :9])


@pytest.mark.oracle("the gate of theorem 1 (Gu and Dao 2023)")
def test_one_state_with_a_zero_order_hold_is_the_gate_of_a_recurrent_network():
    x, s = torch.randn(2, 1, 1, 12).double()
    dt, gate = F.softplus(s), s.sigmoid()
    A, C = -torch.ones(1, 1).double(), torch.ones(1, 1, 12).double()
    h, expected = 0, []
    for t in range(12):
        h = (1 - gate[..., t]) * h + gate[..., t] * x[..., t]
        expected.append(h)
    # The scan writes dt * B; a zero-order hold writes (1 - exp(-dt)) * B. Put the difference into B.
    held = -torch.expm1(-dt) / dt
    torch.testing.assert_close(selective_scan(x, dt, A, held, C), torch.stack(expected, -1))
    assert not torch.allclose(selective_scan(x, dt, A, C, C), torch.stack(expected, -1), rtol=0.1)


@pytest.mark.oracle("transformers.MambaMixer")
def test_layer_equals_transformers_with_copied_weights():
    pytest.importorskip("transformers")
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = MambaConfig(hidden_size=20, state_size=5, conv_kernel=4, expand=2)
    library, mamba = MambaMixer(config, layer_idx=0).eval(), Mamba(20, 5)
    weights = {name.replace("conv1d", "conv"): w for name, w in library.state_dict().items()}
    mamba.load_state_dict(weights)
    assert weights.keys() == mamba.state_dict().keys()
    x = torch.randn(2, 11, 20)
    with torch.no_grad():
        torch.testing.assert_close(mamba(x)[0], library(x), rtol=1e-4, atol=1e-6)


@pytest.mark.oracle("transformers.MambaModel: the size of mamba-130m")
def test_24_layers_of_width_768_have_the_parameters_of_mamba_130m():
    pytest.importorskip("transformers")
    from transformers import MambaConfig, MambaModel

    with torch.device("meta"):
        mixer = sum(p.numel() for p in Mamba(768).parameters())
        library = MambaModel(MambaConfig(hidden_size=768, num_hidden_layers=24, vocab_size=50280))
    ours = 24 * (mixer + 768) + 50280 * 768 + 768
    assert ours == sum(p.numel() for p in library.parameters()) == 129_135_360


def test_tokens_one_by_one_give_what_the_whole_sequence_gives():
    mamba, (x,) = example()
    whole, end = mamba(x)
    state, outputs = None, []
    for t in range(5):
        y, state = mamba.step(x[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), whole)
    torch.testing.assert_close(state, end)


@pytest.mark.parametrize("d_conv", [1, 2, 4, 7])
def test_a_sequence_in_two_pieces_gives_what_the_whole_gives(d_conv):
    mamba, x = Mamba(4, 3, d_conv).double(), torch.randn(2, 6, 4).double()
    whole, end = mamba(x)
    for cut in range(1, 6):
        first, state = mamba(x[:, :cut])
        second, last = mamba(x[:, cut:], state)
        torch.testing.assert_close(torch.cat([first, second], 1), whole)
        torch.testing.assert_close(last, end)


def test_forgetting_the_convolution_state_changes_the_next_tokens():
    mamba, (x,) = example()
    whole, _ = mamba(x)
    _, state = mamba(x[:, :3])
    partial = MambaState(torch.zeros_like(state.conv), state.ssm)
    wrong = mamba(x[:, 3:], partial)[0]
    assert not torch.allclose(wrong[:, :2], whole[:, 3:], rtol=1e-3)


def test_state_is_of_one_size_however_long_the_sequence():
    mamba = Mamba(4, d_state=3, d_conv=5)
    for time in (1, 2, 40):
        _, state = mamba(torch.randn(1, time, 4))
        assert sum(part.numel() for part in state) == 8 * (3 + 5 - 1)


def test_causal_and_every_earlier_token_counts():
    mamba, x = Mamba(4, 3).double(), torch.randn(1, 7, 4).double()
    jacobian = torch.autograd.functional.jacobian(lambda v: mamba(v)[0][0].sum(-1), x)[:, 0].abs().sum(-1)
    assert torch.equal(jacobian > 0, torch.ones(7, 7, dtype=torch.bool).tril())


def test_a_step_of_zero_leaves_the_state_as_it_was():
    u, dt, A, B, C, _, _ = scan_inputs()
    padded = dt.clone()
    padded[..., 4:] = 0
    _, short = selective_scan(u[..., :4], dt[..., :4], A, B[..., :4], C[..., :4], return_state=True)
    y, long = selective_scan(u, padded, A, B, C, return_state=True)
    torch.testing.assert_close(long, short, rtol=0, atol=0)
    torch.testing.assert_close(y[..., 4:], torch.einsum("ben,bnt->bet", short, C[..., 4:]))


def test_it_is_neither_linear_nor_time_invariant():
    """A widely copied summary calls it a linear state space model, with S4's paper. S4's convolution cannot compute it."""
    mamba, x = Mamba(4, 3).double(), torch.randn(1, 12, 4).double()
    y = mamba(x)[0]
    assert not torch.allclose(mamba(2 * x)[0], 2 * y, rtol=1e-2)
    u, dt, A, B, C, _, _ = scan_inputs(time=6)
    late = selective_scan(u.roll(1, -1) * (torch.arange(6) > 0), dt, A, B, C)
    assert not torch.allclose(late[..., 1:], selective_scan(u, dt, A, B, C)[..., :-1], rtol=1e-2)
    torch.testing.assert_close(selective_scan(2 * u, dt, A, B, C), 2 * selective_scan(u, dt, A, B, C))


def test_the_scan_computes_in_32_bits_where_16_would_never_forget():
    decay = torch.tensor(-1e-3).exp()
    assert decay < 1 and decay.bfloat16() == 1
    one = torch.ones(1, 1, 1000, dtype=torch.bfloat16)
    u, dt = torch.zeros_like(one), one * 1e-3
    u[..., 0] = 1000
    y, state = selective_scan(u, dt, -one[0, :, :1], one, one, return_state=True)
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32
    torch.testing.assert_close(state.item(), math.exp(-999 * dt[0, 0, 0].item()), rtol=3e-3, atol=0)
    _, state = Mamba(4).bfloat16()(torch.randn(1, 3, 4).bfloat16())
    assert state.conv.dtype == torch.bfloat16 and state.ssm.dtype == torch.float32


def test_layer_starts_as_the_paper_says():
    mamba = Mamba(512)
    assert mamba.dt_proj.in_features == 32 and Mamba(40).dt_proj.in_features == 3
    assert torch.equal(mamba.D, torch.ones(1024))
    torch.testing.assert_close(-mamba.A_log.exp(), -torch.arange(1.0, 17).expand(1024, 16))
    dt = F.softplus(mamba.dt_proj.bias)
    assert 0.999e-3 < dt.min() < 1.1e-3 and 0.09 < dt.max() < 0.1001
    assert 0.009 < dt.median() < 0.0115, "evenly spread on a logarithmic scale"
    assert 0.99 * 32**-0.5 < mamba.dt_proj.weight.max() <= 32**-0.5
    assert -(32**-0.5) <= mamba.dt_proj.weight.min() < -0.99 * 32**-0.5


def test_defaults_are_those_of_the_paper():
    mamba = Mamba(32)
    assert mamba.A_log.shape == (64, 16) and mamba.conv.kernel_size == (4,) and mamba.conv.bias is not None
    assert mamba.in_proj.bias is None and mamba.out_proj.bias is None and mamba.x_proj.bias is None
    wide = Mamba(32, d_state=5, d_conv=2, expand=3, dt_rank=7)
    assert wide.A_log.shape == (96, 5) and wide.conv.weight.shape == (96, 1, 2) and wide.dt_proj.in_features == 7


def test_numpy_variant_agrees(agree):
    u, dt, A, B, C, _, _ = scan_inputs(batch=1)
    arrays = [x[0].T.numpy() for x in (u, dt)], [x[0].T.numpy() for x in (B, C)]
    y, states = numpy_scan(*arrays[0], A.numpy(), *arrays[1])
    ours, state = selective_scan(u, dt, A, B, C, return_state=True)
    agree(y.T, ours[0])
    agree(states[-1], state[0])


@pytest.mark.interp
@pytest.mark.parametrize("given", [5, 6, 7])
@pytest.mark.parametrize("started", [False, True])
def test_kernel_agrees(kernel_agrees, given, started):
    inputs = [x.requires_grad_() for x in scan_inputs()[:given]]
    start = torch.randn(2, 3, 4).double().requires_grad_() if started else None
    wanted = [*inputs, *([start] if started else [])]
    kernel_agrees("selective_scan", lambda b: selective_scan(*inputs, state=start, return_state=True, backend=b), wanted, atol=1e-13)
    kernel_agrees("selective_scan", lambda b: selective_scan(*inputs, state=start, backend=b)[0], wanted, atol=1e-13)


@pytest.mark.interp
def test_layer_with_the_kernel_and_its_gradients_agree(kernel_agrees):
    mamba, (x,) = example()
    assert mamba.backend == "auto"
    kernel_agrees("selective_scan", lambda _: mamba(x), tuple(mamba.parameters()), module=mamba, rtol=1e-11, atol=1e-13)


def test_numpy_variant_with_a_hold_integrates_the_input_over_each_step():
    u, dt, A, B, C, _, _ = scan_inputs(batch=1, inner=1, d_state=1)
    y, _ = numpy_scan(u[0].T.numpy(), dt[0].T.numpy(), A.numpy(), B[0].T.numpy(), C[0].T.numpy(), hold=True)
    held = B * (dt * A).expm1() / (dt * A)
    np.testing.assert_allclose(y.T, selective_scan(u, dt, A, held, C)[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(d_model=0), "d_model=0 is not"),
        (dict(d_model=4, d_state=0), "d_state=0 is not a whole number above 0"),
        (dict(d_model=4, d_conv=0), "d_conv=0 is not"),
        (dict(d_model=4, expand=0), "expand=0 is not"),
        (dict(d_model=4, expand=1.5), "expand=1.5 is not a whole number"),
        (dict(d_model=4, dt_rank="full"), "dt_rank='full' is not a whole number"),
    ],
)
def test_bad_sizes_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mamba(**arguments)


def test_sizes_of_one_are_enough():
    mamba = Mamba(1, d_state=1, d_conv=1, expand=1, dt_rank=1)
    assert mamba(torch.randn(1, 3, 1))[0].isfinite().all()


def test_wrong_shapes_name_the_expected_ones():
    mamba, (x,) = example()
    with pytest.raises(ValueError, match=r"x has shape \(5, 4\); expected \(batch, time, d_model=4\)"):
        mamba(x[0])
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 4\); expected \(batch, d_model=4\)"):
        mamba.step(x)
    _, (conv, ssm) = mamba(x)
    with pytest.raises(ValueError, match=r"state\[0\] has shape \(2, 8, 1\); expected \(batch=2, d_inner=8, past=2\)"):
        mamba(x, (conv[..., 1:], ssm))
    with pytest.raises(ValueError, match=r"state\[1\] has shape \(1, 8, 3\); expected \(batch=2, d_inner=8, d_state=3\)"):
        mamba(x, (conv, ssm[:1]))


@pytest.mark.parametrize("name", ["u", "dt", "A", "B", "C", "D", "z", "state"])
def test_each_argument_of_the_scan_is_checked(name):
    inputs = dict(zip(["u", "dt", "A", "B", "C", "D", "z"], scan_inputs()), state=torch.zeros(2, 3, 4).double())
    assert selective_scan(**inputs).isfinite().all()
    smaller = {"u": inputs["u"][0], "A": inputs["A"][1:]}.get(name, inputs[name][..., :-1])
    with pytest.raises(ValueError, match=rf"^{name} has shape .*; expected"):
        selective_scan(**{**inputs, name: smaller})
    with pytest.raises(TypeError, match=rf"^{name} has dtype"):
        selective_scan(**{**inputs, name: inputs[name].long()})


def test_a_start_state_decays_and_is_read():
    u, dt, A, B, C, _, _ = scan_inputs(time=3)
    start = torch.randn(2, 3, 4).double()
    without, withal = selective_scan(u, dt, A, B, C), selective_scan(u, dt, A, B, C, state=start)
    decayed = start[..., None] * torch.einsum("bet,en->bent", dt.cumsum(-1), A).exp()
    torch.testing.assert_close(withal - without, torch.einsum("bent,bnt->bet", decayed, C))
