// Lines over steps: means with the band between least and largest values, any number of points, one pass a line.

import { isDense, paintDense } from "../shared/dense";
import { colour, el, everyFrame, fit } from "../shared/dom";
import { onTheme } from "../shared/theme";
import type { Series } from "./data";
import { count, number } from "./format";
import { around, placer, ticks, wantsLog, type Placer, type Scale } from "./scales";

/** A line. look: which hue and dashes; 0 is the first. band: show where the values lie that the mean is of. */
export interface Line {
  name: string;
  look: number;
  series: Series;
  band?: boolean;
  /** Show each point. */
  dots?: boolean;
}

/** Something that happened at a step. */
export interface Mark {
  step: number;
  text: string;
}

export interface Picture {
  lines: Line[];
  marks?: Mark[];
  log?: boolean | undefined;
  /** Steps that the axis covers, where they are not those of the lines. */
  first?: number | undefined;
  last?: number | undefined;
  xLabel?: string;
  xLog?: boolean;
}

export const DASHES: readonly number[][] = [[], [7, 3], [2, 2.5], [9, 3, 2, 3], [4, 4], [12, 4], [1.5, 4], [8, 2, 2, 2, 2, 2]];
export const hue = (look: number): string => colour(`--c${look % 8}`);

const LEFT = 58;
const RIGHT = 12;
const TOP = 12;
const BOTTOM = 34;

/** A chart in an element of its own. `onRange(first, last)` is called when the reader picks steps, without when all. */
export class Chart {
  readonly element: HTMLElement;
  private readonly canvas = el("canvas", { class: "chart-canvas", tabindex: 0, role: "img" });
  private readonly readout = el("output", { class: "readout" });
  private readonly legend = el("ul", { class: "legend" });
  private picture: Picture = { lines: [] };
  private x: Scale = { low: 0, high: 1, log: false };
  private y: Scale = { low: 0, high: 1, log: false };
  private cursor: number | null = null;
  private drag: { from: number; to: number } | null = null;
  private readonly redraw = everyFrame(() => this.draw());

  constructor(
    private readonly title: string,
    private readonly onRange: ((first?: number, last?: number) => void) | null = null,
  ) {
    const keys = onRange ? " Left and right move along the steps, Enter zooms in there, Escape shows all." : " Left and right move along it.";
    this.canvas.setAttribute("aria-label", `${title}.${keys}`);
    this.element = el("figure", { class: "chart" }, el("figcaption", {}, title), this.canvas, this.readout, this.legend);
    new ResizeObserver(this.redraw).observe(this.canvas);
    onTheme(this.redraw);
    this.listen();
  }

  get isLog(): boolean {
    return this.y.log;
  }

  set(picture: Picture): void {
    this.picture = picture;
    const values = picture.lines.flatMap(({ series, band }) => (band ? [series.low, series.high] : [series.mean]));
    this.y = around(values, picture.log ?? wantsLog(values));
    const xs = around(picture.lines.map((line) => line.series.step), picture.xLog ?? false, 0);
    this.x = picture.xLog ? around(picture.lines.map((line) => line.series.step), true, 0.04) : { low: picture.first ?? xs.low, high: picture.last ?? xs.high, log: false };
    if (this.x.high <= this.x.low && !picture.xLog) this.x = { low: this.x.low - 0.5, high: this.x.low + 0.5, log: false };
    this.legend.replaceChildren(...(picture.lines.length > 1 ? picture.lines.filter((line) => line.name).map((line) => el("li", {}, swatch(line.look), line.name)) : []));
    this.canvas.setAttribute("data-points", String(picture.lines.reduce((sum, line) => sum + line.series.step.length, 0)));
    this.say();
    this.redraw();
  }

  /** Draws at once; returns the milliseconds it took. */
  draw(): number {
    const begun = performance.now();
    const { width, height, scale } = fit(this.canvas);
    const context = this.canvas.getContext("2d");
    if (!context) return 0;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "12px system-ui, sans-serif";
    const x = placer(this.x, LEFT, width - RIGHT);
    const y = placer(this.y, height - BOTTOM, TOP);
    this.axes(context, width, height, x, y);
    context.save();
    context.beginPath();
    context.rect(LEFT, TOP, Math.max(0, width - LEFT - RIGHT), Math.max(0, height - TOP - BOTTOM));
    context.clip();
    for (const line of this.picture.lines) if (line.band) drawBand(context, line.series, x, y, hue(line.look));
    const inside = { left: LEFT, top: TOP, width: width - LEFT - RIGHT, height: height - TOP - BOTTOM };
    const many = this.picture.lines.filter((line) => isDense(line.series.step.length, inside.width));
    const painted = many.map((line) => ({ x: line.series.step, y: line.series.mean, colour: hue(line.look), alpha: 1 }));
    paintDense(context, inside, scale, painted, { x, back: x.back, y });
    for (const line of this.picture.lines) {
      context.setLineDash([...(DASHES[line.look % DASHES.length] ?? [])]);
      if (!many.includes(line)) drawLine(context, line.series.step, line.series.mean, x, y, hue(line.look), this.picture.lines.length > 1 ? 1.5 : 1.7);
      context.setLineDash([]);
      if (line.dots) drawDots(context, line.series, x, y, hue(line.look));
      drawBroken(context, line.series, x, height - BOTTOM);
    }
    for (const mark of this.picture.marks ?? []) drawMark(context, x(mark.step), TOP, height - BOTTOM);
    if (this.drag) {
      context.fillStyle = colour("--accent");
      context.globalAlpha = 0.18;
      context.fillRect(Math.min(this.drag.from, this.drag.to), TOP, Math.abs(this.drag.to - this.drag.from), height - TOP - BOTTOM);
      context.globalAlpha = 1;
    } else if (this.cursor !== null) {
      const at = Math.round(x(this.cursor)) + 0.5;
      context.strokeStyle = colour("--soft");
      context.beginPath();
      context.moveTo(at, TOP);
      context.lineTo(at, height - BOTTOM);
      context.stroke();
    }
    context.restore();
    return performance.now() - begun;
  }

  private axes(context: CanvasRenderingContext2D, width: number, height: number, x: (v: number) => number, y: (v: number) => number): void {
    context.strokeStyle = colour("--thin");
    context.fillStyle = colour("--soft");
    context.lineWidth = 1;
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (const tick of ticks(this.y, Math.max(2, Math.floor(height / 50)))) {
      const at = Math.round(y(tick)) + 0.5;
      if (at < TOP - 1 || at > height - BOTTOM + 1) continue;
      rule(context, LEFT, at, width - RIGHT, at);
      context.fillText(number(tick), LEFT - 6, at);
    }
    context.textAlign = "center";
    for (const tick of ticks(this.x, Math.max(2, Math.floor(width / 110)))) {
      const at = Math.round(x(tick)) + 0.5;
      if (at < LEFT - 1 || at > width - RIGHT + 1) continue;
      rule(context, at, TOP, at, height - BOTTOM);
      const text = this.picture.xLog ? number(tick) : shortCount(tick);
      const half = context.measureText(text).width / 2;
      context.fillText(text, Math.min(at, width - half - 2), height - BOTTOM + 11);
    }
    context.textAlign = "right";
    context.fillText(this.picture.xLabel ?? "step", width - RIGHT, height - 7);
    if (!this.picture.lines.some((line) => line.series.step.length)) {
      context.textAlign = "center";
      context.fillText("nothing recorded here", (LEFT + width - RIGHT) / 2, (TOP + height - BOTTOM) / 2);
    }
  }

  // What a reader may do ---------------------------------------------------------------------------------------------

  private stepAt(event: PointerEvent): number {
    const box = this.canvas.getBoundingClientRect();
    const share = (event.clientX - box.left - LEFT) / Math.max(1, box.width - LEFT - RIGHT);
    const inside = Math.min(1, Math.max(0, share));
    if (this.x.log) return this.x.low * (this.x.high / this.x.low) ** inside;
    return this.x.low + inside * (this.x.high - this.x.low);
  }

  private listen(): void {
    const { canvas } = this;
    canvas.addEventListener("pointermove", (event) => {
      this.cursor = this.stepAt(event);
      if (this.drag) this.drag.to = event.clientX - canvas.getBoundingClientRect().left;
      this.say();
      this.redraw();
    });
    canvas.addEventListener("pointerleave", () => {
      if (this.drag || document.activeElement === canvas) return;
      this.cursor = null;
      this.say();
      this.redraw();
    });
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.onRange || event.button !== 0 || event.pointerType === "touch") return;
      canvas.setPointerCapture(event.pointerId);
      const at = event.clientX - canvas.getBoundingClientRect().left;
      this.drag = { from: at, to: at };
    });
    canvas.addEventListener("pointerup", (event) => {
      const drag = this.drag;
      this.drag = null;
      this.redraw();
      if (!drag || Math.abs(drag.to - drag.from) < 6) return;
      const box = canvas.getBoundingClientRect();
      const share = (at: number) => Math.min(1, Math.max(0, (at - LEFT) / (box.width - LEFT - RIGHT)));
      const [a, b] = [share(Math.min(drag.from, drag.to)), share(Math.max(drag.from, drag.to))];
      const wide = this.x.high - this.x.low;
      this.onRange?.(Math.floor(this.x.low + a * wide), Math.ceil(this.x.low + b * wide));
      event.preventDefault();
    });
    canvas.addEventListener("dblclick", () => this.onRange?.());
    canvas.addEventListener("keydown", (event) => {
      const wide = this.x.high - this.x.low;
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
        this.move(event.key === "ArrowRight" ? 1 : -1, event.shiftKey ? 20 : 1);
      } else if (event.key === "Home") this.cursor = this.x.low;
      else if (event.key === "End") this.cursor = this.x.high;
      else if (event.key === "Escape" && this.onRange) {
        this.onRange();
      } else if (event.key === "Enter" && this.onRange && this.cursor !== null) {
        this.onRange(Math.floor(this.cursor - wide / 8), Math.ceil(this.cursor + wide / 8));
      } else return;
      event.preventDefault();
      this.say();
      this.redraw();
    });
  }

  private move(direction: number, times: number): void {
    const steps = this.picture.lines.reduce<Float64Array>((most, line) => (line.series.step.length > most.length ? line.series.step : most), new Float64Array());
    if (!steps.length) return;
    const at = this.cursor === null ? (direction > 0 ? -1 : steps.length) : nearest(steps, this.cursor);
    this.cursor = steps[Math.min(steps.length - 1, Math.max(0, at + direction * times))] ?? null;
  }

  private say(): void {
    const { lines, marks } = this.picture;
    if (this.cursor === null || !lines.length) {
      const first = lines[0];
      const end = first?.series.end.at(-1);
      this.readout.textContent =
        lines.length === 1 && first && first.series.step.length ? `last ${number(end)} at ${this.xWords(first.series.step.at(-1) ?? 0)}` : "";
      return;
    }
    const parts: string[] = [];
    let where = this.cursor;
    for (const line of lines) {
      const i = nearest(line.series.step, this.cursor);
      if (i < 0) continue;
      if (line === lines[0]) where = line.series.step[i] ?? where;
      const value = number(line.series.mean[i]);
      const low = line.series.low[i];
      const high = line.series.high[i];
      const spread = line.band && low !== high && low !== undefined ? ` (${number(low)} to ${number(high)})` : "";
      const broken = line.series.broken[i] ? ` · ${count(line.series.broken[i] ?? 0)} not finite` : "";
      parts.push(`${lines.length > 1 ? `${line.name} ` : ""}${value}${spread}${broken}`);
    }
    const near = (marks ?? []).filter((mark) => Math.abs(mark.step - where) <= (this.x.high - this.x.low) / 100).map((mark) => mark.text);
    this.readout.textContent = [this.xWords(where), ...parts.slice(0, 8), ...near.slice(0, 2)].join(" · ");
  }

  private xWords(value: number): string {
    return this.picture.xLabel ? `${this.picture.xLabel} ${number(value)}` : `step ${count(value)}`;
  }

  get name(): string {
    return this.title;
  }
}

function rule(context: CanvasRenderingContext2D, x0: number, y0: number, x1: number, y1: number): void {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

const shortCount = (value: number): string => {
  const size = Math.abs(value);
  if (size >= 1e6 && value % 1e5 === 0) return `${value / 1e6} M`;
  if (size >= 1e4 && value % 100 === 0) return `${value / 1e3} k`;
  return Number.isInteger(value) ? count(value) : number(value);
};

/** The index of the value nearest to `target` in a rising array, -1 for an empty one. */
export function nearest(steps: ArrayLike<number>, target: number): number {
  let low = 0;
  let high = steps.length - 1;
  if (high < 0) return -1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if ((steps[middle] as number) <= target) low = middle;
    else high = middle;
  }
  return Math.abs((steps[high] as number) - target) < Math.abs((steps[low] as number) - target) ? high : low;
}

/**
 * One pass over the points: of those that share a pixel column, the first, the extremes and the last one are drawn.
 * `steps` rise. `back` is the inverse of `x`: where a column ends is found once, and its points are only compared.
 */
export function drawLine(
  context: CanvasRenderingContext2D,
  steps: Float64Array,
  values: Float64Array,
  x: Placer,
  y: Placer,
  stroke: string,
  width: number,
): void {
  context.strokeStyle = stroke;
  context.lineWidth = width;
  context.lineJoin = "bevel";
  context.beginPath();
  const n = Math.min(steps.length, values.length);
  const least = Number.isNaN(y(-1)) ? 0 : -Infinity; // a logarithmic axis shows what is above 0
  const good = (value: number) => value > least && value < Infinity;
  let alone = 0; // points since the pen was put down
  let last = 0;
  let at = 0;
  for (let i = 0; i < n; ) {
    const first = values[i] as number;
    if (!good(first)) {
      if (alone === 1) dot(context, at, y(last));
      alone = 0;
      i++;
      continue;
    }
    at = Math.round(x(steps[i] as number) * 2) / 2;
    const end = x.back(at + 0.25);
    let low = first;
    let high = first;
    last = first;
    let points = 1;
    for (i++; i < n && (steps[i] as number) < end; i++) {
      const value = values[i] as number;
      if (value < low) {
        if (!(value > least)) break;
        low = value;
      } else if (value > high) {
        if (!(value < Infinity)) break;
        high = value;
      } else if (value !== value) break;
      last = value;
      points++;
    }
    if (alone) context.lineTo(at, y(first));
    else context.moveTo(at, y(first));
    if (points > 1) {
      context.lineTo(at, y(low));
      context.lineTo(at, y(high));
      context.lineTo(at, y(last));
    }
    alone += points;
  }
  if (alone === 1) dot(context, at, y(last));
  context.stroke();
}

/** A value without neighbours would be a line without length. */
function dot(context: CanvasRenderingContext2D, x: number, y: number): void {
  context.moveTo(x - 2, y);
  context.lineTo(x + 2, y);
}

function drawBand(context: CanvasRenderingContext2D, series: Series, x: (v: number) => number, y: (v: number) => number, fill: string): void {
  context.fillStyle = fill;
  context.globalAlpha = 0.2;
  let from = 0;
  const n = series.step.length;
  while (from < n) {
    while (from < n && Number.isNaN(y(series.low[from] as number))) from++;
    let to = from;
    while (to < n && !Number.isNaN(y(series.low[to] as number))) to++;
    if (to > from) {
      context.beginPath();
      for (let i = from; i < to; i++) context.lineTo(x(series.step[i] as number), y(series.high[i] as number));
      for (let i = to - 1; i >= from; i--) context.lineTo(x(series.step[i] as number), y(series.low[i] as number));
      context.fill();
    }
    from = to;
  }
  context.globalAlpha = 1;
}

function drawDots(context: CanvasRenderingContext2D, series: Series, x: (v: number) => number, y: (v: number) => number, fill: string): void {
  context.fillStyle = fill;
  for (let i = 0; i < series.step.length; i++) {
    context.beginPath();
    context.arc(x(series.step[i] as number), y(series.mean[i] as number), 3.5, 0, 7);
    context.fill();
  }
}

function drawBroken(context: CanvasRenderingContext2D, series: Series, x: (v: number) => number, bottom: number): void {
  context.fillStyle = colour("--bad");
  for (let i = 0; i < series.step.length; i++) {
    if (series.broken[i]) context.fillRect(x(series.step[i] as number) - 1, bottom - 7, 2, 7);
  }
}

function drawMark(context: CanvasRenderingContext2D, at: number, top: number, bottom: number): void {
  context.strokeStyle = context.fillStyle = colour("--bad");
  context.setLineDash([3, 3]);
  rule(context, Math.round(at) + 0.5, top, Math.round(at) + 0.5, bottom);
  context.setLineDash([]);
  context.beginPath();
  context.moveTo(at - 4, top);
  context.lineTo(at + 4, top);
  context.lineTo(at, top + 7);
  context.fill();
}

/** A short piece of a line in its hue and dashes. */
export function swatch(look: number): SVGSVGElement {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 28 8");
  svg.setAttribute("class", `swatch look${look % 8}`);
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(space, "line");
  for (const [name, value] of Object.entries({ x1: 1, y1: 4, x2: 27, y2: 4, "stroke-dasharray": (DASHES[look % DASHES.length] ?? []).join(" ") || "none" })) {
    line.setAttribute(name, String(value));
  }
  svg.append(line);
  return svg;
}

/** A small line without axes, on a canvas of any size. */
export function sparkline(canvas: HTMLCanvasElement, series: Series | undefined, look = 0, range?: { first: number; last: number }): void {
  const { width, height, scale } = fit(canvas);
  const context = canvas.getContext("2d");
  if (!context) return;
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  if (!series?.step.length) return;
  const bounds = [series.low, series.high];
  const y = placer(around(bounds, wantsLog(bounds)), height - 3, 3);
  const steps = around([series.step], false, 0);
  const x = placer(range ? { low: range.first, high: range.last, log: false } : steps, 2, width - 2);
  drawBand(context, series, x, y, hue(look));
  drawLine(context, series.step, series.mean, x, y, hue(look), 1.4);
  drawBroken(context, series, x, height);
}
