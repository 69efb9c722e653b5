"""Triton kernels that entries share, each beside the plain torch that it must equal.

The files of this package are the registry: a file with a ``SPEC`` is an operation, and tests, compile gate, benchmark and
pages work through ``specs()``.
"""

from __future__ import annotations

import importlib
import pkgutil

__all__ = ["specs"]


def specs() -> dict[str, "vocab.kernels.spec.Spec"]:  # noqa: F821  imported lazily: it pulls in torch
    """Every operation by name."""
    modules = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__) if not m.ispkg]
    return {module.SPEC.name: module.SPEC for module in modules if hasattr(module, "SPEC")}
