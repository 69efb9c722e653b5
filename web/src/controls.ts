// Controls of a demo as native inputs: HTML at build time, and again in the browser when an edit changes them.
import { escape, number } from "./text";

export type Value = number | string | boolean;
export type Control =
  | { kind: "slider"; low: number; high: number; step: number; label: string; unit: string; log: boolean; whole: boolean }
  | { kind: "choice"; values: (number | string)[]; label: string }
  | { kind: "toggle"; label: string }
  | { kind: "typed"; label: string; most: number };
export type Controls = Record<string, Control>;
export type Values = Record<string, Value>;

const LOG_STEPS = 200; // positions of a logarithmic slider

export function controlsHtml(controls: Controls, values: Values, prefix: string): string {
  return Object.entries(controls).map(([name, c]) => {
    const id = `${prefix}-${name}`, value = values[name];
    const label = `<label for="${id}">${escape(c.label)}</label>`;
    if (c.kind === "toggle") return `<div class="live-control"><input type="checkbox" id="${id}" name="${name}"${value ? " checked" : ""}>${label}</div>`;
    if (c.kind === "choice") {
      const options = c.values.map((v, i) => `<option value="${i}"${v === value ? " selected" : ""}>${escape(String(v))}`).join("");
      return `<div class="live-control">${label}<select id="${id}" name="${name}">${options}</select></div>`;
    }
    if (c.kind === "typed") {
      return `<div class="live-control">${label}<input type="text" id="${id}" name="${name}" maxlength="${c.most}" value="${escape(String(value))}" spellcheck="false" autocomplete="off" autocapitalize="off"></div>`;
    }
    const range = c.log ? `min="0" max="${LOG_STEPS}" step="1"` : `min="${c.low}" max="${c.high}" step="${c.step}"`;
    return `<div class="live-control">${label}<output for="${id}">${escape(shown(c, value))}</output><input type="range" id="${id}" name="${name}" ${range} value="${position(c, value as number)}" aria-valuetext="${escape(shown(c, value))}"></div>`;
  }).join("");
}

/** The value as text, with its unit. */
export function shown(control: Control, value: Value): string {
  const unit = control.kind === "slider" && control.unit ? ` ${control.unit}` : "";
  return `${number(value)}${unit}`;
}

function position(c: Extract<Control, { kind: "slider" }>, value: number): number {
  return c.log ? Math.round((LOG_STEPS * Math.log(value / c.low)) / Math.log(c.high / c.low)) : value;
}

/** What an input stands for. */
export function read(control: Control, input: HTMLInputElement | HTMLSelectElement): Value {
  if (control.kind === "toggle") return (input as HTMLInputElement).checked;
  if (control.kind === "choice") return control.values[Number(input.value)];
  if (control.kind === "typed") return input.value;
  if (!control.log) return Number(input.value);
  if (Number(input.value) === 0) return control.low;
  if (Number(input.value) === LOG_STEPS) return control.high;
  const value = Number((control.low * (control.high / control.low) ** (Number(input.value) / LOG_STEPS)).toPrecision(3));
  return Math.min(Math.max(control.whole ? Math.round(value) : value, control.low), control.high);
}

/** Sets an input to a value; ignores what the control cannot be. */
export function write(control: Control, input: HTMLInputElement | HTMLSelectElement, value: Value): void {
  if (control.kind === "toggle") (input as HTMLInputElement).checked = Boolean(value);
  else if (control.kind === "choice") {
    const index = control.values.indexOf(value as number | string);
    if (index >= 0) input.value = String(index);
  } else if (control.kind === "typed") input.value = String(value);
  else if (typeof value === "number") input.value = String(position(control, value));
}
