// What the page and its worker say to each other.
import type { Controls, Values } from "./controls";
import type { Figure } from "./figure";

export type ToWorker = { type: "boot"; base: string } | { type: "run"; id: number; source: string; values: Values };

export type FromWorker =
  | { type: "progress"; loaded: number }
  | { type: "ready" }
  | { type: "output"; id: number; text: string }
  | { type: "result"; id: number; json: string }
  | { type: "fatal"; message: string };

export interface Failure { line: number | null; type: string; message: string; trace: string }
export type Result = { figures: Figure[]; controls: Controls; defaults: Values; error?: undefined } | { error: Failure };
