// A rectangle of values over steps: one row a layer (or a histogram's bin), one column a bucket of steps.

import { colour, el, everyFrame, fit } from "../shared/dom";
import { onTheme } from "../shared/theme";
import type { Matrix } from "./data";
import { count, number } from "./format";
import { css, shade } from "./palette";
import { around, placer, ticks, wantsLog, type Scale } from "./scales";

const BOTTOM = 26;
const RIGHT = 8;

export interface HeatPicture {
  matrix: Matrix;
  /** Names of the rows, from the top. */
  rows: string[];
  /** What a row is called in front of its name. */
  kind: string;
  log?: boolean | undefined;
  marks?: number[];
  /** NaN counts as 0: a histogram leaves out empty cells. */
  empty?: boolean;
  /** What the columns stand for, where it is not steps. */
  columns?: string[];
  /** What a column is called in front of its name. */
  across?: string;
  /** A line over it: column and row of each of its points, counted from the left and top edges; NaN breaks it. */
  curve?: { name: string; at: [number, number][] };
}

export class HeatMap {
  readonly element: HTMLElement;
  private readonly canvas = el("canvas", { class: "heat-canvas", tabindex: 0, role: "img" });
  private readonly readout = el("output", { class: "readout" });
  private readonly scale = el("canvas", { class: "heat-scale", "aria-hidden": "true" });
  private readonly low = el("span", {});
  private readonly high = el("span", {});
  private readonly note = el("span", { class: "soft" });
  private picture: HeatPicture | null = null;
  private colours: Scale = { low: 0, high: 1, log: false };
  private image: HTMLCanvasElement | null = null;
  private at: { row: number; column: number } | null = null;
  private readonly redraw = everyFrame(() => this.draw());

  constructor(
    private readonly title: string,
    private readonly onPick: ((row: string, step: number) => void) | null = null,
  ) {
    const keys = `Arrow keys move over it${onPick ? ", Enter opens what is there" : ""}.`;
    this.canvas.setAttribute("aria-label", `${title}. ${keys}`);
    const scale = el("p", { class: "heat-legend" }, this.low, this.scale, this.high, this.note);
    this.element = el("figure", { class: "heat" }, el("figcaption", {}, title), scale, this.canvas, this.readout);
    new ResizeObserver(this.redraw).observe(this.canvas);
    onTheme(this.redraw);
    this.listen();
  }

  get isLog(): boolean {
    return this.colours.log;
  }

  set(picture: HeatPicture): void {
    this.picture = picture;
    const { matrix } = picture;
    const values = picture.empty ? filled(matrix) : matrix.values;
    const [least, most] = usual(values);
    const log = picture.log ?? (!picture.empty && wantsLog([least < most ? [least, most] : values]));
    this.colours = around([[least, most]], log, 0);
    if (this.colours.high <= this.colours.low) this.colours = around([[least, most]], log);
    const image = document.createElement("canvas");
    image.width = Math.max(1, matrix.size);
    image.height = Math.max(1, matrix.rows);
    const context = image.getContext("2d");
    if (!context || !matrix.size || !matrix.rows) this.image = null;
    else {
      const pixels = context.createImageData(matrix.size, matrix.rows);
      const place = placer(this.colours, 0, 1);
      const most = gap({ ...matrix, values });
      // Recorded every tenth step, nine buckets of ten hold nothing: a value is shown until the next one.
      for (let row = 0; row < matrix.rows; row++) {
        let last = -1;
        for (let column = 0; column < matrix.size; column++) {
          const i = row * matrix.size + column;
          let value = values[i] as number;
          if (Number.isNaN(value)) {
            if (picture.columns || last < 0 || column - last > most) continue;
            value = values[row * matrix.size + last] as number;
          } else last = column;
          const where = place(value);
          if (Number.isNaN(where)) continue;
          const [r, g, b] = shade(where);
          pixels.data.set([r, g, b, 255], i * 4);
        }
      }
      context.putImageData(pixels, 0, 0);
      this.image = image;
    }
    const height = Math.min(22, Math.max(3, Math.floor(620 / Math.max(1, matrix.rows))));
    this.canvas.style.height = `${matrix.rows * height + BOTTOM + 4}px`;
    this.low.textContent = `≤ ${number(this.colours.low)}`;
    this.high.textContent = `≥ ${number(this.colours.high)}${this.colours.log ? " (log scale)" : ""}`;
    this.canvas.setAttribute("data-rows", String(matrix.rows));
    this.canvas.setAttribute("data-curve", JSON.stringify(picture.curve?.at ?? []));
    this.note.textContent = picture.curve ? `line: ${picture.curve.name}` : "";
    this.say();
    this.redraw();
  }

  private left(width: number): number {
    return Math.min(170, width * 0.32);
  }

  draw(): void {
    const { width, height, scale } = fit(this.canvas);
    const context = this.canvas.getContext("2d");
    const picture = this.picture;
    if (!context) return;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!picture) return;
    const { matrix, rows } = picture;
    const left = this.left(width);
    const wide = width - left - RIGHT;
    const tall = height - BOTTOM;
    context.fillStyle = colour("--wash");
    context.fillRect(left, 0, wide, tall);
    if (this.image) {
      context.imageSmoothingEnabled = false;
      context.drawImage(this.image, left, 0, wide, tall);
    }
    const row = tall / Math.max(1, matrix.rows);
    context.font = `${Math.min(12, Math.max(9, row))}px system-ui, sans-serif`;
    context.fillStyle = colour("--soft");
    context.textAlign = "right";
    context.textBaseline = "middle";
    const every = Math.max(1, Math.ceil(12 / row));
    for (let i = 0; i < rows.length; i += every) context.fillText(fitText(context, rows[i] ?? "", left - 8), left - 6, (i + 0.5) * row);
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "center";
    const axis: Scale = { low: matrix.first, high: matrix.last + 1, log: false };
    const x = placer(axis, left, width - RIGHT);
    const { columns } = picture;
    const some = Math.max(1, Math.ceil((columns?.length ?? 0) / Math.max(2, Math.floor(wide / 56))));
    columns?.forEach((name, i) => i % some === 0 && context.fillText(name, left + ((i + 0.5) * wide) / columns.length, tall + 12));
    for (const tick of columns ? [] : ticks(axis, Math.max(2, Math.floor(wide / 110)))) {
      const half = context.measureText(count(tick)).width / 2;
      context.fillText(count(tick), Math.min(x(tick), width - half - 2), tall + 12);
    }
    context.strokeStyle = colour("--bad");
    context.setLineDash([3, 3]);
    for (const step of picture.marks ?? []) {
      context.beginPath();
      context.moveTo(x(step), 0);
      context.lineTo(x(step), tall);
      context.stroke();
    }
    context.setLineDash([]);
    if (picture.curve) {
      const cell = wide / Math.max(1, matrix.size);
      // Light on dark on light: readable over every colour of the scale.
      for (const [thick, ink] of [[4, "#fff"], [1.8, "#000"]] as const) {
        context.strokeStyle = ink;
        context.lineWidth = thick;
        context.beginPath();
        let pen = false;
        for (const [column, up] of picture.curve.at) {
          if (Number.isNaN(column) || Number.isNaN(up)) pen = false;
          else if (pen) context.lineTo(left + column * cell, up * row);
          else {
            context.moveTo(left + column * cell, up * row);
            pen = true;
          }
        }
        context.stroke();
      }
    }
    if (this.at) {
      context.strokeStyle = colour("--ink");
      context.lineWidth = 1.5;
      const cell = wide / Math.max(1, matrix.size);
      context.strokeRect(left + this.at.column * cell - 1, this.at.row * row - 0.5, Math.max(cell, 2) + 2, row + 1);
    }
    this.drawScale();
  }

  private drawScale(): void {
    const { width, height, scale } = fit(this.scale);
    const context = this.scale.getContext("2d");
    if (!context) return;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    for (let x = 0; x < width; x++) {
      context.fillStyle = css(x / Math.max(1, width - 1));
      context.fillRect(x, 0, 1, height);
    }
  }

  private listen(): void {
    const { canvas } = this;
    const point = (event: MouseEvent) => {
      const picture = this.picture;
      const box = canvas.getBoundingClientRect();
      const left = this.left(box.width);
      if (!picture) return null;
      const column = Math.floor(((event.clientX - box.left - left) / (box.width - left - RIGHT)) * picture.matrix.size);
      const row = Math.floor(((event.clientY - box.top) / (box.height - BOTTOM)) * picture.matrix.rows);
      if (row < 0 || row >= picture.matrix.rows) return null;
      return { row, column: Math.min(picture.matrix.size - 1, Math.max(0, column)) };
    };
    canvas.addEventListener("pointermove", (event) => this.look(point(event)));
    canvas.addEventListener("pointerleave", () => document.activeElement === canvas || this.look(null));
    canvas.addEventListener("click", (event) => {
      this.look(point(event));
      this.pick();
    });
    canvas.addEventListener("keydown", (event) => {
      const matrix = this.picture?.matrix;
      if (!matrix) return;
      const by = event.shiftKey ? 10 : 1;
      const moves: Record<string, [number, number]> = { ArrowUp: [-by, 0], ArrowDown: [by, 0], ArrowLeft: [0, -by], ArrowRight: [0, by] };
      const move = moves[event.key];
      if (event.key === "Enter") this.pick();
      else if (move) {
        const now = this.at ?? { row: -move[0], column: matrix.size - 1 - move[1] };
        this.look({
          row: Math.min(matrix.rows - 1, Math.max(0, now.row + move[0])),
          column: Math.min(matrix.size - 1, Math.max(0, now.column + move[1])),
        });
      } else return;
      event.preventDefault();
    });
  }

  private look(at: { row: number; column: number } | null): void {
    this.at = at;
    this.say();
    this.redraw();
  }

  private pick(): void {
    const name = this.at && this.picture?.rows[this.at.row];
    if (this.at && name !== null && name !== undefined && this.picture) this.onPick?.(name, this.stepOf(this.at.column)[0]);
  }

  private stepOf(column: number): [number, number] {
    const matrix = this.picture?.matrix;
    if (!matrix) return [0, 0];
    const width = (matrix.last - matrix.first + 1) / matrix.size;
    return [Math.ceil(matrix.first + column * width), Math.max(Math.ceil(matrix.first + column * width), Math.ceil(matrix.first + (column + 1) * width) - 1)];
  }

  private say(): void {
    if (!this.at || !this.picture) {
      this.readout.textContent = "";
      return;
    }
    const { matrix, rows, kind } = this.picture;
    const [first, last] = this.stepOf(this.at.column);
    const value = matrix.values[this.at.row * matrix.size + this.at.column];
    const where = this.picture.columns ? `${this.picture.across ?? ""}${this.picture.columns[this.at.column]}` : first === last ? `step ${count(first)}` : `steps ${count(first)} to ${count(last)}`;
    this.readout.textContent = `${kind}${rows[this.at.row] ?? ""} · ${where} · ${number(value)}`;
  }

  get name(): string {
    return this.title;
  }
}

/** With 0 for what is left out of a histogram, in the buckets that hold one. */
function filled({ rows, size, values }: Matrix): Float64Array {
  const out = Float64Array.from(values);
  for (let column = 0; column < size; column++) {
    let any = false;
    for (let row = 0; row < rows; row++) if (!Number.isNaN(values[row * size + column] as number)) any = true;
    for (let row = 0; any && row < rows; row++) if (Number.isNaN(out[row * size + column] as number)) out[row * size + column] = 0;
  }
  return out;
}

/** The range without the outermost hundredth on either side: a single odd value must not grey out all others. */
function usual(values: Float64Array): [number, number] {
  const step = Math.max(1, Math.floor(values.length / 20_000));
  const sample: number[] = [];
  for (let i = 0; i < values.length; i += step) if (Number.isFinite(values[i] as number)) sample.push(values[i] as number);
  sample.sort((a, b) => a - b);
  if (!sample.length) return [0, 1];
  const at = (share: number) => sample[Math.round(share * (sample.length - 1))] as number;
  return [at(0.01), at(0.99)];
}

/** How many empty buckets a value covers: the usual distance of two values in the first row that has any. */
function gap(matrix: Matrix): number {
  const found: number[] = [];
  for (let row = 0; row < Math.min(matrix.rows, 20) && found.length < 200; row++) {
    let last = -1;
    for (let column = 0; column < matrix.size; column++) {
      if (Number.isNaN(matrix.values[row * matrix.size + column] as number)) continue;
      if (last >= 0) found.push(column - last);
      last = column;
    }
  }
  found.sort((a, b) => a - b);
  return found.length ? 1.5 * (found[found.length >> 1] ?? 1) : 0;
}

/** The text, or its end behind an ellipsis: the end of a layer's name tells it apart. */
function fitText(context: CanvasRenderingContext2D, text: string, width: number): string {
  if (context.measureText(text).width <= width) return text;
  let from = 1;
  while (from < text.length && context.measureText(`…${text.slice(from)}`).width > width) from++;
  return `…${text.slice(from)}`;
}
