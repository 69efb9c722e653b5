// Figures are plain data (snippets/live.py). This file turns one into a chart and a table, at build time in Node and in the
// reader's browser alike. Colours are CSS variables, so that a drawn figure follows the page into dark mode and onto paper.
import { BarChart, CustomChart, GraphChart, LineChart, ScatterChart } from "echarts/charts";
import { GridComponent, MarkLineComponent, TooltipComponent } from "echarts/components";
import * as echarts from "echarts/core";
import { SVGRenderer } from "echarts/renderers";
import { contours } from "d3-contour";
import { encode } from "fast-png";
import { escape, number } from "./text";

echarts.use([BarChart, CustomChart, GraphChart, LineChart, ScatterChart, GridComponent, MarkLineComponent, TooltipComponent,
  SVGRenderer]);

type Num = number | null;
type Pairs = [Num, Num][];

interface Axes { caption: string; x: string; y: string }
interface Line extends Axes {
  kind: "line"; series: Record<string, Pairs>; dashed: string[]; markers: string[]; steps: boolean;
  levels: Record<string, number>; marks: Record<string, number>; log_x: boolean; log_y: boolean; range_y: [number, number] | null;
}
interface Scatter extends Axes {
  kind: "scatter"; groups: Record<string, Pairs>; lines: Record<string, Pairs[]>; labels: Record<string, string[]>;
  equal: boolean; range_x: [number, number] | null; range_y: [number, number] | null; field: number[][] | null;
}
interface Bars extends Axes {
  kind: "bars"; names: string[]; series: Record<string, Num[]>; stacked: boolean; levels: Record<string, number>; log_y: boolean;
  range_y: [number, number] | null;
}
interface Heatmap extends Axes {
  kind: "heatmap"; values: Num[][]; value: string; signed: boolean; range: [number, number]; rows: string[] | null; columns: string[] | null;
}
interface Graph {
  kind: "graph"; caption: string; directed: boolean;
  nodes: { name: string; group: string; x: number; y: number }[]; edges: [string, string, number][];
}
interface Image { kind: "image"; caption: string; pixels: number[][] | number[][][] }
interface Table { kind: "table"; caption: string; columns: string[]; rows: (string | Num | boolean)[][] }
interface Text { kind: "text"; caption: string }
export type Figure = Line | Scatter | Bars | Heatmap | Graph | Image | Table | Text;

const SERIES = Array.from({ length: 8 }, (_, i) => `var(--fig-${i + 1})`);
const INK = "var(--fig-ink)", FAINT = "var(--fig-faint)", PAPER = "var(--fig-paper)";
const FONT = { fontFamily: "var(--fig-font)", fontSize: 12, color: INK };
// Magnitudes: viridis. Signed values: blue to red through a neutral middle.
const VIRIDIS = ["440154", "482475", "414487", "355f8d", "2a788e", "21918c", "22a884", "44bf70", "7ad151", "bddf26", "fde725"];
const SIGNED = ["2166ac", "67a9cf", "d1e5f0", "f7f7f7", "fddbc7", "ef8a62", "b2182b"];

export const WIDTH = 340; // of a figure drawn at build time: a phone's width, so that its text is never scaled down much

/** Two or three digits: for labels in a chart, where the table below has the rest. */
function short(v: Num): string {
  if (v === null || v === 0 || Math.abs(v) >= 0.001) return number(v === null ? v : Number(v.toPrecision(3)));
  return v.toExponential(0);
}

function tick(v: number): string {
  if (v !== 0 && (Math.abs(v) >= 1e6 || Math.abs(v) < 1e-3)) return v.toExponential(0).replace("e+", "e");
  return Math.abs(v) >= 10000 ? `${Number((v / 1000).toPrecision(3))}k` : String(Number(v.toPrecision(6)));
}

function shade(stops: string[], at: number): [number, number, number] {
  const x = Math.min(Math.max(at, 0), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(x), stops.length - 2);
  const channel = (hex: string, c: number) => parseInt(hex.slice(2 * c, 2 * c + 2), 16);
  return [0, 1, 2].map((c) => Math.round(channel(stops[i], c) + (x - i) * (channel(stops[i + 1], c) - channel(stops[i], c)))) as
    [number, number, number];
}

function png(width: number, height: number, channels: 3 | 4, data: Uint8Array): string {
  const bytes = encode({ width, height, channels, depth: 8, data });
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return `data:image/png;base64,${btoa(binary)}`;
}

// Axes

function axis(name: string, extra: object = {}): Record<string, unknown> {
  return {
    name, nameTextStyle: FONT, axisLabel: { ...FONT, fontSize: 11, hideOverlap: true }, axisLine: { onZero: false, lineStyle: { color: FAINT } },
    axisTick: { lineStyle: { color: FAINT }, length: 3 }, splitLine: { lineStyle: { color: FAINT, opacity: 0.35 } }, ...extra,
  };
}

function xAxis(name: string, extra: object = {}) {
  return axis(name, { nameLocation: "middle", nameGap: 26, splitLine: { show: false }, ...extra });
}

function yAxis(name: string, extra: object = {}) {
  return axis(name, { nameLocation: "end", nameGap: 12, nameTextStyle: { ...FONT, align: "left", padding: [0, 0, 0, -34] }, ...extra });
}

function valueAxis(log: boolean, range: [number, number] | null, limits: [number, number] | null = null) {
  const [low, high] = range ?? limits ?? [null, null];
  return { type: log ? "log" : "value", scale: true, min: low ?? undefined, max: high ?? undefined, axisLabel: { ...FONT, fontSize: 11, hideOverlap: true, formatter: tick } };
}

const GRID = { left: 42, right: 14, top: 30, bottom: 42 };

function references(levels: Record<string, number>, marks: Record<string, number>) {
  const data = [
    ...Object.entries(levels).map(([name, y]) => ({ yAxis: y, name, label: { position: "insideEndTop" } })),
    ...Object.entries(marks).map(([name, x]) => ({ xAxis: x, name, label: { position: "insideEndTop", rotate: 90 } })),
  ];
  if (!data.length) return undefined;
  return { silent: true, symbol: "none", animation: false, precision: 12, lineStyle: { color: INK, type: [2, 3], width: 1, opacity: 0.7 }, data,
    label: { ...FONT, fontSize: 11, formatter: "{b}" } };
}

function extent(values: Num[]): [number, number] | null {
  const finite = values.filter((v): v is number => v !== null);
  if (!finite.length) return null;
  return [Math.min(...finite), Math.max(...finite)];
}

// One function per kind: an ECharts option and the height it wants

interface Chart { option: Record<string, unknown>; height: number; key?: [string, string][]; scale?: { signed: boolean; range: [number, number]; value: string } }

function line(fig: Line): Chart {
  const names = Object.keys(fig.series);
  const longest = Math.max(...names.map((n) => n.length));
  const direct = names.length > 1 && longest <= 13;
  const colour = (i: number) => SERIES[i % SERIES.length];
  const series: object[] = names.map((name, i) => ({
    type: fig.markers.includes(name) ? "scatter" : "line", name, data: fig.series[name], color: colour(i), symbol: "circle",
    symbolSize: fig.markers.includes(name) ? 6 : 0, showSymbol: fig.markers.includes(name), step: fig.steps ? "end" : false,
    lineStyle: { width: 2, color: colour(i), type: fig.dashed.includes(name) ? [5, 4] : "solid" }, emphasis: { disabled: true },
    markLine: i === 0 ? references(fig.levels, fig.marks) : undefined,
  }));
  const height = 240;
  if (direct) series.push({ type: "scatter", silent: true, symbolSize: 0.01, tooltip: { show: false }, z: 5, data: endLabels(fig, height - GRID.top - GRID.bottom, colour) });
  const limits = extent(Object.values(fig.series).flatMap((s) => s.map(([x]) => x)));
  const spread = limits && limits[1] > limits[0] ? limits : null;
  return {
    height,
    key: names.length > 1 && !direct ? names.map((n, i) => [n, colour(i)]) : undefined,
    option: {
      grid: { ...GRID, right: direct ? 14 + longest * 6.6 : 18 }, xAxis: xAxis(fig.x, valueAxis(fig.log_x, null, fig.log_x ? null : spread)),
      yAxis: yAxis(fig.y, valueAxis(fig.log_y, fig.range_y)), series,
      tooltip: { trigger: "axis", ...TOOLTIP, formatter: (rows: any) => tip([fig.x, rows[0]?.value?.[0]], rows.filter((r: any) => r.seriesName).map((r: any) => [r.seriesName, r.value[1], r.color])) },
    },
  };
}

/** The name of each curve at its end, moved apart where ends meet. */
function endLabels(fig: Line, plot: number, colour: (i: number) => string): object[] {
  const scale = (v: number) => (fig.log_y ? Math.log10(Math.max(v, 1e-300)) : v);
  const values = Object.values(fig.series).flatMap((s) => s.map(([, y]) => y)).filter((v): v is number => v !== null);
  const [low, high] = (fig.range_y ?? extent(values) ?? [0, 1]).map(scale);
  const ends = Object.entries(fig.series).flatMap(([name, points], i) => {
    const last = points.filter(([, y]) => y !== null).at(-1) as [number, number] | undefined;
    return last ? [{ name, i, last, at: plot * (1 - (scale(last[1]) - low) / (high - low || 1)) }] : [];
  }).sort((a, b) => a.at - b.at);
  let free = -Infinity;
  return ends.map(({ name, i, last, at }) => {
    const placed = Math.max(at, free);
    free = placed + 14;
    return { value: last, label: { show: true, position: "right", distance: 5, offset: [0, placed - at], formatter: name, ...FONT, color: colour(i) } };
  });
}

function scatter(fig: Scatter, width: number): Chart {
  const names = Object.keys(fig.groups), lineNames = Object.keys(fig.lines);
  const all = [...Object.values(fig.groups).flat(), ...Object.values(fig.lines).flat(2)];
  const pad = (e: [number, number] | null): [number, number] | null => {
    if (!e) return null;
    const room = (e[1] - e[0] || 1) * 0.06;
    return [Number((e[0] - room).toPrecision(3)), Number((e[1] + room).toPrecision(3))];
  };
  let rx = fig.range_x ?? pad(extent(all.map(([x]) => x))), ry = fig.range_y ?? pad(extent(all.map(([, y]) => y)));
  let height = 260;
  const plot = width - GRID.left - GRID.right;
  if (fig.equal && rx && ry) height = Math.min(Math.max((plot * (ry[1] - ry[0])) / (rx[1] - rx[0]), 120), 360) + GRID.top + GRID.bottom;
  if (fig.equal && rx && ry) {
    // The height may have been limited: widen the shorter axis so that a unit stays as long on both.
    const perX = (rx[1] - rx[0]) / plot, perY = (ry[1] - ry[0]) / (height - GRID.top - GRID.bottom);
    if (perY > perX) { const more = (plot * perY - (rx[1] - rx[0])) / 2; rx = [rx[0] - more, rx[1] + more]; }
    else { const more = ((height - GRID.top - GRID.bottom) * perX - (ry[1] - ry[0])) / 2; ry = [ry[0] - more, ry[1] + more]; }
  }
  const colourOf = new Map([...new Set([...names, ...lineNames])].map((n, i) => [n, SERIES[i % SERIES.length]]));
  const many = (name: string) => fig.groups[name].length > 150;
  return {
    height,
    key: colourOf.size > 1 ? [...colourOf] : undefined,
    option: {
      grid: GRID, xAxis: xAxis(fig.x, { ...valueAxis(false, rx), splitLine: { show: false } }), yAxis: yAxis(fig.y, valueAxis(false, ry)),
      series: [
        ...(fig.field && rx && ry ? [landscape(fig.field, rx, ry)] : []),
        ...lineNames.flatMap((name) => fig.lines[name].map((data) => ({
          type: "line", name, data, symbol: "none", silent: true, z: 1, emphasis: { disabled: true }, tooltip: { show: false },
          lineStyle: { width: 1.5, color: colourOf.get(name), opacity: 0.8 },
        }))),
        ...names.map((name) => ({
          type: "scatter", name, z: 3, symbolSize: many(name) ? 4 : 7, emphasis: { disabled: true }, itemStyle: { color: colourOf.get(name), opacity: many(name) ? 0.55 : 0.9 },
          data: fig.groups[name].map((value, i) => (fig.labels[name] ? { value, label: { show: true, position: "right", distance: 3, ...FONT, fontSize: 11, formatter: fig.labels[name][i] } } : value)),
        })),
      ],
      tooltip: { trigger: "item", ...TOOLTIP, formatter: (p: any) => tip([p.seriesName, undefined], [[fig.x, p.value[0], ""], [fig.y, p.value[1], ""]]) },
    },
  };
}

const LEVELS = 9;

/** Contours of a function under the points: each level is one more thin layer of ink, so the lowest place is the darkest. */
function landscape(field: number[][], range: [number, number], up: [number, number]): object {
  const C = field[0].length, R = field.length, depth = field.flat().map((v) => -v);
  const low = Math.min(...depth), high = Math.max(...depth);
  const levels = Array.from({ length: LEVELS }, (_, i) => low + ((i + 1) / (LEVELS + 1)) * (high - low));
  const rings = contours().size([C, R]).thresholds(levels)(depth).map((level) => level.coordinates.flat());
  return {
    type: "custom", data: [[range[0], up[0]]], silent: true, z: 0, tooltip: { show: false },
    renderItem: ({ coordSys: { x, y, width, height } }: any) => {
      // A value stands in the middle of its grid cell; the outermost values stand on the edges of the plot.
      const place = ([i, j]: number[]) => `${(x + (Math.min(Math.max(i - 0.5, 0), C - 1) / (C - 1)) * width).toFixed(1)} ${(y + height - (Math.min(Math.max(j - 0.5, 0), R - 1) / (R - 1)) * height).toFixed(1)}`;
      return {
        type: "group", children: rings.filter((level) => level.length).map((level, i) => ({
          type: "path", silent: true, shape: { pathData: level.map((ring) => `M${ring.map(place).join("L")}Z`).join("") },
          // Neighbours are styled differently, or svgo would join them to one path, which is filled once.
          style: { fill: i % 2 ? INK : "none", fillOpacity: 0.1, stroke: INK, strokeOpacity: 0.3, lineWidth: 0.7 },
        })),
      };
    },
  };
}

function bars(fig: Bars, width: number): Chart {
  const series = Object.keys(fig.series);
  const plain = series.length === 1;
  const room = (width - GRID.left - GRID.right) / fig.names.length;
  const long = Math.max(...fig.names.map((n) => n.length)) * 6.2 > room;
  const values = plain && fig.names.length <= 12;
  const reach = Math.max(...Object.values(fig.levels), 0);
  // On a logarithmic axis bars would start at 1, and hang down from there where values are smaller.
  const least = fig.log_y ? Math.min(...Object.values(fig.series).flat().filter((v): v is number => v !== null && v > 0)) : 0;
  const floor = fig.log_y ? fig.range_y?.[0] ?? 10 ** Math.floor(Math.log10(Number.isFinite(least) ? least * 0.999 : 1)) : undefined;
  return {
    height: long ? 270 : 240,
    key: plain ? undefined : series.map((n, i) => [n, SERIES[i % SERIES.length]]),
    option: {
      grid: { ...GRID, top: values ? 42 : 30, bottom: (fig.x ? 42 : 26) + (long ? 34 : 0) },
      xAxis: xAxis(fig.x, { type: "category", data: fig.names, nameGap: long ? 58 : 26, axisTick: { show: false },
        axisLabel: { ...FONT, fontSize: 11, interval: fig.names.length > 16 ? "auto" : 0, rotate: long ? 35 : 0, width: long ? 90 : room, overflow: "truncate" } }),
      yAxis: yAxis(fig.y, { ...valueAxis(fig.log_y, fig.range_y), scale: fig.log_y, startValue: floor, ...(fig.log_y ? { min: floor } : {}), nameGap: values ? 22 : 12,
        max: fig.range_y?.[1] ?? (reach ? (v: { max: number }) => (v.max >= reach ? undefined : Number((reach * 1.08).toPrecision(3))) : undefined) }),
      series: series.map((name, i) => ({
        type: "bar", name, data: fig.series[name], stack: fig.stacked ? "all" : undefined, barMaxWidth: 46, emphasis: { disabled: true },
        itemStyle: { color: SERIES[i % SERIES.length] }, markLine: i === 0 ? references(fig.levels, {}) : undefined,
        label: { show: values, position: "top", ...FONT, fontSize: 11, formatter: (p: any) => short(p.value) },
      })),
      tooltip: { trigger: "axis", ...TOOLTIP, formatter: (rows: any) => tip([rows[0].name, undefined], rows.map((r: any) => [r.seriesName || fig.y, r.value, r.color])) },
    },
  };
}

function heatmap(fig: Heatmap, width: number): Chart {
  const R = fig.values.length, C = fig.values[0].length;
  const rows = fig.rows ?? fig.values.map((_, i) => String(i)), columns = fig.columns ?? fig.values[0].map((_, i) => String(i));
  const left = Math.min(22 + Math.max(...rows.map((r) => r.length)) * 6.4, 120);
  const plot = width - left - GRID.right;
  const height = Math.min(Math.max((plot * R) / C, 70), 300);
  const [low, high] = fig.range;
  const at = (v: number) => (high > low ? (v - low) / (high - low) : 0.5);
  const stops = fig.signed ? SIGNED : VIRIDIS;
  const pixels = new Uint8Array(R * C * 4);
  fig.values.flat().forEach((v, i) => { if (v !== null) pixels.set([...shade(stops, at(v)), 255], 4 * i); });
  const url = png(C, R, 4, pixels);
  const write = plot / C >= 28 && height / R >= 15;
  const labels = (names: string[], size: number, wide: boolean) => ({ ...FONT, fontSize: 11, interval: names.length * (wide ? Math.max(...names.map((n) => n.length)) * 6.4 + 4 : 13) > size ? "auto" : 0 });
  return {
    height: height + GRID.top + GRID.bottom,
    scale: { signed: fig.signed, range: fig.range, value: fig.value },
    option: {
      grid: { ...GRID, left },
      xAxis: xAxis(fig.x, { type: "category", data: columns, axisTick: { show: false }, axisLabel: labels(columns, plot, true) }),
      yAxis: yAxis(fig.y, { type: "category", data: rows, inverse: true, nameLocation: "start", axisTick: { show: false }, splitLine: { show: false },
        nameTextStyle: { ...FONT, align: "left", padding: [0, 0, 0, 12 - left] }, axisLabel: labels(rows, height, false) }),
      series: [{
        type: "custom", data: [[0, 0]], tooltip: { show: false }, silent: true,
        renderItem: (params: any) => {
          const { x, y, width: w, height: h } = params.coordSys;
          const texts = write ? fig.values.flatMap((row, r) => row.flatMap((v, c) => (v === null ? [] : [{
            type: "text", silent: true,
            style: { text: number(Number(v.toPrecision(2))), x: x + ((c + 0.5) * w) / C, y: y + ((r + 0.5) * h) / R, align: "center", verticalAlign: "middle", fontSize: 10.5, fontFamily: FONT.fontFamily, fill: dark(shade(stops, at(v))) ? "#fff" : "#111" },
          }]))) : [];
          return { type: "group", children: [{ type: "image", silent: true, style: { image: url, x, y, width: w, height: h } }, ...texts] };
        },
      }],
      tooltip: { trigger: "item", ...TOOLTIP },
    },
  };
}

function dark([r, g, b]: [number, number, number]): boolean {
  return 0.299 * r + 0.587 * g + 0.114 * b < 140;
}

function graph(fig: Graph, width: number): Chart {
  const groups = [...new Set(fig.nodes.map((n) => n.group))];
  const xs = extent(fig.nodes.map((n) => n.x)) ?? [0, 1], ys = extent(fig.nodes.map((n) => n.y)) ?? [0, 1];
  const layered = new Set(fig.nodes.map((n) => n.y)).size <= 4 && fig.nodes.length > 2;
  const height = layered ? Math.min(70 + 70 * (new Set(fig.nodes.map((n) => n.y)).size - 1), 260) : 280;
  const margin = 26;
  // Positions become pixels here, because the series would otherwise keep the aspect ratio of the data.
  const place = (v: number, [low, high]: [number, number], size: number) => (high > low ? margin + ((v - low) / (high - low)) * (size - 2 * margin) : size / 2);
  const longest = Math.max(...fig.nodes.map((n) => n.name.length));
  const across = layered ? Math.max(...[...new Set(fig.nodes.map((n) => n.y))].map((y) => fig.nodes.filter((n) => n.y === y).length)) : 8;
  const size = Math.min(Math.max(longest * 6.5 + 10, 20), (width - 2 * margin) / across, 44);
  return {
    height,
    key: groups.length > 1 ? groups.map((g, i) => [g, SERIES[i % SERIES.length]]) : undefined,
    option: {
      series: [{
        type: "graph", layout: "none", left: margin, right: margin, top: margin, bottom: margin, silent: true, emphasis: { disabled: true },
        edgeSymbol: fig.directed ? ["none", "arrow"] : ["none", "none"], edgeSymbolSize: 7,
        data: fig.nodes.map((n) => ({
          name: n.name, x: place(n.x, xs, width), y: place(-n.y, [-ys[1], -ys[0]], height), symbolSize: size,
          itemStyle: { color: PAPER, borderColor: SERIES[Math.max(groups.indexOf(n.group), 0) % SERIES.length], borderWidth: 2 },
          label: { show: true, ...FONT, fontSize: size < 24 ? 9 : 11, position: longest * 6 > size + 6 ? "bottom" : "inside" },
        })),
        links: fig.edges.map(([source, target, weight]) => ({ source, target, lineStyle: { color: INK, opacity: 0.25 + 0.5 * weight, width: 0.5 + 2 * weight } })),
      }],
    },
  };
}

const TOOLTIP = {
  confine: true, transitionDuration: 0, backgroundColor: "var(--fig-paper)", borderColor: "var(--fig-faint)", borderWidth: 1, padding: [4, 8],
  textStyle: { ...FONT }, axisPointer: { type: "line", animation: false, lineStyle: { color: FAINT, type: "solid" } },
};

function tip([head, value]: [string, Num | undefined], rows: [string, Num, string][]): string {
  const body = rows.map(([name, v]) => `${escape(name)}: <b>${number(v)}</b>`).join("<br>");
  return `${escape(head)}${value === undefined ? "" : ` ${number(value)}`}<br>${body}`;
}

// What a page needs: a chart where there is one, HTML around it

function chart(fig: Figure, width: number): Chart | null {
  switch (fig.kind) {
    case "line": return line(fig);
    case "scatter": return scatter(fig, width);
    case "bars": return bars(fig, width);
    case "heatmap": return heatmap(fig, width);
    case "graph": return graph(fig, width);
    default: return null;
  }
}

function svg(fig: Figure, made: Chart, width: number): string {
  const drawn = echarts.init(null as unknown as HTMLElement, null, { renderer: "svg", ssr: true, width, height: made.height });
  drawn.setOption({ animation: false, ...made.option, tooltip: undefined });
  const text = drawn.renderToSVGString();
  drawn.dispose();
  return compact(text).replace(/<svg [^>]*?viewBox/, `<svg role="img" aria-label="${escape(fig.caption)}" viewBox`);
}

/** Leaves out of a drawn SVG what the page's style sheet says for all of them, and digits nobody sees. */
function compact(text: string): string {
  return text
    .replace(/<rect width="[\d.]+" height="[\d.]+" x="0" y="0"[^>]*fill="none"[^>]*>(<\/rect>)?/, "")
    .replace(/ ecmeta_\w+="[^"]*"/g, "")
    .replace(/<path d="M1 0A1 1 0 1 1 1 -0.0+1" transform="matrix\(([\d.]+),0,0,[\d.]+,([\d.-]+),([\d.-]+)\)"([^>]*)>/g, (_, r, x, y, rest) =>
      `<circle cx="${x}" cy="${y}" r="${r}"${rest.replace(/stroke-width="([\d.]+)"/, (__: string, w: string) => `stroke-width="${Number((Number(w) * r).toFixed(2))}"`)}>`)
    .replace(/ (?:class|pointer-events|xml:space|dominant-baseline|stroke-linecap)="[^"]*"/g, "")
    .replace(/font-size:12px;|font-family:var\(--fig-font\);/g, "").replace(/ style=""/g, "")
    .replace(/(<text[^>]*?) fill="var\(--fig-ink\)"/g, "$1")
    .replace(/<image /g, '<image preserveAspectRatio="none" ')
    .replace(/ (d|transform|x|y|cx|cy|width|height)="([^"]*)"/g, (_, name, v) => ` ${name}="${v.replace(/(\.\d)\d+/g, "$1")}"`)
    .replace(/><\/(?:path|image|rect|circle)>/g, "/>").replace(/\n+/g, "");
}

function rowsOf(fig: Figure): { head: string[]; body: (string | Num | boolean)[][] } | null {
  switch (fig.kind) {
    case "line": {
      const names = Object.keys(fig.series), common = fig.series[names[0]];
      const same = names.every((n) => fig.series[n].length === common.length && fig.series[n].every(([x], i) => x === common[i][0]));
      if (same) return { head: [fig.x, ...names], body: common.map(([x], i) => [x, ...names.map((n) => fig.series[n][i][1])]) };
      return { head: ["curve", fig.x, fig.y], body: names.flatMap((n) => fig.series[n].map(([x, y]) => [n, x, y])) };
    }
    case "scatter": return { head: ["group", fig.x, fig.y], body: Object.entries(fig.groups).flatMap(([n, ps]) => ps.map(([x, y], i) => [fig.labels[n]?.[i] ?? n, x, y])) };
    case "bars": {
      const names = Object.keys(fig.series);
      return { head: [fig.x || "bar", ...names.map((n) => n || fig.y)], body: fig.names.map((n, i) => [n, ...names.map((s) => fig.series[s][i])]) };
    }
    case "heatmap": return { head: [`${fig.y} \\ ${fig.x}`, ...fig.values[0].map((_, i) => name(fig.columns, i))], body: fig.values.map((row, i) => [name(fig.rows, i), ...row]) };
    case "graph": return { head: ["from", "to"], body: fig.edges.map(([a, b]) => [a, b]) };
    default: return null;
  }
}

/** A blank name keeps two parts of a picture apart; a table must not have a column without one. */
function name(names: string[] | null, i: number): string {
  return names ? names[i].trim() || "–" : String(i);
}

const MOST_ROWS = 11, MOST_COLUMNS = 10;

function grid(head: string[], body: (string | Num | boolean)[][]): string {
  const cell = (v: string | Num | boolean) => `<td>${escape(number(v))}</td>`;
  const names = head.map((h) => `<th scope="col">${escape(h)}</th>`).join("");
  return `<table><thead><tr>${names}</tr></thead><tbody>${body.map((r) => `<tr>${r.map(cell).join("")}</tr>`).join("")}</tbody></table>`;
}

function dataTable(fig: Figure): string {
  const all = rowsOf(fig);
  if (!all) return "";
  const every = Math.ceil(all.body.length / MOST_ROWS), across = Math.ceil(all.head.length / MOST_COLUMNS);
  const keep = (_: unknown, j: number) => j === 0 || (j - 1) % across === 0;
  const body = all.body.filter((_, i) => i % every === 0).map((row) => row.filter(keep));
  const note = every > 1 || across > 1 ? ` (every ${every > 1 ? `${ordinal(every)} row` : ""}${every > 1 && across > 1 ? ", " : ""}${across > 1 ? `${ordinal(across)} column` : ""})` : "";
  return `<details class="fig-data"><summary>Numbers${note}</summary><div class="fig-scroll" tabindex="0" role="group" aria-label="Numbers of the figure">${grid(all.head.filter(keep), body)}</div></details>`;
}

function ordinal(n: number): string {
  return `${n}${n % 10 === 1 && n % 100 !== 11 ? "st" : n % 10 === 2 && n % 100 !== 12 ? "nd" : n % 10 === 3 && n % 100 !== 13 ? "rd" : "th"}`;
}

function picture(fig: Image): string {
  const H = fig.pixels.length, W = fig.pixels[0].length;
  const flat = fig.pixels.flat(2) as number[];
  const grey = flat.length === H * W;
  const data = new Uint8Array(H * W * 3);
  for (let i = 0; i < H * W; i++) for (let c = 0; c < 3; c++) data[3 * i + c] = grey ? flat[i] : flat[3 * i + c];
  return `<img alt="${escape(fig.caption)}" width="${W}" height="${H}" src="${png(W, H, 3, data)}">`;
}

function around(fig: Figure, made: Chart | null, plot: string): string {
  const key = made?.key ? `<ul class="fig-key">${made.key.map(([n, c]) => `<li><i style="background:${c}"></i>${escape(n)}</li>`).join("")}</ul>` : "";
  const scale = made?.scale
    ? `<p class="fig-scale">${escape(made.scale.value)} <span>${short(made.scale.range[0])}</span><i class="${made.scale.signed ? "signed" : "viridis"}"></i><span>${short(made.scale.range[1])}</span></p>`
    : "";
  return `<figure class="fig" data-kind="${fig.kind}">${key}<div class="fig-plot">${plot}</div>${scale}<figcaption>${escape(fig.caption)}</figcaption>${dataTable(fig)}</figure>`;
}

/** HTML of a figure: with its SVG at build time, or with an empty plot that `draw` fills. */
export function figureHtml(fig: Figure, width = WIDTH, drawn = true): string {
  if (fig.kind === "text") return `<p class="fig-text">${escape(fig.caption)}</p>`;
  if (fig.kind === "table") return around(fig, null, `<div class="fig-scroll" tabindex="0" role="group" aria-label="${escape(fig.caption)}">${grid(fig.columns, fig.rows)}</div>`);
  if (fig.kind === "image") return around(fig, null, picture(fig));
  const made = chart(fig, width)!;
  return around(fig, made, drawn ? svg(fig, made, width) : "");
}

const drawn = new WeakMap<HTMLElement, ReturnType<typeof echarts.init>>();

/** Draws or redraws a figure inside `host`, with tooltips; keeps the chart where only its numbers changed. */
export function draw(host: HTMLElement, fig: Figure): void {
  const width = Math.max(Math.min(host.clientWidth || WIDTH, 560), 240);
  const made = chart(fig, width)!;
  let instance = drawn.get(host);
  if (!instance || instance.getWidth() !== width || instance.getHeight() !== made.height) {
    instance?.dispose();
    host.textContent = "";
    instance = echarts.init(host, null, { renderer: "svg", width, height: made.height });
    drawn.set(host, instance);
  }
  instance.setOption({ animation: false, ...made.option }, { notMerge: true });
  host.querySelectorAll("image").forEach((image) => image.setAttribute("preserveAspectRatio", "none"));
  const root = host.querySelector("svg");
  root?.setAttribute("role", "img");
  root?.setAttribute("aria-label", fig.caption);
}

export function isChart(fig: Figure): boolean {
  return !["text", "table", "image"].includes(fig.kind);
}
