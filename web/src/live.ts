// What the pages need when they come alive: the live cells, and the filters of the index of entries.
// Runs once per visit; `document$` tells of every page that instant navigation brings.
import { type Controls, read, shown, type Values, write } from "./controls";
import { setupFilters } from "./filters";
import type { Editor } from "./editor";
import type { Figure } from "./figure";
import type { Result } from "./messages";
import { isWarm, run, running, stop, Stopped } from "./runtime";
import { fromFragment, type State as Shared, toFragment } from "./share";

type State = "idle" | "loading" | "running" | "done" | "error" | "stopped";

interface Spec { controls: Controls; defaults: Values; title: string; source: string; wheel: string; bytes: number }

const MOST_SHOWN = 20_000; // characters of output kept on the page
const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;

class Cell {
  private readonly spec: Spec;
  private readonly form: HTMLFormElement;
  private readonly figures: HTMLElement;
  private readonly status: HTMLElement;
  private readonly output: HTMLElement;
  private readonly code: HTMLElement;
  private readonly progress: HTMLProgressElement;
  private readonly staticFigures: string;
  private readonly staticForm: string;
  private readonly key: string;
  private controls: Controls;
  private values: Values;
  private original: string | null = null; // the page's source, once fetched
  private edited: string | null = null; // the reader's, if it differs
  private editor: Editor | null = null;
  private shownFigures: Figure[] | null = null;
  private again = false;
  private printed = ""; // output that came since the last frame

  constructor(private readonly root: HTMLElement) {
    const find = <T extends HTMLElement>(selector: string) => root.querySelector<T>(selector)!;
    this.spec = JSON.parse(root.dataset.spec!);
    this.form = find("form.live-controls");
    this.figures = find(".live-figures");
    this.status = find(".live-status");
    this.output = find(".live-output");
    this.code = find(".live-code");
    this.progress = find("progress");
    this.staticFigures = this.figures.innerHTML;
    this.staticForm = this.form.innerHTML;
    this.key = `vocab:${root.dataset.entry}`;
    this.controls = this.spec.controls;
    this.values = { ...this.spec.defaults };
    root.dataset.ready = "";
    for (const hidden of [this.form, find(".live-bar")]) hidden.hidden = false;
    if (!matchMedia("(min-width: 60em)").matches) this.code.removeAttribute("open");
    this.listen();
    this.set("idle");
    void this.restore();
  }

  private listen(): void {
    this.form.addEventListener("input", (event) => this.changed(event.target as HTMLInputElement));
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.root.addEventListener("click", (event) => {
      const action = (event.target as HTMLElement).closest<HTMLElement>("[data-action]")?.dataset.action;
      if (action === "run") void this.run();
      else if (action === "stop") stop();
      else if (action === "reset") this.reset();
      else if (action === "share") void this.share();
      else if (action === "download") void this.download();
      else if (action === "edit") void this.edit();
      else if ((event.target as HTMLElement).closest(".live-static")) void this.edit();
    });
    window.addEventListener("resize", () => this.redraw());
    this.figures.addEventListener("toggle", () => this.redraw(), true);
  }

  private set(state: State, message = ""): void {
    this.root.dataset.state = state;
    const busy = state === "loading" || state === "running";
    this.button("stop").disabled = !busy;
    this.button("run").textContent = isWarm() || busy ? "Run" : `Run (loads ${megabytes(this.spec.bytes)} once)`;
    this.progress.hidden = state !== "loading";
    this.figures.setAttribute("aria-busy", String(busy));
    this.status.textContent = message;
  }

  private button(action: string): HTMLButtonElement {
    return this.root.querySelector<HTMLButtonElement>(`button[data-action=${action}]`)!;
  }

  private inputs(): (HTMLInputElement | HTMLSelectElement)[] {
    return [...this.form.querySelectorAll<HTMLInputElement | HTMLSelectElement>("input, select")];
  }

  private changed(input: HTMLInputElement): void {
    const control = this.controls[input.name];
    if (!control) return;
    this.values[input.name] = read(control, input);
    this.label(input);
    this.keep();
    void this.run();
  }

  private label(input: HTMLInputElement | HTMLSelectElement): void {
    const text = shown(this.controls[input.name], this.values[input.name]);
    const output = this.form.querySelector<HTMLOutputElement>(`output[for="${input.id}"]`);
    if (output) output.textContent = text;
    if (input.type === "range") input.setAttribute("aria-valuetext", text);
  }

  private showValues(): void {
    for (const input of this.inputs()) {
      write(this.controls[input.name], input, this.values[input.name]);
      this.label(input);
    }
  }

  private async source(): Promise<string> {
    if (this.original === null) {
      const response = await fetch(this.spec.source);
      if (!response.ok) throw new Error(`The code could not be loaded (${response.status}). Check the connection and run again.`);
      this.original = await response.text();
    }
    return this.edited ?? this.original;
  }

  async run(): Promise<void> {
    if (running()) { this.again = true; return; }
    const started = isWarm();
    this.set(started ? "running" : "loading", started ? "Running …" : `Loading ${megabytes(this.spec.bytes)} …`);
    this.output.textContent = this.printed = "";
    this.output.hidden = true;
    this.editor?.mark(null);
    const drawing = import("./figure"); // loads while Python does
    drawing.catch(() => undefined);
    let begun = performance.now();
    try {
      const source = await this.source();
      const result = await run(source, this.values, {
        begin: () => { begun = performance.now(); this.set("running", "Running …"); },
        progress: (loaded) => {
          this.progress.max = this.spec.bytes;
          this.progress.value = loaded;
          // The rest comes by import, which reports no progress.
          const rest = loaded > 0.9 * this.spec.bytes;
          this.status.textContent = rest ? "Starting Python …" : `Loading ${megabytes(loaded)} of ${megabytes(this.spec.bytes)} …`;
        },
        output: (text) => this.print(text),
      });
      if (result.error === undefined) await this.show(result, await drawing, begun);
      else this.fail(result.error.trace, result.error.line, `${result.error.type}: ${result.error.message}`);
    } catch (error) {
      if (error instanceof Stopped) this.set("stopped", error.message);
      else { this.print(String((error as Error).message)); this.set("error", String((error as Error).message)); }
      this.again = false;
    }
    if (this.again) { this.again = false; await this.run(); }
  }

  private async show(result: Exclude<Result, { error: object }>, { draw, figureHtml, isChart }: typeof import("./figure"), begun: number): Promise<void> {
    if (JSON.stringify(result.controls) !== JSON.stringify(this.controls)) await this.rebuild(result.controls, result.defaults);
    const before = [...this.figures.children] as HTMLElement[];
    result.figures.forEach((figure, i) => {
      const holder = document.createElement("template");
      holder.innerHTML = figureHtml(figure, undefined, false);
      const next = holder.content.firstElementChild as HTMLElement, old = before[i];
      const plot = old?.dataset.kind === figure.kind && isChart(figure) ? old.querySelector(".fig-plot") : null;
      if (plot) next.querySelector(".fig-plot")!.replaceWith(plot);
      if (old?.querySelector("details")?.open) next.querySelector("details")?.setAttribute("open", "");
      if (old) old.replaceWith(next); else this.figures.append(next);
      if (isChart(figure)) draw(next.querySelector<HTMLElement>(".fig-plot")!, figure);
    });
    before.slice(result.figures.length).forEach((old) => old.remove());
    this.shownFigures = result.figures;
    this.root.dispatchEvent(new CustomEvent("live:result", { detail: result, bubbles: true }));
    const took = Math.max(1, Math.round(performance.now() - begun));
    this.set("done", `Done in ${took < 1000 ? `${took} ms` : `${(took / 1000).toFixed(1)} s`}.`);
  }

  private async rebuild(controls: Controls, defaults: Values): Promise<void> {
    const { controlsHtml } = await import("./controls");
    this.values = Object.fromEntries(Object.keys(controls).map((name) => [name, name in this.values ? this.values[name] : defaults[name]]));
    this.controls = controls;
    this.form.innerHTML = controlsHtml(controls, this.values, "live");
    this.showValues();
  }

  private redraw(): void {
    if (!this.shownFigures || !this.root.isConnected) return;
    void import("./figure").then(({ draw, isChart }) => this.shownFigures!.forEach((figure, i) => {
      const plot = this.figures.children[i]?.querySelector<HTMLElement>(".fig-plot");
      if (plot && isChart(figure)) draw(plot, figure);
    }));
  }

  private print(text: string): void {
    // Thousands of prints come in thousands of messages: they are shown once a frame.
    if (this.printed === "") requestAnimationFrame(() => this.showPrinted());
    this.printed += text;
  }

  private showPrinted(): void {
    if (this.printed === "") return;
    this.output.hidden = false;
    this.output.textContent = (this.output.textContent + this.printed).slice(-MOST_SHOWN);
    this.output.scrollTop = this.output.scrollHeight;
    this.printed = "";
  }

  private fail(trace: string, line: number | null, message: string): void {
    this.print(trace);
    this.set("error", line === null ? message : `Line ${line}: ${message}`);
    if (line !== null && this.editor) this.editor.mark(line);
    else if (line !== null && this.edited !== null) void this.edit().then(() => this.editor?.mark(line));
  }

  private async edit(): Promise<void> {
    if (!this.editor) {
      const [{ createEditor }, source] = await Promise.all([import("./editor"), this.source()]);
      if (this.editor) return;
      const host = this.code.querySelector<HTMLElement>(".live-editor")!;
      this.code.setAttribute("open", "");
      this.code.querySelector(".live-static")?.setAttribute("hidden", "");
      this.editor = createEditor(host, source, {
        change: (text) => { this.edited = text === this.original ? null : text; this.keep(); },
        run: () => void this.run(),
        leave: () => this.button("run").focus(),
      });
    }
    this.editor.focus();
  }

  private keep(): void {
    const usual = this.edited === null && JSON.stringify(this.values) === JSON.stringify(this.spec.defaults);
    try {
      if (usual) localStorage.removeItem(this.key);
      else localStorage.setItem(this.key, JSON.stringify({ values: this.values, source: this.edited ?? undefined }));
    } catch {
      // Private browsing may refuse storage: the edit lives until the page is left.
    }
  }

  /** What a link or an earlier visit left here. Shows it; runs nothing. */
  private async restore(): Promise<void> {
    let state: Shared | null = null, linked = false;
    try {
      state = await fromFragment(location.hash);
      linked = state !== null;
    } catch {
      this.status.textContent = "The link's code could not be read; this is the page's own.";
    }
    try {
      state ??= JSON.parse(localStorage.getItem(this.key) ?? "null");
    } catch {
      state = null;
    }
    if (!state) return;
    for (const [name, value] of Object.entries(state.values)) if (name in this.values) this.values[name] = value;
    this.showValues();
    if (state.source !== undefined) {
      this.edited = state.source;
      await this.source().catch(() => undefined);
      await this.edit();
      (document.activeElement as HTMLElement | null)?.blur();
    }
    this.status.textContent = linked
      ? "This state came with the link. Nothing has run: read the code, then run it."
      : "Your changes from last time. Reset brings the page's own back.";
  }

  private reset(): void {
    stop();
    this.edited = null;
    this.controls = this.spec.controls;
    this.values = { ...this.spec.defaults };
    this.form.innerHTML = this.staticForm;
    this.figures.innerHTML = this.staticFigures;
    this.shownFigures = null;
    this.output.hidden = true;
    if (this.original !== null) this.editor?.set(this.original);
    this.keep();
    if (location.hash.startsWith("#live=")) history.replaceState(history.state, "", location.pathname + location.search);
    this.set("idle", "The page's own code and values.");
  }

  private async share(): Promise<void> {
    const fragment = await toFragment({ values: this.values, source: this.edited ?? undefined });
    const url = new URL(location.href);
    url.hash = fragment;
    history.replaceState(history.state, "", url);
    const copied = await navigator.clipboard?.writeText(url.href).then(() => true, () => false);
    this.status.textContent = copied ? "Link copied. It holds the values and the code; opening it runs nothing." : "The link is in the address bar.";
  }

  private async download(): Promise<void> {
    const [{ notebook }, source] = await Promise.all([import("./notebook"), this.source()]);
    const page = location.href.split("#")[0];
    const blob = new Blob([notebook(this.spec.title, page, new URL(this.spec.wheel, page).href, source)], { type: "application/x-ipynb+json" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${fileName(this.root)}.ipynb`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}

function fileName(root: HTMLElement): string {
  return root.dataset.entry!.split("/").at(-1)!;
}

/** Material adds its copy buttons as unnamed navigation landmarks, one for each code block; they get names. */
function tameCopyButtons(): void {
  new MutationObserver(() => {
    document.querySelectorAll("nav.md-code__nav:not([aria-label])").forEach((nav, i) => nav.setAttribute("aria-label", `Code block ${i + 1}`));
  }).observe(document.body, { childList: true, subtree: true });
}

function setup(): void {
  // A run that belongs to the page just left would hold up this one's.
  stop();
  for (const root of document.querySelectorAll<HTMLElement>("section.live:not([data-ready])")) new Cell(root);
  setupFilters();
}

declare global {
  interface Window { document$?: { subscribe(f: () => void): void } }
}

tameCopyButtons();
if (window.document$) window.document$.subscribe(setup);
else setup();
