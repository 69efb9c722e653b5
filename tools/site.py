"""The site: bundle, runtime, MkDocs; built only when something it reads has changed. Served by a small local server."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import socket
import sys
import threading
from pathlib import Path

from tools.environment import ensure_javascript, ensure_packages, say
from tools.runtime import ensure_runtime
from tools.stamps import digest, is_fresh, mark_fresh
from tools.trouble import CACHE, ROOT, Trouble, run

SITE = ROOT / "site"
READ = ("docs", "hooks", "vocab", "snippets", "web", "benchmarks/results", "mkdocs.yml", "package-lock.json", "requirements/site.txt", "tools")


def inputs() -> list[Path]:
    found = []
    for name in READ:
        path = ROOT / name
        found += [p for p in path.rglob("*") if p.is_file() and not {"__pycache__", "build", "tests"} & set(p.relative_to(ROOT).parts[:-1])] if path.is_dir() else [path]
    # Test files are read too: pages list their names.
    found += (ROOT / "vocab").glob("*/tests/test_*.py")
    return sorted(p for p in found if p.exists())


def state() -> str:
    return digest(inputs(), os.environ.get("SITE_URL", ""))


def ensure_site() -> None:
    """Builds site/ from the sources, as strictly as CI does."""
    ensure_packages("site")
    now = state()
    if is_fresh("site", now) and (SITE / "index.html").exists():
        return
    node = ensure_javascript()
    ensure_runtime()
    bundle = digest([*sorted((ROOT / "web").rglob("*")), ROOT / "package-lock.json"])
    if not is_fresh("bundle", bundle):
        say("bundling the TypeScript")
        run([node, "node_modules/typescript/bin/tsc", "--noEmit", "-p", "web"], "tsc", "Mend the TypeScript.")
        run([node, "web/build.mjs", CACHE / "web"], "esbuild", "Mend what esbuild names.")
        mark_fresh("bundle", bundle)
    say("building the pages")
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PATH": f"{Path(node).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    building = CACHE / "site"
    shutil.rmtree(building, ignore_errors=True)
    try:
        # Not --quiet: it hides warnings from --strict, which then passes over broken links.
        run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", building], "mkdocs", "", env=env)
    except Trouble:
        raise Trouble(f"The pages were not built; mend this and run again:\n{complaints(CACHE / 'logs' / 'mkdocs.log')}") from None
    # The old site stays until the new one is whole.
    shutil.rmtree(SITE, ignore_errors=True)
    building.rename(SITE)
    mark_fresh("site", now)


def complaints(log: Path) -> str:
    """What MkDocs and the hooks complained of, with paths as seen from here."""
    lines = log.read_text(encoding="utf-8").replace(f"{ROOT}{os.sep}", "").splitlines()
    lines = [re.sub(r"^(ERROR|WARNING) +- +", "", line).strip() for line in lines]
    return "\n".join(line for line in lines if line and not line.startswith(("Aborted", "INFO", "DEBUG")))


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves site/; says nothing, caches nothing, knows the types of modules and WebAssembly."""

    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript", ".js": "text/javascript",
                      ".wasm": "application/wasm", ".whl": "application/zip", ".py": "text/plain", ".bib": "text/plain"}

    def __init__(self, *args, folder: Path = SITE, **kwargs):
        super().__init__(*args, directory=str(folder), **kwargs)

    def log_message(self, *args):
        pass

    def do_GET(self):
        if not self.path.endswith("/sitemap.xml"):
            return super().do_GET()
        # Instant navigation takes only links that the sitemap names, port and path included: it must name this address.
        path = Path(self.translate_path(self.path))
        if not path.exists():
            return self.send_error(404)
        text = path.read_text(encoding="utf-8")
        built_for = text.split("<loc>")[1].split("</loc>")[0]
        here = f"http://{self.headers['Host']}{self.path.removesuffix('sitemap.xml')}"
        self._send(200, "application/xml", text.replace(f"<loc>{built_for}", f"<loc>{here}").encode())

    def send_error(self, code, message=None, explain=None):
        page = Path(self.directory) / "404.html"
        if code != 404 or not page.exists():
            return super().send_error(code, message, explain)
        self._send(404, "text/html; charset=utf-8", page.read_bytes())

    def _send(self, code: int, kind: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def server(port: int | None, folder: Path = SITE) -> http.server.ThreadingHTTPServer:
    """A server on 127.0.0.1: on ``port``, or on 8000 if that is free, or on any free one."""
    from functools import partial

    wanted = [port] if port is not None else [8000, 0]
    for candidate in wanted:
        try:
            return http.server.ThreadingHTTPServer(("127.0.0.1", candidate), partial(Quiet, folder=folder))
        except (OSError, socket.error, OverflowError):
            continue
    raise Trouble(f"Port {port} is taken or not allowed; choose another with --port, or leave it out for a free one.")


def serve(port: int | None) -> None:
    """Builds, serves, and builds again when a source changes."""
    ensure_site()
    with server(port) as httpd:
        print(f"Serving on http://127.0.0.1:{httpd.server_address[1]}/  (stop with Ctrl+C)", flush=True)
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        try:
            _rebuild_on_change()
        except KeyboardInterrupt:
            print()


def _rebuild_on_change() -> None:
    from watchdog.events import FileSystemEventHandler
    from watchdog.observers import Observer

    changed = threading.Event()

    class Any(FileSystemEventHandler):
        def on_any_event(self, event):
            if event.event_type in ("modified", "created", "deleted", "moved") and "__pycache__" not in event.src_path:
                changed.set()

    observer = Observer()
    for name in READ:
        if (ROOT / name).exists():
            observer.schedule(Any(), str(ROOT / name), recursive=True)
    observer.start()
    while True:
        changed.wait()
        changed.clear()
        threading.Event().wait(0.3)  # editors write in several steps
        try:
            ensure_site()
            say("up to date")
        except Trouble as trouble:
            print(trouble, file=sys.stderr, flush=True)
