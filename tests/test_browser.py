"""The site in a real browser: every demo, and what readers do to it."""

import json
import os

import pytest

from snippets.runner import Runner
from vocab.entries import ROOT, cells, entries, guide_pages

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

BOOT = 60_000  # milliseconds that a first run may take on a slow, busy machine
FIRST_VIEW = 300_000  # bytes, compressed
PLAIN, OTHER = "attention/grouped-query", "activations/gelu"
VISITS = os.cpu_count() or 2  # long visits side by side; each has its worker
DEMOS = [pytest.param(name, snippet, id=name, marks=pytest.mark.xdist_group(f"visit-{i % VISITS}"))
         for i, (name, snippet) in enumerate(cells().items())]
WHERE = ["", "entries/", "papers/", *(f"guides/{path.stem}/" for path in guide_pages()), *(f"{family}/" for family in sorted({e.family for e in entries()})), *(f"{e.name}/" for e in entries())]
PAGES = [pytest.param(where, id=where or "home", marks=pytest.mark.xdist_group(f"look-{i % VISITS}")) for i, where in enumerate(WHERE)]


@pytest.fixture
def page(chromium, address):
    """A fresh visit that notes errors and every request that leaves the site."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(15_000)
    watch(page, address)
    yield page
    context.close()
    assert not page.problems


def watch(page, address):
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(f"error: {error}"))
    page.on("console", lambda message: page.problems.append(f"console: {message.text}") if message.type == "error" else None)
    page.on("request", lambda request: None if request.url.startswith((address, "data:", "blob:")) else page.problems.append(f"left the site: {request.url}"))


def state(page, *wanted, timeout=BOOT):
    page.wait_for_selector(", ".join(f".live[data-state={w}]" for w in wanted), timeout=timeout)
    return page.get_attribute(".live", "data-state")


def run(page, timeout=BOOT):
    """Clicks Run and returns what the demo gave."""
    page.evaluate("document.querySelector('.live').addEventListener('live:result', (e) => { window.result = e.detail }, { once: true })")
    page.click("[data-action=run]")
    assert state(page, "done", "error", timeout=timeout) == "done", page.inner_text(".live-status") + page.inner_text(".live-output")
    return page.evaluate("window.result")


def until(page, expression, timeout=10_000):
    """Waits until an expression holds. (Playwright's own way evaluates it inside the page, where the policy forbids that.)"""
    waited = 0
    while not page.evaluate(expression):
        assert waited < timeout, f"never became true: {expression}"
        page.wait_for_timeout(50)
        waited += 50


def go(page, url):
    """Follows a link as Material does, without loading the page anew."""
    page.evaluate("window.sameVisit = true")
    page.evaluate("url => { const a = document.createElement('a'); a.href = url; a.textContent = 'go'; document.body.append(a); a.click(); a.remove() }", url)
    until(page, f"location.href === {url!r}")
    assert page.evaluate("window.sameVisit"), "the page was loaded anew: its worker is gone"


def edit(page, text):
    page.click("[data-action=edit]")
    page.wait_for_selector(".cm-content:focus")
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)


def assert_close(found, expected, where=""):
    """Equal words, and numbers that agree to six digits of the largest in their list."""
    assert type(found) is type(expected) or {type(found), type(expected)} == {int, float}, (where, found, expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_close(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        numbers = [v for v in expected if isinstance(v, (int, float)) and not isinstance(v, bool)]
        scale = max(map(abs, numbers), default=0)
        for i, (a, b) in enumerate(zip(found, expected)):
            if b in numbers and not isinstance(b, (list, dict, str)):
                # A byte of a picture may be rounded to its neighbour; rounding errors of something that is 0 have no digits to agree.
                assert abs(a - b) <= (1 if where.endswith(".pixels") or ".pixels[" in where else 1e-6 * scale + 1e-12), (where, i, a, b)
            else:
                assert_close(a, b, f"{where}[{i}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9), where
    else:
        assert found == expected, where


@pytest.fixture(scope="module")
def visit(chromium, address):
    """One long visit: its worker lives through all the pages."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    watch(page, address)
    page.goto(address)
    yield page
    context.close()


@pytest.mark.parametrize(("name", "snippet"), DEMOS)
def test_every_demo_gives_the_figure_that_the_page_was_built_with_and_moves_to_both_ends(visit, address, name, snippet):
    go(visit, f"{address}{name}/")
    visit.wait_for_selector(f'.live[data-entry="{name}"][data-ready]')
    built = visit.locator(".live-figures figcaption").all_inner_texts()
    found = run(visit)
    expected = json.loads(Runner().run(snippet.read_text(encoding="utf-8"), "{}"))
    assert_close(found["figures"], expected["figures"], name)
    assert visit.locator(".live-figures figcaption").all_inner_texts() == built
    charts = visit.locator(".live-figures .fig").count()
    assert visit.locator(".live-figures .fig-plot svg, .live-figures .fig-plot img, .live-figures .fig-plot table").count() >= charts
    for control in visit.eval_on_selector_all(".live-controls [name]", "all => all.map((e) => e.name)"):
        for end in ("first", "last", "back"):
            visit.evaluate("""([name, end]) => {
              const input = document.querySelector(`.live-controls [name=${name}]`);
              window.kept ??= {};
              if (end === 'first') window.kept[name] = input.type === 'checkbox' ? input.checked : input.value;
              const options = input.type === 'text' ? ['', 'naïve 👍🏽 e\u0301 1234567'.slice(0, input.maxLength)] : input.options ? [...input.options].map((o) => o.value) : [input.min, input.max];
              if (input.type === 'checkbox') input.checked = end === 'back' ? window.kept[name] : end === 'first';
              else input.value = end === 'back' ? window.kept[name] : options.at(end === 'first' ? 0 : -1);
              input.closest('.live').dataset.state = 'moved';
              input.dispatchEvent(new Event('input', { bubbles: true }));
            }""", [control, end])
            reached = state(visit, "done", "error", timeout=25_000)
            status = visit.inner_text(".live-status")
            assert reached == "done" or "ValueError" in status, f"{control} at its {end} end: {status}"
    assert not visit.problems, visit.problems


def test_one_worker_serves_the_whole_visit(page, address):
    workers = []
    page.on("worker", lambda worker: workers.append(worker) if "/live/" in worker.url else None)
    page.goto(f"{address}{PLAIN}/")
    run(page)
    go(page, f"{address}{OTHER}/")
    page.wait_for_selector(f'.live[data-entry="{OTHER}"][data-ready]')
    run(page)
    assert len(workers) == 1


def test_nothing_of_the_runtime_is_loaded_before_the_reader_acts(page, address):
    sizes = {}
    page.on("response", lambda r: sizes.__setitem__(r.url, r))
    page.goto(f"{address}{PLAIN}/", wait_until="networkidle")
    import gzip

    loaded = {url: len(gzip.compress(r.body())) for url, r in sizes.items() if r.ok and r.request.method == "GET"}
    assert not [url for url in loaded if "pyodide" in url or "live/worker" in url or "chunk-figure" in url or "chunk-editor" in url]
    assert sum(loaded.values()) <= FIRST_VIEW, sorted(((size, url) for url, size in loaded.items()), reverse=True)[:8]
    assert "loads" in page.inner_text("[data-action=run]") and "MB" in page.inner_text("[data-action=run]")


def test_stop_ends_an_endless_loop_and_the_next_run_works(page, address):
    page.goto(f"{address}{PLAIN}/")
    run(page)
    edit(page, "while True:\n    pass\n")
    page.click("[data-action=run]")
    state(page, "running")
    page.wait_for_timeout(300)
    assert page.is_enabled("[data-action=stop]")
    page.click("[data-action=stop]")
    assert state(page, "stopped", timeout=2_000) == "stopped"
    page.click("[data-action=reset]")
    assert run(page)["figures"]


def test_endless_output_is_cut_and_the_page_survives(page, address):
    page.goto(f"{address}{PLAIN}/")
    edit(page, "for i in range(20_000):\n    print('line', i)\n")
    page.click("[data-action=run]")
    assert state(page, "done", "error") == "done"
    shown = page.inner_text(".live-output")
    assert "more output is not shown" in shown and len(shown) < 30_000


def test_output_streams_while_the_code_runs(page, address):
    page.goto(f"{address}{PLAIN}/")
    run(page)
    edit(page, "print('first words')\nwhile True:\n    pass\n")
    page.click("[data-action=run]")
    until(page, "document.querySelector('.live-output').textContent.includes('first words')", timeout=10_000)
    assert page.get_attribute(".live", "data-state") == "running"
    page.click("[data-action=stop]")


def test_running_out_of_memory_is_survived(page, address):
    page.goto(f"{address}{PLAIN}/")
    edit(page, "import numpy as np\nx = [np.zeros((16_000, 16_000), np.uint8) for _ in range(40)]\n")
    page.click("[data-action=run]")
    assert state(page, "error", "done") == "error"
    assert "MemoryError" in page.inner_text(".live-output")
    page.click("[data-action=reset]")
    assert run(page)["figures"]


def test_a_syntax_error_is_named_and_its_line_marked(page, address):
    page.goto(f"{address}{PLAIN}/")
    edit(page, "x = 1\ny = = 2\n")
    page.click("[data-action=run]")
    assert state(page, "error", "done") == "error"
    assert "Line 2: SyntaxError" in page.inner_text(".live-status")
    assert page.inner_text(".live-error-line") == "y = = 2"


def test_an_error_shows_only_the_readers_own_lines(page, address):
    page.goto(f"{address}{PLAIN}/")
    edit(page, "def f(x):\n    return 1 / x\n\nf(0)\n")
    page.click("[data-action=run]")
    state(page, "error")
    output = page.inner_text(".live-output")
    assert "ZeroDivisionError" in output and "runner" not in output and "pyodide" not in output
    assert page.inner_text(".live-error-line").strip() == "return 1 / x"


def test_any_entry_can_be_imported_and_one_that_is_not_there_is_named(page, address):
    page.goto(f"{address}{PLAIN}/")
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "/sources/snippets/" in request.url else None)
    edit(page, "from snippets.activations.gelu import gelu\nprint(float(gelu(0.0)))\n")
    page.click("[data-action=run]")
    state(page, "done")
    assert page.inner_text(".live-output").strip() == "0.0"
    assert [url for url in asked if url.endswith("/activations/gelu.py")], "fetched when it was imported, not before"
    edit(page, "import snippets.activations.nonsense\n")
    page.problems.clear()
    page.click("[data-action=run]")
    state(page, "error")
    assert "No module named 'snippets.activations.nonsense'" in page.inner_text(".live-output")
    page.problems[:] = [p for p in page.problems if "404" not in p]  # the browser notes the question for a file that is not there


def test_an_edit_that_changes_the_controls_changes_the_form(page, address):
    page.goto(f"{address}{PLAIN}/")
    edit(page, "from snippets.live import demo, slider\n@demo(speed=slider(1, 9, label='speed'))\ndef show(speed=3):\n    return f'speed {speed}'\n")
    run(page)
    assert page.inner_text(".live-control label") == "speed" and page.inner_text(".fig-text") == "speed 3"
    page.fill(".live-control input", "7")
    until(page, "document.querySelector('.fig-text').textContent === 'speed 7'")
    page.click("[data-action=reset]")
    assert page.locator(".live-controls [name=n_heads]").count() == 1


def test_edits_survive_a_reload_and_reset_brings_the_pages_own_back(page, address):
    page.goto(f"{address}{PLAIN}/")
    edit(page, "print('mine')\n")
    page.reload()
    page.wait_for_selector(".cm-content")
    assert page.inner_text(".cm-content").startswith("print('mine')")
    page.click("[data-action=reset]")
    page.reload()
    page.wait_for_selector(".live[data-ready]")
    assert page.locator(".cm-content").count() == 0


def test_a_share_link_brings_code_and_values_and_runs_nothing(page, address, chromium):
    page.goto(f"{address}{PLAIN}/")
    edit(page, "print('shared code')\n")
    page.select_option(".live-controls [name=n_kv_heads]", "0")
    page.click("[data-action=share]")
    until(page, "location.hash.startsWith('#live=')")
    link = page.url
    assert page.evaluate("navigator.clipboard.readText()") == link
    context = chromium.new_context()
    other = context.new_page()
    watch(other, address)
    workers = []
    other.on("worker", lambda worker: workers.append(worker) if "/live/" in worker.url else None)
    other.goto(link)
    other.wait_for_selector(".cm-content")
    other.wait_for_timeout(500)
    assert other.inner_text(".cm-content").startswith("print('shared code')")
    assert other.input_value(".live-controls [name=n_kv_heads]") == "0"
    assert not workers and "Nothing has run" in other.inner_text(".live-status")
    assert not other.problems
    context.close()


def test_a_damaged_share_link_says_so(page, address):
    page.goto(f"{address}{PLAIN}/#live=broken!!")
    until(page, "document.querySelector('.live-status').textContent.includes('could not be read')")
    assert page.get_attribute(".live", "data-state") == "idle"


def test_leaving_the_page_ends_its_run_and_the_next_page_works(page, address):
    page.goto(f"{address}{PLAIN}/")
    run(page)
    edit(page, "while True:\n    pass\n")
    page.click("[data-action=run]")
    state(page, "running")
    go(page, f"{address}{OTHER}/")
    page.wait_for_selector(f'.live[data-entry="{OTHER}"][data-ready]')
    assert run(page)["figures"]


def test_the_notebook_has_the_readers_code(page, address):
    page.goto(f"{address}{PLAIN}/")
    edit(page, "x = 1\n\n# %% demo\ny = 2\n")
    with page.expect_download() as download:
        page.click("[data-action=download]")
    notebook = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert download.value.suggested_filename == "grouped-query.ipynb" and notebook["nbformat"] == 4
    cells = ["".join(cell["source"]) for cell in notebook["cells"]]
    assert cells[2:4] == ["x = 1", "y = 2"] and cells[1].startswith("%pip install") and cells[1].split()[-1].endswith("-py3-none-any.whl")
    wheel = cells[1].split()[-1]
    assert page.request.get(wheel).ok


def test_keyboard_alone_runs_moves_edits_and_leaves_the_editor(page, address):
    page.goto(f"{address}{PLAIN}/")
    page.focus(".live-controls [name=layers]")
    before = page.inner_text(".live-controls output[for=live-layers]")
    page.keyboard.press("ArrowRight")
    assert state(page, "done") == "done"
    assert page.inner_text(".live-controls output[for=live-layers]") != before
    page.focus("[data-action=run]")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.action") == "edit":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector(".cm-content:focus")
    page.keyboard.press("Control+a")
    page.keyboard.insert_text("print('by keyboard')")
    page.keyboard.press("Control+Enter")
    until(page, "document.querySelector('.live-output').textContent.includes('by keyboard')", timeout=BOOT)
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.action") == "run"


def test_the_first_tab_stops_reach_the_content(page, address):
    page.goto(f"{address}{PLAIN}/")
    page.keyboard.press("Tab")
    assert "skip" in page.evaluate("document.activeElement.textContent").lower()


@pytest.fixture(scope="module")
def reader(chromium):
    """One visitor who looks at many pages."""
    context = chromium.new_context(color_scheme="light", reduced_motion="reduce")
    page = context.new_page()
    yield page
    context.close()


def violations(page, **options):
    found = page.evaluate("options => axe.run(document, { resultTypes: ['violations'], ...options })", options)["violations"]
    return [(v["id"], v["nodes"][0]["html"][:200], v["nodes"][0].get("failureSummary", "")[:300], len(v["nodes"])) for v in found]


@pytest.mark.parametrize("where", PAGES)
def test_every_page_is_accessible_and_fits_a_phone(reader, address, where):
    reader.set_viewport_size({"width": 1280, "height": 900})
    reader.goto(address + where)
    reader.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true })")
    reader.evaluate((ROOT / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8"))
    assert not violations(reader)
    reader.click("label[title='Switch to dark']")
    until(reader, "document.body.dataset.mdColorScheme === 'slate'")
    dark = violations(reader, runOnly=["color-contrast"])  # what a scheme can change
    reader.evaluate("localStorage.clear()")
    assert not dark
    reader.set_viewport_size({"width": 360, "height": 740})
    assert reader.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_index_filters_by_what_is_asked(page, address):
    page.goto(f"{address}entries/")
    page.wait_for_selector("form.filters[data-ready]")
    rows = page.locator("table.entries tbody tr:visible")
    everything = rows.count()
    assert everything == len(entries())
    page.select_option("[name=family]", "attention")
    assert rows.count() == sum(e.family == "attention" for e in entries())
    page.click("form.filters button[type=reset]")
    page.fill("[name=text]", "GQA")
    until(page, "document.querySelector('.filters output').textContent !== ''")
    assert 1 <= rows.count() < everything


def test_search_finds_an_alias(page, address):
    page.goto(address)
    page.click("label[for=__search].md-button")
    page.focus("[data-md-component=search-query]")
    page.keyboard.type("GQA", delay=50)
    page.wait_for_selector(".md-search-result__item a")
    assert "grouped-query" in page.get_attribute(".md-search-result__item a", "href")


def test_dark_mode_recolours_the_figure_that_is_there(page, address):
    page.emulate_media(color_scheme="light")
    page.goto(f"{address}{PLAIN}/")
    shade = "getComputedStyle(document.querySelector('.fig svg text')).fill"
    light = page.evaluate(shade)
    page.click("label[title='Switch to dark']")
    until(page, f"({shade}) !== '{light}'")


def test_without_javascript_everything_is_there_to_read(chromium, address):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}{PLAIN}/")
    assert page.is_visible(".live-figures svg") and page.is_visible("math") and not page.is_visible(".live-controls")
    assert page.is_visible("h2#pytorch") and page.is_visible(".live-static .highlight")
    context.close()


def test_the_policy_refuses_what_comes_from_elsewhere(chromium, address):
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{address}{PLAIN}/")
    page.evaluate("""() => { window.refused = []; document.addEventListener('securitypolicyviolation', (e) => window.refused.push(e.violatedDirective));
      const s = document.createElement('script'); s.textContent = 'window.injected = 1'; document.head.append(s);
      const i = new Image(); i.src = 'https://example.org/x.png'; }""")
    until(page, "window.refused.length >= 2")
    assert page.evaluate("window.injected") is None
    context.close()
