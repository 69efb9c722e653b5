// The worker as the page sees it: started on the first run, ended by Stop or by the time limit, started anew when needed.
import type { FromWorker, Result, ToWorker } from "./messages";
import type { Values } from "./controls";

export const LIMIT_SECONDS = 20;

export class Stopped extends Error {}

export interface Listener {
  begin(): void; // Python is there and the run starts
  progress(loaded: number): void;
  output(text: string): void;
}

interface Job { id: number; listener: Listener; resolve(result: Result): void; reject(error: Error): void; timer?: number }

let worker: Worker | null = null;
let ready: Promise<void> | null = null;
let job: Job | null = null;
let ids = 0;
let booting: Listener | null = null;

const base = new URL("../pyodide/", import.meta.url).href;

export function isWarm(): boolean {
  return worker !== null;
}

function start(): Promise<void> {
  worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  const mine = worker;
  ready = new Promise((resolve, reject) => {
    mine.onerror = (event) => { event.preventDefault(); lost(mine, event.message || "its files could not be loaded"); reject(new Error(`Python did not start: ${event.message || "its files could not be loaded"}`)); };
    mine.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      if (mine !== worker) return;
      if (data.type === "ready") resolve();
      else if (data.type === "progress") booting?.progress(data.loaded);
      else if (data.type === "output") { if (job?.id === data.id) job.listener.output(data.text); }
      else if (data.type === "result") finish(data.id, (j) => j.resolve(JSON.parse(data.json)));
      else { lost(mine, data.message); reject(new Error(`Python did not start: ${data.message}`)); }
    };
  });
  ready.catch(() => undefined);
  mine.postMessage({ type: "boot", base } satisfies ToWorker);
  return ready;
}

function lost(which: Worker, message: string): void {
  if (which !== worker) return;
  which.terminate();
  worker = ready = null;
  finish(job?.id ?? -1, (j) => j.reject(new Error(`Python ended and starts anew with the next run: ${message}`)));
}

function finish(id: number, end: (job: Job) => void): void {
  if (!job || job.id !== id) return;
  const ended = job;
  job = null;
  clearTimeout(ended.timer);
  end(ended);
}

/** Runs a source and its demo. One run at a time: whoever asks waits for the answer or stops the run. */
export async function run(source: string, values: Values, listener: Listener): Promise<Result> {
  if (job) throw new Error("a run is still going on");
  const id = ++ids;
  return new Promise<Result>((resolve, reject) => {
    const mine: Job = { id, listener, resolve, reject };
    job = mine;
    booting = listener;
    (ready ?? start()).then(
      () => {
        if (job !== mine) return;
        mine.timer = window.setTimeout(() => stop(`Stopped after ${LIMIT_SECONDS} seconds, the limit of one run.`), LIMIT_SECONDS * 1000);
        listener.begin();
        worker!.postMessage({ type: "run", id, source, values } satisfies ToWorker);
      },
      (error) => finish(id, (j) => j.reject(error)),
    );
  });
}

/** Ends the run by ending its Python; a new one starts at once, so that the next run is warm. */
export function stop(why = "Stopped."): void {
  if (!job) return;
  const wasLoaded = job.timer !== undefined;
  worker?.terminate();
  worker = ready = null;
  finish(job.id, (j) => j.reject(new Stopped(why)));
  if (wasLoaded) void start();
}

export function running(): boolean {
  return job !== null;
}
