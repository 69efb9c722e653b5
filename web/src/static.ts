// Build-time side of the pages, run by Node: one JSON request a line in, one JSON answer a line out.
import katex from "katex";
import { createInterface } from "node:readline";
import { controlsHtml, type Controls, type Values } from "./controls";
import { figureHtml, type Figure } from "./figure";

type Request =
  | { kind: "math"; tex: string; display: boolean }
  | { kind: "cell"; figures: Figure[]; controls: Controls; defaults: Values; prefix: string };

function answer(request: Request): object {
  if (request.kind === "math") {
    return { html: katex.renderToString(request.tex, { displayMode: request.display, throwOnError: true, strict: "error", output: "htmlAndMathml" }) };
  }
  return {
    figures: request.figures.map((f) => figureHtml(f)),
    controls: controlsHtml(request.controls, request.defaults, request.prefix),
  };
}

createInterface({ input: process.stdin }).on("line", (text) => {
  let result: object;
  try {
    result = answer(JSON.parse(text));
  } catch (error) {
    result = { error: (error as Error).message };
  }
  process.stdout.write(`${JSON.stringify(result)}\n`);
});
