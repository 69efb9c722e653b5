// Build-time side of the pages, run by Node: one JSON request a line in, one JSON answer a line out.
import katex from "katex";
import { createInterface } from "node:readline";
import { controlsHtml, type Controls, type Values } from "./controls";
import { optimize } from "svgo/browser";
import { figureHtml, type Figure } from "./figure";

type Request =
  | { kind: "math"; tex: string; display: boolean }
  | { kind: "cell"; figures: Figure[]; controls: Controls; defaults: Values; prefix: string };

/** KaTeX's HTML with MathML for screen readers beside it. */
function formula(tex: string, displayMode: boolean): string {
  const options = { displayMode, throwOnError: true, strict: "error" } as const;
  // A lone symbol reads as it stands: its MathML would only double it.
  if (!displayMode && /^([A-Za-z]|\\[A-Za-z]+)$/.test(tex)) {
    return katex.renderToString(tex, { ...options, output: "html" }).replace(' aria-hidden="true"', "");
  }
  return katex.renderToString(tex, { ...options, output: "htmlAndMathml" })
    // Neither the source of a formula nor MathML's name space helps a reader or a browser.
    .replace(/<annotation.*?<\/annotation>/s, "").replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")
    .replace(/<(mspace|mprescripts|none)([^>]*)\/>/g, "<$1$2></$1>")
    // The widths of spaces between symbols, by far the most frequent styles, are classes of the page's style sheet.
    .replace(/class="mspace" style="margin-right:0\.(1667|2222|2778)em;"/g, 'class="mspace m$1"');
}

function small(svg: string): string {
  const named = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ');
  const { data } = optimize(named, {
    multipass: true, floatPrecision: 1,
    plugins: [{ name: "preset-default", params: { overrides: { mergePaths: { force: true }, convertShapeToPath: false, convertColors: false, cleanupIds: false } } }, "collapseGroups"],
  });
  return data.replace(' xmlns="http://www.w3.org/2000/svg"', "");
}

function answer(request: Request): object {
  if (request.kind === "math") {
    return { html: formula(request.tex, request.display) };
  }
  return {
    figures: request.figures.map((f) => figureHtml(f).replace(/<svg .*?<\/svg>/s, small)),
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
