"""Kernels broken on purpose, one mistake each: the comparison with plain torch must notice every one."""

import pytest
import torch

from vocab.kernels.interpret import interpreting
from vocab.kernels.tests.harness import SPECS, altered, assert_noticed, check, own


pytestmark = pytest.mark.interp
NAMES = sorted(SPECS)
MISTAKES = [(name, mistake) for name in NAMES for mistake in own(name).MUTANTS]


@pytest.mark.parametrize("name", NAMES)
def test_an_unaltered_copy_passes(name, monkeypatch, tmp_path):
    """Or the tests below would prove nothing."""
    copy = altered(name, "__all__", "__all__", tmp_path)
    with interpreting(copy):
        check(copy.SPEC, copy.SPEC.probe, torch.float32, monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_every_kernel_is_broken_in_some_way(name):
    assert own(name).MUTANTS


@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_a_mistake_is_noticed(name, mistake, monkeypatch, tmp_path):
    assert_noticed(name, *own(name).MUTANTS[mistake], monkeypatch, tmp_path)
