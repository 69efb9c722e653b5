"""The built site behind a server under a sub-path, as Pages serves it, and a browser that looks at it."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from tools.site import SITE, server

SUBPATH = "vocab"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site; ``./dev test`` and ``./dev build`` make it."""
    if not (SITE / "index.html").exists():
        pytest.fail("site/ is not built: run ./dev build (or ./dev test, which does)")
    return SITE


@pytest.fixture(scope="session")
def address(site, tmp_path_factory):
    """The site's address, in a sub-path: every URL in it must be relative."""
    root = tmp_path_factory.mktemp("host")
    (root / SUBPATH).symlink_to(site, target_is_directory=True)
    with server(0, root) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}/{SUBPATH}/"
        httpd.shutdown()


@pytest.fixture(scope="session")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: ./dev test installs it")
    executable = os.environ.get("CHROME") or shutil.which("chromium") or shutil.which("google-chrome") or None
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


def pytest_collection_modifyitems(items):
    """Tests of one file go to one worker, as its fixtures are dear, unless they say otherwise."""
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.name))
