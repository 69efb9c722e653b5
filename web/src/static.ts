// Build-time side of the pages, run by Node: one JSON request a line in, one JSON answer a line out.
import { createInterface } from "node:readline";
import { controlsHtml, type Controls, type Values } from "./controls";
import { optimize } from "svgo/browser";
import temml from "temml";
import { figureHtml, type Figure } from "./figure";

type Request =
  | { kind: "math"; tex: string; display: boolean }
  | { kind: "cell"; figures: Figure[]; controls: Controls; defaults: Values; prefix: string };

function small(svg: string): string {
  const named = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ');
  const { data } = optimize(named, {
    multipass: true, floatPrecision: 1,
    plugins: [{ name: "preset-default", params: { overrides: { removeUnknownsAndDefaults: { keepRoleAttr: true }, mergePaths: { force: true }, convertShapeToPath: false, convertColors: false, cleanupIds: false } } }, "collapseGroups"],
  });
  // Material's instant navigation rewrites every `href`, which an image of SVG does not allow; its older name is left alone.
  return data.replace(' xmlns="http://www.w3.org/2000/svg"', "").replace(/(<image [^>]*?) href=/g, "$1 xlink:href=");
}

function answer(request: Request): object {
  if (request.kind === "math") {
    // MathML: what screen readers read and every current browser draws, a fifth of the size of positioned spans.
    return { html: temml.renderToString(request.tex, { displayMode: request.display, throwOnError: true, strict: true, annotate: false }) };
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
