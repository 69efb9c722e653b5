// One Python for the whole visit. It runs off the main thread, so that the page stays responsive and an endless loop can be ended.
import type { FromWorker, ToWorker } from "./messages";

const MOST_OUTPUT = 100_000; // characters of one run: what a reader can read, and far below what would slow the page

const post = (message: FromWorker) => self.postMessage(message);
let runner: { run(source: string, values: string): string };
let current = 0, written = 0, loaded = 0;

const fetchAsIs = self.fetch.bind(self);

/** `fetch` that reports how much has come, so that the first run can show its progress. */
async function counted(input: RequestInfo | URL, init?: RequestInit): Promise<Response> {
  const response = await fetchAsIs(input, init);
  if (!response.ok || !response.body) return response;
  const count = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      loaded += chunk.byteLength;
      post({ type: "progress", loaded });
      controller.enqueue(chunk);
    },
  });
  return new Response(response.body.pipeThrough(count), { status: response.status, headers: response.headers });
}

function output(text: string): void {
  if (written > MOST_OUTPUT) return;
  written += text.length;
  post({ type: "output", id: current, text: written > MOST_OUTPUT ? `${text}\n… more output is not shown\n` : text });
}

/** The text of an entry's module, at once: Python's import cannot wait. Null where the site has no such file. */
function served(url: string): string | null {
  const request = new XMLHttpRequest();
  request.open("GET", url, false);
  request.send();
  if (request.status !== 200 && request.status !== 404) throw new Error(`the site answered ${request.status}`);
  return request.status === 200 ? request.responseText : null;
}

async function boot(base: string): Promise<void> {
  self.fetch = counted as typeof fetch;
  const { loadPyodide } = await import(`${base}pyodide.mjs`);
  const python = await loadPyodide({ indexURL: base, lockFileURL: `${base}lock.json`, packages: ["numpy", "snippets"] });
  self.fetch = fetchAsIs;
  const decoder = new TextDecoder();
  const write = (bytes: Uint8Array) => { output(decoder.decode(bytes, { stream: true })); return bytes.length; };
  python.setStdout({ write });
  python.setStderr({ write });
  python.pyimport("snippets.served").install((file: string) => served(`${base}../sources/snippets/${file}`));
  runner = python.pyimport("snippets.runner").Runner();
  post({ type: "ready" });
}

self.onmessage = async ({ data }: MessageEvent<ToWorker>) => {
  try {
    if (data.type === "boot") return await boot(data.base);
    current = data.id;
    written = 0;
    const json = runner.run(data.source, JSON.stringify(data.values));
    post({ type: "result", id: data.id, json });
  } catch (error) {
    post({ type: "fatal", message: String((error as Error)?.message ?? error) });
  }
};
