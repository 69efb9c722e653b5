// Bundles the live cell into the folder named on the command line: live/ for the browser, static.mjs for the build.
import { cp, mkdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const out = process.argv[2];
if (!out) throw new Error("usage: node web/build.mjs FOLDER");
const from = (name) => join(root, "web/src", name);

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
const common = { bundle: true, target: "es2022", logLevel: "warning", legalComments: "none" };
await build({ ...common, entryPoints: [from("static.ts")], platform: "node", format: "esm", outfile: join(out, "static.mjs") });
await build({
  ...common, entryPoints: [from("live.ts"), from("worker.ts")], format: "esm", splitting: true, minify: true, metafile: true,
  outdir: join(out, "live"), chunkNames: "chunk-[name]-[hash]",
});
await build({
  ...common, entryPoints: [join(root, "web/style/site.css")], minify: true, outdir: join(out, "live"), assetNames: "fonts/[name]",
  loader: { ".woff2": "file" },
  // The build of the pages cuts this font to the characters that their formulas use.
  plugins: [{ name: "math-font", setup: (b) => b.onResolve({ filter: /STIXTwoMath\.woff2$/ }, () => ({ path: "./fonts/math.woff2", external: true })) }],
});
await cp(join(root, "web/style/logo.svg"), join(out, "live/logo.svg"));
