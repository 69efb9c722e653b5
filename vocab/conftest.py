"""What every entry's tests share, and the agreement records that the site shows."""

from __future__ import annotations

import datetime
import json
import platform
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from vocab.entries import entries

torch.set_num_threads(1)  # the tensors are tiny, and tests run side by side


def pytest_addoption(parser):
    parser.addoption("--complete", action="store_true", help="fail if anything was skipped except for want of a GPU")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def agree(record_property):
    """``agree(ours, reference, rtol=1e-6)``: equal numbers, and the largest difference goes on the entry's page.

    The difference is relative to the largest number of the reference. ``of`` says which pair was compared:
    ``"numpy"`` (the browser's variant with the module) or ``"triton"`` (the kernel with the module).
    """

    def compare(ours, reference, *, rtol=1e-6, atol=0.0, of="numpy"):
        ours, reference = (np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x, float) for x in (ours, reference))
        np.testing.assert_allclose(ours, reference, rtol=rtol, atol=atol)
        finite = np.isfinite(reference)
        scale = np.abs(reference[finite]).max(initial=0.0) or 1.0
        record_property(of, float(np.abs(ours[finite] - reference[finite]).max(initial=0.0) / scale))

    return compare


@pytest.fixture
def kernel_agrees(agree):
    """``kernel_agrees(operation, run, wanted)``: the interpreted kernel and plain torch give the same, and the same gradients of ``wanted``.

    ``run(backend)`` returns tensors, in tuples if need be; ``module.backend`` is set before, if a module is given. Results with a gradient
    are weighed unevenly, from -1 to 1. Every call of the operation must have taken the path that was asked for. Returns the results with
    the kernel.
    """
    pytest.importorskip("triton")
    from vocab.kernels.dispatch import watch
    from vocab.kernels.interpret import interpreting

    def compare(operation, run, wanted=(), *, module=None, rtol=1e-12, atol=0.0):
        found = {}
        for backend in ("triton", "torch"):
            if module is not None:
                module.backend = backend
            with interpreting(), watch() as seen:
                outputs = [x for x in tree_leaves(run(backend)) if isinstance(x, torch.Tensor)]
                floats = [y for y in outputs if y.requires_grad] if wanted else []
                weights = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape) for y in floats]
                gradients = torch.autograd.grad(floats, wanted, weights) if wanted else ()
            assert {path for path in seen if path.startswith(f"{operation}:")} == {f"{operation}:{backend}"}
            found[backend] = *outputs, *gradients
        for ours, plain in zip(found["triton"], found["torch"], strict=True):
            agree(ours, plain, of="triton", rtol=rtol, atol=atol)
        return found["triton"]

    return compare


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    report = (yield).get_result()
    if report.when == "call":
        report.user_properties += [("oracle", mark.args[0]) for mark in item.iter_markers("oracle")]
        report.user_properties += [("gpu", True) for _ in item.iter_markers("gpu")]


def pytest_configure(config):
    if not hasattr(config, "workerinput"):  # the process that hears of every test, also under xdist
        config.pluginmanager.register(_Records(config), "agreement-records")


class _Records:
    """Writes ``vocab/agreement/<family>/<entry>.json`` where an entry's sources changed and all of its tests pass."""

    def __init__(self, config):
        self.config, self.reports, self.skipped = config, defaultdict(list), []

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.reports[report.nodeid.split("::")[0]].append(report)
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            if "needs CUDA" not in reason:
                self.skipped.append(f"{report.nodeid}: {reason}")

    def pytest_sessionfinish(self, session, exitstatus):
        if self.config.getoption("--complete") and self.skipped and exitstatus == 0:
            session.exitstatus = 1
        option = self.config.option
        partial = option.keyword or option.markexpr or any("::" in a for a in self.config.args)
        # A run that must leave no trace (-p no:cacheprovider) leaves no record either.
        if partial or not self.config.pluginmanager.hasplugin("cacheprovider"):
            return
        for entry in entries():
            reports = self.reports.get(entry.test.relative_to(entry.root).as_posix(), [])
            if reports and not any(r.failed for r in reports):
                self._write(entry, reports)

    def pytest_terminal_summary(self, terminalreporter):
        if self.config.getoption("--complete") and self.skipped:
            terminalreporter.section("skipped, so this run is not complete")
            for line in self.skipped:
                terminalreporter.line(line)

    def _write(self, entry, reports):
        passed = [r for r in reports if r.passed]
        found = defaultdict(list)
        for report in passed:
            for key, value in report.user_properties:
                found[key].append(value)
        old = json.loads(entry.record.read_text(encoding="utf-8")) if entry.record.exists() else {}
        new = {
            "sources": entry.sources(),
            "tests": len(passed),
            "oracles": sorted(set(found["oracle"])),
            "numpy": max(found["numpy"], default=None),
            "triton": max(found["triton"], default=None),
        }
        if torch.cuda.is_available():
            new["gpu"] = {"device": torch.cuda.get_device_name(), "tests": len(found["gpu"])}
        elif old.get("sources") == new["sources"] and "gpu" in old:
            new["gpu"] = old["gpu"]
        # Tests skipped on a smaller machine must not wipe what a complete run recorded.
        if old.get("sources") == new["sources"] and old.get("tests", 0) >= new["tests"] and old.get("gpu") == new.get("gpu"):
            return
        new["versions"] = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
        if new["triton"] is not None:
            import triton

            new["versions"]["triton"] = triton.__version__
        new["date"] = datetime.date.today().isoformat()
        entry.record.parent.mkdir(parents=True, exist_ok=True)
        entry.record.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")
