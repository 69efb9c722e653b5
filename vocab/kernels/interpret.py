"""Runs the kernels without a GPU, in Triton's interpreter: slow, exact in float32 and float64, wrong in bfloat16.

    with interpreting():
        rms_norm(x, weight, backend="triton")

Triton decides between compiler and interpreter when a function is decorated, so ``TRITON_INTERPRET=1`` must be set before
the import and then nothing can be compiled in that process. This puts interpreted functions in the place of the compiled
ones instead, and afterwards puts everything back.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np

from vocab.kernels import dispatch
from vocab.kernels.dispatch import tl, triton

__all__ = ["interpreting"]


@contextmanager
def interpreting(*modules: ModuleType) -> Iterator[None]:
    """Within it, the kernels of ``vocab.kernels`` and of ``modules`` run interpreted, also on CPU tensors.

    Args:
        modules: Further modules whose jit functions to interpret.

    Raises:
        RuntimeError: If Triton is not installed.
    """
    if triton is None:
        raise RuntimeError("the interpreter is part of Triton, which is not installed here")
    # The interpreter asks for these on first use; they must be imported while Triton is whole.
    importlib.import_module("triton.experimental.gluon")
    from triton.runtime import interpreter
    from triton.runtime.interpreter import InterpretedFunction, _patch_lang
    from triton.runtime.jit import JITFunction

    ours = [m for name, m in list(sys.modules.items()) if name.startswith("vocab.kernels.") and m is not None]
    holders = [tl, tl.standard, *ours, *modules]
    # A device function that is called from a kernel leaves Triton's own namespaces patched.
    patched = [tl, tl.core, tl.math, tl.core.tensor, tl.core.dtype, tl.core.tensor_descriptor_base]
    before = [(space, dict(vars(space))) for space in {id(s): s for s in (*holders, *patched)}.values()]
    was_interpreted, its_call = dispatch.interpreted, InterpretedFunction.__call__
    its_tensor, its_splat = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_splat

    def call(self, *args, **kwargs):
        # Triton patches its language again at every call of a device function, tl.sum included: milliseconds for nothing.
        if tl.core.is_builtin(tl.load) or tl.core.is_builtin(tl.core.load):
            _patch_lang(self.fn)
        return self.rewrite()(*args, **kwargs)

    def tensor(cls, scope):
        its_tensor(cls, scope)
        # Triton 3.6 makes the bounds of a loop from arrays in a way that NumPy 2.4 refuses; 3.7 does it so.
        scope.set_attr(cls, "__index__", lambda self: self.handle.data.item())

    def splat(self, block, one):
        # Triton makes integers of a comparison of two numbers where it fills a block with it, and 3.9 takes those for no mask.
        return interpreter.TensorHandle(np.full(block.shape, one.data.flat[0]), one.dtype.scalar)

    try:
        dispatch.interpreted, InterpretedFunction.__call__ = True, call
        interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_splat = tensor, splat
        for holder in holders:
            for name, value in list(vars(holder).items()):
                if isinstance(value, JITFunction):
                    setattr(holder, name, InterpretedFunction(value.fn))
        yield
    finally:
        dispatch.interpreted, InterpretedFunction.__call__ = was_interpreted, its_call
        interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_splat = its_tensor, its_splat
        for space, names in before:
            for name, value in list(vars(space).items()):
                if name in names and names[name] is not value:
                    setattr(space, name, names[name])
                elif name not in names and space in patched:
                    delattr(space, name)
