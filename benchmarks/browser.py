"""Measures in headless Chromium: the compiled operations against NumPy, and the wait for a page's first result."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tools.environment import browser as browser_executable
from tools.site import SITE, ensure_site, server

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "browser.jsonl"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip

MEASURE = """
async ([folder, source]) => {
    const { loadPyodide, version } = await import(folder + "pyodide.mjs");
    const pyodide = await loadPyodide({ indexURL: folder, lockFileURL: folder + "lock.json", packages: ["numpy", "snippets"] });
    return { pyodide: version, ...JSON.parse(pyodide.runPython(source)) };
}
"""


def run(runtime: Path, results: Path = RESULTS) -> list[dict]:
    """Times every operation of snippets.ops against NumPy in one Pyodide, prints a table, appends it to ``results``.

    Args:
        runtime: The folder of the site's browser runtime: pyodide.mjs and its files, and the site's lock.json.
    """
    with served(runtime) as address, chromium() as browser:
        page = browser.new_context(bypass_csp=True).new_page()
        page.goto(address)  # any page of that origin will do
        found = page.evaluate(MEASURE, [address, (HERE / "browser_ops.py").read_text()])
        about = {"browser": f"{browser.browser_type.name} {browser.version}"}
    about |= {key: found[key] for key in ("pyodide", "numpy", "backend")}
    rows = [{"kind": "op", **row, **about} for row in found["rows"]]
    print(f"{about['browser']}, Pyodide {about['pyodide']}, NumPy {about['numpy']}, {about['backend']} kernels, float32\n")
    print(f"{'operation':12} {'shape':32} {'ours ms':>8} {'NumPy ms':>8} {'ratio':>6} {'to fastest':>10} {'to reach':>8}  NumPy's ways, ms")
    for row in rows:
        target = f"{row['target']} x" if row["target"] else ""
        ways = ", ".join(f"{way} {ms:.1f}" for way, ms in row["ways"].items())
        numbers = f"{row['ms']:8.3f} {row['numpy_ms']:8.2f} {row['ratio']:4.1f} x {row['ratio_to_fastest']:8.1f} x"
        print(f"{row['op']:12} {row['shape']:32} {numbers} {target:>8}  {ways}")
    _append(results, rows)
    return rows


def first_result(page_url: str, repeats: int = 3, results: Path = RESULTS) -> dict:
    """Seconds from the click on Run to the first result on a page, with nothing cached, and for the run after it."""
    first, second = [], []
    with chromium() as browser:
        for _ in range(repeats):
            context = browser.new_context()  # a new one has an empty cache
            page = context.new_page()
            page.goto(page_url, wait_until="networkidle")
            first.append(_click_to_done(page))
            second.append(_click_to_done(page))
            context.close()
        row = {"kind": "first result", "page": page_url.split("/", 3)[3], "browser": f"{browser.browser_type.name} {browser.version}",
               "first_s": statistics.median(first), "second_s": statistics.median(second)}  # fmt: skip
    print(f"{page_url}: first result after {row['first_s']:.2f} s, the next after {row['second_s']:.3f} s")
    _append(results, [row])
    return row


def _click_to_done(page) -> float:
    """Timed inside the page, so that Playwright's own messages do not count."""
    milliseconds = page.evaluate(
        """() => new Promise((resolve) => {
            const cell = document.querySelector("section.live[data-entry]");
            cell.removeAttribute("data-state");
            const start = performance.now();
            const seen = () => cell.dataset.state === "done" && resolve(performance.now() - start);
            new MutationObserver(seen).observe(cell, { attributes: true, attributeFilter: ["data-state"] });
            cell.querySelector("[data-action=run]").click();
        })"""
    )
    return milliseconds / 1000


@contextmanager
def chromium() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_executable() or None, args=QUIET)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, served while the block runs."""
    with server(0, folder) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()


def _append(results: Path, rows: list[dict]) -> None:
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True)
    common = {"load": round(os.getloadavg()[0], 1)}  # other work on the machine: both sides suffer, not always alike
    common |= {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M")}
    common["commit"] = asked.stdout.strip() if asked.returncode == 0 else None
    results.parent.mkdir(exist_ok=True)
    with results.open("a") as file:
        for row in rows:
            file.write(json.dumps(_rounded(common | row)) + "\n")


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Each operation against NumPy, then the time from click to first result, on the built site."""
    ensure_site()
    run(SITE / "assets" / "pyodide")
    with served(SITE) as address:
        first_result(f"{address}attention/grouped-query/")


if __name__ == "__main__":
    main()
