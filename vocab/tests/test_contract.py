"""What must hold for every entry, whatever it computes.

Each test file of an entry has ``example()``, which returns

- ``(callable, inputs)`` for modules, models, functions and losses: float64, tiny;
- ``(build, ())`` for optimizers, where ``build(params)`` makes one, and for schedulers, where ``build(optimizer)`` does.

Kinds ``technique`` and ``concept`` may have none.
"""

import ast
import copy
import doctest
import importlib
import inspect
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from vocab.entries import entries
from vocab.optimize import Descent
from vocab.tests.exceptions import EXCEPTIONS

CALLABLE = ("module", "model", "function", "loss")
OPTIONAL = ("technique", "concept")
WITH_MODULE = [e for e in entries() if e.module.exists()]


def params(check, kinds, where, among):
    found = []
    for entry in among:
        if entry.kind in kinds or (entry.kind in OPTIONAL and kinds is CALLABLE and hasattr(module_of_tests(entry), "example")):
            if where and not where(example(entry)[0]):
                continue
            reason = EXCEPTIONS.get((entry.name, check))
            found.append(pytest.param(entry, id=entry.name, marks=[pytest.mark.xfail(reason=reason)] if reason else []))
    return found


def has_parameters(function):
    return isinstance(function, nn.Module) and any(p.requires_grad for p in function.parameters())


def module_of_tests(entry):
    family, name = entry.python.split(".")
    return importlib.import_module(f"vocab.{family}.tests.test_{name}")


def example(entry, seed=0):
    torch.manual_seed(seed)
    return module_of_tests(entry).example()


def floats(result):
    """The floating-point tensors of a result: a tensor, tuple or dictionary."""
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()]


def call(function, inputs):
    torch.manual_seed(1)  # for what is random inside
    return function(*inputs)


def contract(kinds, where=None):
    """A check of the entries of these kinds, or of those among them whose ``example()`` is ``where`` it can be asked for."""
    def mark(test):
        test.contract = (kinds, where)
        return test

    return mark


def pytest_generate_tests(metafunc):
    if hasattr(metafunc.function, "contract"):
        check = metafunc.function.__name__.removeprefix("test_")
        metafunc.parametrize("entry", params(check, *metafunc.function.contract, asked_for(metafunc.config.option.keyword)))


def asked_for(keyword):
    """All entries, or where ``-k`` only names some, those: to ask whether a check is for an entry, it has to be imported."""
    words = [word for word in keyword.split() if word != "or"]
    if not words or not all("/" in word for word in words):
        return WITH_MODULE
    return [entry for entry in WITH_MODULE if any(word in entry.name for word in words)]


def test_exceptions_name_entries_and_checks():
    names = {e.name for e in WITH_MODULE}
    for entry, check in EXCEPTIONS:
        assert entry in names and f"test_{check}" in globals()


def test_libraries_that_may_be_missing_are_imported_where_they_are_used():
    """With torch, numpy and pytest alone every test file can be read; what needs more skips and says so."""
    always = {"torch", "numpy", "pytest", "vocab", "snippets", "benchmarks", *sys.stdlib_module_names}
    for file in Path(__file__).parents[1].rglob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            modules = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert {name.split(".")[0] for name in modules} <= always, f"{file.name}, line {node.lineno}"


@contract((*CALLABLE, "optimizer", "scheduler", *OPTIONAL))
def test_documented(entry):
    tree = ast.parse(entry.module.read_text(encoding="utf-8"))
    assert "Source:" in ast.get_docstring(tree), "the module's docstring names its source (paper, equation)"
    module = importlib.import_module(f"vocab.{entry.python}")
    for name in module.__all__:
        thing = getattr(module, name)
        doc = inspect.getdoc(thing) or ""
        assert len(doc.splitlines()[0]) > 15, f"{name}: the first line says what it computes"
        taken = [p for p in inspect.signature(thing).parameters if p not in ("args", "kwargs")]
        for p in taken:
            assert f"{p}:" in doc or f"{p} " in doc or f"``{p}``" in doc, f"{name}: the docstring does not explain {p}"


@contract((*CALLABLE, "optimizer", "scheduler", *OPTIONAL))
def test_examples_of_the_docstrings_run(entry):
    found = doctest.testmod(importlib.import_module(f"vocab.{entry.python}"))
    assert found.attempted and not found.failed


@contract(CALLABLE)
def test_deterministic_under_a_seed_and_inputs_untouched(entry):
    function, inputs = example(entry)
    kept = copy.deepcopy(inputs)
    first = floats(call(function, inputs))
    torch.testing.assert_close(inputs, kept, rtol=0, atol=0)
    function, inputs = example(entry)
    torch.testing.assert_close(floats(call(function, inputs)), first, rtol=0, atol=0, equal_nan=True)
    assert first, "the result has no floating-point tensor"


@contract(CALLABLE)
def test_gradcheck(entry):
    function, inputs = example(entry)
    inputs = [x.requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs]
    if any(isinstance(x, torch.Tensor) and x.requires_grad for x in inputs) or not isinstance(function, nn.Module):
        torch.autograd.gradcheck(lambda *x: tuple(y for y in floats(call(function, x)) if y.requires_grad), inputs, fast_mode=True)
    else:  # a model of token numbers: differentiable in its parameters only
        names, values = zip(*function.named_parameters())
        model = lambda *w: tuple(floats(call(lambda *x: torch.func.functional_call(function, dict(zip(names, w)), x), inputs)))  # noqa: E731
        torch.autograd.gradcheck(model, values, fast_mode=True)


@contract(CALLABLE, where=has_parameters)
def test_every_parameter_gets_a_gradient(entry):
    function, inputs = example(entry)
    sum((y * torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).view_as(y)).sum() for y in floats(call(function, inputs))).backward()
    for name, parameter in function.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@contract(CALLABLE)
def test_compiles_without_graph_breaks(entry):
    function, inputs = example(entry)
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    torch.testing.assert_close(floats(call(compiled, inputs)), floats(call(function, inputs)), equal_nan=True)


@contract(CALLABLE, where=has_parameters)
def test_state_dict_round_trip(entry):
    function, inputs = example(entry)
    other, _ = example(entry, seed=7)
    other.load_state_dict(copy.deepcopy(function.state_dict()))
    torch.testing.assert_close(floats(call(other, inputs)), floats(call(function, inputs)), rtol=0, atol=0)


@contract(CALLABLE)
def test_nan_in_no_silent_number_out(entry):
    function, inputs = example(entry)
    for i, x in enumerate(inputs):
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            poisoned = [y.clone() if isinstance(y, torch.Tensor) else y for y in inputs]
            poisoned[i].view(-1)[0] = torch.nan
            try:
                result = call(function, poisoned)
            except ValueError:
                continue
            assert any(y.isnan().any() for y in floats(result)), f"input {i} has a NaN, the result has none"


@contract(CALLABLE)
def test_wrong_kinds_of_input_are_named(entry):
    function, inputs = example(entry)
    names = list(inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters)
    for i, (name, x) in enumerate(zip(names, inputs)):
        if isinstance(x, torch.Tensor):
            wrong = x.long() if x.is_floating_point() else x.double()
            for bad in (x.tolist(), wrong):
                with pytest.raises(TypeError, match=rf"\b{name}\b"):
                    function(*inputs[:i], bad, *inputs[i + 1:])


@pytest.mark.gpu
@contract(CALLABLE)
def test_gpu_agrees_with_cpu(entry):
    function, inputs = example(entry)
    expected = floats(call(function, inputs))
    on_gpu = function.cuda() if isinstance(function, nn.Module) else function
    moved = [x.cuda() if isinstance(x, torch.Tensor) else x for x in inputs]
    torch.testing.assert_close([y.cpu() for y in floats(call(on_gpu, moved))], expected, rtol=1e-9, atol=1e-12)


# Optimizers and schedulers: `build` instead of a function


def quadratic(seed=0):
    torch.manual_seed(seed)
    weights = [nn.Parameter(torch.randn(3, 2, dtype=torch.float64)), nn.Parameter(torch.randn(4, dtype=torch.float64))]
    unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    return weights, unused


def train(optimizer, weights, steps, scheduler=None, start=0):
    for step in range(start, start + steps):
        optimizer.zero_grad()
        sum((w * (1 + step % 3) - 0.3).square().sum() for w in weights).backward()
        optimizer.step()
        if scheduler:
            scheduler.step()


@contract(("optimizer",))
def test_optimizer_resumes_where_it_stopped(entry):
    build, _ = example(entry)
    (weights, unused), (others, other_unused) = quadratic(), quadratic()
    whole = build([*weights, unused])
    train(whole, weights, 10)
    first = build([*others, other_unused])
    train(first, others, 5)
    second = build([*others, other_unused])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(second, others, 5, start=5)
    torch.testing.assert_close(others, weights, rtol=0, atol=0)
    assert torch.equal(unused, torch.ones(2, dtype=torch.float64)), "a parameter without a gradient must stay as it is"


@contract(("optimizer",))
def test_optimizer_rejects_what_cannot_be(entry):
    build, _ = example(entry)
    weights, _ = quadratic()
    with pytest.raises(ValueError, match="empty"):
        build([])
    optimizer = build(weights)
    with pytest.raises(ValueError, match="lr"):
        type(optimizer)(weights, lr=-1.0)


def is_descent(build):
    return isinstance(build([nn.Parameter(torch.zeros(2, 2))]), Descent)


def takes_no_sparse(build):
    return is_descent(build) and not build([nn.Parameter(torch.zeros(2, 2))]).takes_sparse


def walk(optimizer, weights, steps=8):
    """Steps with gradients that depend on the weights; the second weight now and then has none."""
    for step in range(steps):
        for i, w in enumerate(weights):
            w.grad = None if i == 1 and step % 3 == 1 else w.detach() * (1 + step % 3) - 0.3
        optimizer.step()
    return [w.detach().clone() for w in weights]


def settings(build, weights, **options):
    """The optimizer of ``build`` with other options."""
    optimizer = build(weights)
    for group in optimizer.param_groups:
        assert options.keys() <= group.keys()
        group.update(options)
    return optimizer


@contract(("optimizer",), where=is_descent)
def test_optimizer_moves_many_tensors_at_once_as_one_by_one(entry):
    build, _ = example(entry)
    paths = []
    for foreach in (False, True):
        weights, unused = quadratic()
        paths.append(walk(settings(build, [*weights, unused], foreach=foreach), weights))
    torch.testing.assert_close(paths[1], paths[0], rtol=1e-12, atol=1e-14)


@contract(("optimizer",), where=is_descent)
def test_optimizer_climbs_where_it_would_descend_the_negative(entry):
    build, _ = example(entry)
    (weights, _), (others, _) = quadratic(), quadratic()
    up, down = settings(build, weights, maximize=True), build(others)
    for step in range(5):
        for w, o in zip(weights, others):
            w.grad, o.grad = -o.detach() * (1 + step), o.detach() * (1 + step)
        up.step()
        down.step()
    torch.testing.assert_close(weights, others, rtol=0, atol=0)


@contract(("optimizer",), where=is_descent)
def test_optimizer_treats_a_complex_number_as_two_real_ones(entry):
    build, _ = example(entry)
    pairs = torch.randn(3, 2, 2, dtype=torch.float64)
    real, complex_ = nn.Parameter(pairs.clone()), nn.Parameter(torch.view_as_complex(pairs.clone()))
    one, two = build([real]), build([complex_])
    for step in range(5):
        real.grad = real.detach() * (1 + step) - 0.3
        complex_.grad = torch.view_as_complex(real.grad.clone())
        one.step()
        two.step()
    torch.testing.assert_close(torch.view_as_real(complex_.detach()), real.detach(), rtol=1e-12, atol=1e-14)


@contract(("optimizer",), where=is_descent)
def test_optimizer_keeps_groups_apart_and_gradients_as_they_are(entry):
    build, _ = example(entry)
    (weights, _), (others, _) = quadratic(), quadratic()
    together = build(weights[:1])
    options = {k: v for k, v in together.param_groups[0].items() if k != "params"}
    together.add_param_group({**options, "params": weights[1:], "lr": options["lr"] / 2})
    walk(together, weights)
    for i, other in enumerate(others):
        alone = settings(build, [other], lr=options["lr"] / (1 + i))
        for step in range(8):
            other.grad = None if i == 1 and step % 3 == 1 else other.detach() * (1 + step % 3) - 0.3
            kept = None if other.grad is None else other.grad.clone()
            alone.step()
            assert kept is None or torch.equal(other.grad, kept), "the gradient was changed"
    torch.testing.assert_close(weights, others, rtol=1e-12, atol=1e-14)


@contract(("optimizer",), where=is_descent)
def test_optimizer_takes_a_closure(entry):
    build, _ = example(entry)
    (weights, _), (others, _) = quadratic(), quadratic()
    one, two = build(weights), build(others)

    def closure():
        one.zero_grad()
        loss = sum((w * 1.5 - 0.3).square().sum() for w in weights)
        loss.backward()
        return loss

    for _ in range(3):
        two.zero_grad()
        expected = sum((w * 1.5 - 0.3).square().sum() for w in others)
        expected.backward()
        two.step()
        assert one.step(closure).item() == expected.item()
    torch.testing.assert_close(weights, others, rtol=0, atol=0)


@contract(("optimizer",), where=takes_no_sparse)
def test_optimizer_refuses_sparse_gradients_before_it_moves(entry):
    build, _ = example(entry)
    weights, _ = quadratic()
    optimizer, kept = build(weights), [w.detach().clone() for w in weights]
    weights[0].grad = torch.ones_like(weights[0])
    weights[1].grad = torch.ones_like(weights[1]).to_sparse()
    with pytest.raises(RuntimeError, match=f"{type(optimizer).__name__} takes no sparse gradients"):
        optimizer.step()
    torch.testing.assert_close([w.detach() for w in weights], kept, rtol=0, atol=0)


@contract(("scheduler",))
def test_scheduler_resumes_where_it_stopped(entry):
    build, _ = example(entry)

    def fresh():
        weights, _ = quadratic()
        optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
        return optimizer, build(optimizer), weights

    optimizer, scheduler, weights = fresh()
    expected = []
    for _ in range(8):
        train(optimizer, weights, 1, scheduler)
        expected.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
    one, first, weights = fresh()
    train(one, weights, 4, first)
    two, second, weights = fresh()
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    found = []
    for _ in range(4):
        train(two, weights, 1, second)
        found.append((two.param_groups[0]["lr"], two.param_groups[0]["momentum"]))
    assert found == expected[4:]
    assert len(set(expected)) > 1, "the schedule never moves"
