import pytest

from vocab.kernels.dispatch import triton


def pytest_collection_modifyitems(items):
    for item in items:
        if triton is None and any(item.get_closest_marker(m) for m in ("interp", "aot")):
            item.add_marker(pytest.mark.skip(reason="Triton is not installed"))
