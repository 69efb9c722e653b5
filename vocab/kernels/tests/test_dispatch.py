import os
import subprocess
import sys

import pytest
import torch

from vocab.kernels import specs
from vocab.kernels.dispatch import triton, use_triton, watch
from vocab.kernels.interpret import interpreting

NAMES = sorted(specs())


def python(code, **environment):
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment})
    assert run.returncode == 0, run.stderr
    return run.stdout


def small(name):
    return specs()[name].inputs(specs()[name].tails[0], torch.float32, "cpu")


def test_the_folder_is_the_registry():
    assert {"rms_norm", "lif", "nearest_row"} <= set(NAMES)
    for name, spec in specs().items():
        assert spec.name == name and set(spec.targets) <= {"eager", "compile", *spec.baselines}
        assert any("small" in label for label in spec.shapes), "one size at which the kernel may lose"


def test_an_unknown_backend_is_named():
    with pytest.raises(ValueError, match="backend is 'cuda'; expected one of 'auto', 'torch', 'triton'"):
        use_triton("op", "cuda", torch.zeros(1))


@pytest.mark.parametrize("name", NAMES)
def test_auto_on_a_cpu_is_plain_torch_and_the_watcher_says_so(name):
    with watch() as outer, watch() as inner:
        specs()[name].run(*small(name))
    assert outer == inner == [f"{name}:torch"]
    with watch() as seen:
        pass
    specs()[name].run(*small(name))
    assert seen == []


@pytest.mark.interp
@pytest.mark.parametrize("name", NAMES)
def test_an_explicit_triton_runs_or_says_what_is_missing(name):
    if not triton.knobs.runtime.interpret:
        with pytest.raises(RuntimeError, match="needs a CUDA tensor, not one on cpu"):
            specs()[name].run(*small(name), backend="triton")
    with interpreting(), watch() as seen:
        specs()[name].run(*small(name), backend="triton")
        specs()[name].run(*small(name), backend="auto")
    assert seen == [f"{name}:triton", f"{name}:torch"]


def test_without_triton_everything_imports_and_says_so():
    said = python(
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from vocab.kernels import specs\n"
        "for name, spec in specs().items():\n"
        "    inputs = spec.inputs(spec.tails[1], torch.float32, 'cpu')\n"
        "    spec.run(*inputs, backend='torch'), spec.run(*inputs)\n"
        "    try:\n"
        "        spec.run(*inputs, backend='triton')\n"
        "    except RuntimeError as error:\n"
        "        print(name, error)\n"
    )
    for name in NAMES:
        assert f"{name} cannot run with backend='triton': Triton is not installed here; backend='torch' computes the same" in said


@pytest.mark.interp
def test_tritons_own_switch_gives_the_same_numbers_as_ours():
    code = (
        "import torch; torch.manual_seed(0); torch.set_num_threads(1)\n"
        "from vocab.kernels.rms_norm import rms_norm\n"
        "y = rms_norm(torch.randn(5, 300), torch.randn(300), torch.randn(5, 300), backend='triton')\n"
        "print(sum(v.double().abs().sum().item() for v in y).hex())\n"
    )
    from vocab.kernels.rms_norm import rms_norm

    torch.manual_seed(0)
    with interpreting():
        y = rms_norm(torch.randn(5, 300), torch.randn(300), torch.randn(5, 300), backend="triton")
    assert python(code, TRITON_INTERPRET="1").strip() == sum(v.double().abs().sum().item() for v in y).hex()


@pytest.mark.interp
def test_interpreting_puts_everything_back():
    import triton.language as tl

    from vocab.kernels import dispatch, rms_norm

    before = (rms_norm._forward_kernel, tl.sum, tl.arange, tl.core.tensor.__add__, dispatch.interpreted)
    with pytest.raises(KeyError), interpreting():
        specs()["rms_norm"].run(*small("rms_norm"), backend="triton")
        raise KeyError
    assert before == (rms_norm._forward_kernel, tl.sum, tl.arange, tl.core.tensor.__add__, dispatch.interpreted)
