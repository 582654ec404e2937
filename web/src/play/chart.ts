// Line charts on a canvas: any number of points, of which a pixel column draws its lowest and highest; linear or log
// axes; a cursor that is shared with everything else. Also printed as SVG.

import { isDense, paintDense } from "../shared/dense";
import { colour, el, fit } from "../shared/dom";
import { short } from "./scene";

export interface Series {
  name: string;
  colour: string;
  dash?: number[];
  width?: number;
  x: ArrayLike<number>;
  y: ArrayLike<number>;
  faint?: boolean;
  dots?: boolean;
}

export interface Mark {
  x: number;
  y: number;
  colour: string;
  shape: "circle" | "square" | "diamond";
  name: string;
}

export interface ChartOptions {
  label: string;
  xlabel: string;
  ylabel: string;
  logX?: boolean;
  logY?: boolean;
  /** fixed ends of the axes */
  xRange?: [number, number];
  yRange?: [number, number];
}

interface Scale {
  low: number;
  high: number;
  log: boolean;
  /** pixels of both ends */
  from: number;
  to: number;
}

const MARGIN = { left: 58, right: 12, top: 10, bottom: 34 };

function place(s: Scale, v: number): number {
  const [a, b, x] = s.log ? [Math.log10(s.low), Math.log10(s.high), Math.log10(v)] : [s.low, s.high, v];
  return s.from + ((x - a) / (b - a || 1)) * (s.to - s.from);
}

function value(s: Scale, pixel: number): number {
  const f = (pixel - s.from) / (s.to - s.from);
  return s.log ? s.low * (s.high / s.low) ** f : s.low + f * (s.high - s.low);
}

/** Round numbers on an axis, at most about `most`. */
export function ticks(low: number, high: number, log: boolean, most: number): number[] {
  if (!(high > low)) return [low];
  if (log) {
    const a = Math.ceil(Math.log10(low) - 1e-9);
    const b = Math.floor(Math.log10(high) + 1e-9);
    if (b - a >= 1) {
      const every = Math.max(1, Math.ceil((b - a + 1) / most));
      const out = [];
      for (let e = Math.ceil(a / every) * every; e <= b; e += every) out.push(Number(`1e${e}`));
      return out;
    }
  }
  const rough = (high - low) / Math.max(1, most);
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * unit).find((s) => s >= rough * 0.999) ?? unit * 10;
  const out = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) out.push(k * step);
  return out;
}

const extents = new WeakMap<ArrayLike<number>, { above: number; ends: [number, number] }>();

/** Least and largest value between `above` and 1e300. A series that changes gets new arrays. */
function extent(values: ArrayLike<number>, above: number): [number, number] {
  const known = extents.get(values);
  if (known?.above === above) return known.ends;
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < values.length; i++) {
    const v = values[i]!;
    if (v < low && v > above) low = v;
    if (v > high && v < 1e300) high = v;
  }
  extents.set(values, { above, ends: [low, high] });
  return [low, high];
}

export class Chart {
  readonly root: HTMLElement;
  readonly canvas: HTMLCanvasElement;
  series: Series[] = [];
  marks: Mark[] = [];
  cursor: number | null = null;
  /** milliseconds the last drawing took */
  spent = 0;
  private x: Scale = { low: 0, high: 1, log: false, from: 0, to: 1 };
  private y: Scale = { low: 0, high: 1, log: false, from: 1, to: 0 };

  constructor(
    public options: ChartOptions,
    onPick?: (x: number) => void,
  ) {
    this.canvas = el("canvas", { role: "img", "aria-label": options.label, class: "chart" });
    this.root = el("div", { class: "chart-box" }, this.canvas);
    if (onPick) {
      const pick = (event: PointerEvent) => {
        const box = this.canvas.getBoundingClientRect();
        onPick(value(this.x, event.clientX - box.left));
      };
      this.canvas.style.cursor = "crosshair";
      this.canvas.style.touchAction = "pan-y";
      this.canvas.addEventListener("pointerdown", (event) => {
        this.canvas.setPointerCapture(event.pointerId);
        pick(event);
      });
      this.canvas.addEventListener("pointermove", (event) => event.buttons && pick(event));
    }
  }

  private scales(width: number, height: number): void {
    const { options: o } = this;
    const find = (pick: (s: Series) => ArrayLike<number>, log: boolean, fixed?: [number, number]): [number, number] => {
      if (fixed) return fixed;
      let low = Infinity;
      let high = -Infinity;
      for (const s of this.series) {
        const values = pick(s);
        const [least, most] = extent(values, log ? 1e-300 : -1e300);
        low = Math.min(low, least);
        high = Math.max(high, most);
      }
      if (!(high >= low)) return log ? [0.1, 1] : [0, 1];
      if (log) {
        high = Math.max(high, low);
        low = Math.max(low, high * 1e-40, this.typical(pick) / 30);
        return high / low < 1.01 ? [low / 2, high * 2] : [low / (high / low) ** 0.03, high * (high / low) ** 0.03];
      }
      const pad = (high - low || Math.abs(high) || 1) * 0.05;
      return [low - pad, high + pad];
    };
    let [a, b] = find((s) => s.x, Boolean(o.logX), o.xRange);
    if (!o.xRange && !o.logX) {
      const pad = (b - a) * (0.05 / 1.1);
      [a, b] = [a + pad, b - pad];
    }
    this.x = { low: a, high: b > a ? b : a + 1, log: Boolean(o.logX), from: MARGIN.left, to: width - MARGIN.right };
    [a, b] = find((s) => s.y, Boolean(o.logY), o.yRange);
    this.y = { low: a, high: b, log: Boolean(o.logY), from: height - MARGIN.bottom, to: MARGIN.top };
  }

  /** What all but a hundredth of the values exceed: a path that crosses a minimum must not flatten everything else. */
  private typical(pick: (s: Series) => ArrayLike<number>): number {
    const some: number[] = [];
    for (const s of this.series) {
      const values = pick(s);
      const n = values.length;
      for (let i = 0; i < n; i += Math.max(1, Math.floor(n / 500))) if (values[i]! > 1e-300) some.push(values[i]!);
    }
    some.sort((a, b) => a - b);
    return some[Math.floor(some.length / 100)] ?? 0;
  }

  draw(): void {
    const begun = performance.now();
    const { width, height, scale } = fit(this.canvas);
    const c = this.canvas.getContext("2d")!;
    c.setTransform(scale, 0, 0, scale, 0, 0);
    c.clearRect(0, 0, width, height);
    this.scales(width, height);
    this.axes(c, width, height);
    c.save();
    c.beginPath();
    c.rect(MARGIN.left, 0, width - MARGIN.left - MARGIN.right, height - MARGIN.bottom + 1);
    c.clip();
    const inside = { left: MARGIN.left, top: 0, width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.bottom + 1 };
    const many = this.series.filter((s) => !s.dots && isDense(s.x.length, inside.width));
    paintDense(c, inside, scale, many.map((s) => ({ ...s, alpha: s.faint ? 0.4 : 1 })), {
      x: (v) => place(this.x, v), back: (at) => value(this.x, at), y: (v) => (v <= 0 && this.y.log ? height : place(this.y, v)),
    });
    for (const s of this.series) if (!many.includes(s)) this.line(c, s);
    if (this.cursor !== null) {
      const x = place(this.x, Math.max(this.cursor, this.x.log ? this.x.low : -Infinity));
      c.strokeStyle = colour("--soft");
      c.lineWidth = 1;
      c.setLineDash([3, 3]);
      c.beginPath();
      c.moveTo(x, MARGIN.top);
      c.lineTo(x, height - MARGIN.bottom);
      c.stroke();
      c.setLineDash([]);
    }
    c.restore();
    for (const mark of this.marks) {
      const [x, y] = [place(this.x, mark.x), place(this.y, mark.y)];
      if (Number.isFinite(x + y)) drawMark(c, x, y, mark.colour, mark.shape, 5.5);
    }
    this.spent = performance.now() - begun;
  }

  private axes(c: CanvasRenderingContext2D, width: number, height: number): void {
    c.font = "12px system-ui, sans-serif";
    c.strokeStyle = colour("--thin");
    c.fillStyle = colour("--soft");
    c.lineWidth = 1;
    c.textAlign = "center";
    c.textBaseline = "top";
    const across = ticks(this.x.low, this.x.high, this.x.log, Math.max(2, Math.floor(width / 90)));
    for (const v of across) {
      const x = Math.round(place(this.x, v)) + 0.5;
      c.beginPath();
      c.moveTo(x, MARGIN.top);
      c.lineTo(x, height - MARGIN.bottom);
      c.stroke();
      const text = short(v);
      const half = c.measureText(text).width / 2;
      c.fillText(text, Math.min(Math.max(x, half), width - half - 1), height - MARGIN.bottom + 5);
    }
    c.textAlign = "right";
    c.textBaseline = "middle";
    for (const v of ticks(this.y.low, this.y.high, this.y.log, Math.max(2, Math.floor(height / 38)))) {
      const y = Math.round(place(this.y, v)) + 0.5;
      c.beginPath();
      c.moveTo(MARGIN.left, y);
      c.lineTo(width - MARGIN.right, y);
      c.stroke();
      c.fillText(short(v), MARGIN.left - 6, y);
    }
    c.textAlign = "right";
    c.textBaseline = "bottom";
    c.fillText(this.options.xlabel, width - MARGIN.right, height - 1);
    c.save();
    c.translate(11, MARGIN.top);
    c.rotate(-Math.PI / 2);
    c.textAlign = "right";
    c.textBaseline = "middle";
    c.fillText(this.options.ylabel, 0, 0);
    c.restore();
  }

  /** The line's points in pixels, at most four a column: first, lowest, highest, last. x rises. */
  private pixels(s: Series): number[] {
    const out: number[] = [];
    const n = Math.min(s.x.length, s.y.length);
    const { low, high, log, from, to } = this.y;
    const b = log ? Math.log10(low) : low;
    const fy = (to - from) / ((log ? Math.log10(high) : high) - b || 1);
    // What a logarithmic axis cannot show lies just below it.
    const Y = (v: number) => Math.max(-1e4, Math.min(1e4, log ? (v > 0 ? from + (Math.log10(v) - b) * fy : from + 40) : from + (v - b) * fy));
    for (let i = 0; i < n; ) {
      const x = place(this.x, s.x[i]!);
      const first = s.y[i]!;
      if (!(x > -1e9 && x < 1e9)) {
        i++;
        continue;
      }
      if (first !== first) {
        out.push(Number.NaN, Number.NaN);
        i++;
        continue;
      }
      const column = Math.round(2 * x) / 2;
      const end = value(this.x, column + 0.25);
      let least = first;
      let most = first;
      let last = first;
      for (i++; i < n && s.x[i]! < end; i++) {
        const v = s.y[i]!;
        if (v < least) least = v;
        else if (v > most) most = v;
        else if (v !== v) break;
        last = v;
      }
      out.push(column, Y(first));
      if (least !== most) out.push(column, Y(least), column, Y(most), column, Y(last));
    }
    return out;
  }

  private line(c: CanvasRenderingContext2D, s: Series): void {
    const points = this.pixels(s);
    c.globalAlpha = s.faint ? 0.4 : 1;
    c.strokeStyle = s.colour;
    c.fillStyle = s.colour;
    c.lineWidth = s.width ?? 1.8;
    c.lineJoin = "round";
    c.setLineDash(s.dash ?? []);
    c.beginPath();
    let pen = false;
    for (let i = 0; i < points.length; i += 2) {
      const x = points[i]!;
      if (x !== x) pen = false;
      else if (s.dots) c.rect(x - 1, points[i + 1]! - 1, 2, 2);
      else if (pen) c.lineTo(x, points[i + 1]!);
      else {
        c.moveTo(x, points[i + 1]!);
        pen = true;
      }
    }
    if (s.dots) c.fill();
    else c.stroke();
    c.setLineDash([]);
    c.globalAlpha = 1;
  }

  /** The chart as an SVG document in the colours it has now. */
  svg(width = 900, height = 420): string {
    this.scales(width, height);
    const soft = colour("--soft");
    const parts = [
      `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="12">`,
      `<rect width="${width}" height="${height}" fill="${colour("--surface")}"/>`,
    ];
    const text = (x: number, y: number, anchor: string, words: string) =>
      parts.push(`<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}" fill="${soft}">${escaped(words)}</text>`);
    const rule = (x1: number, y1: number, x2: number, y2: number) =>
      parts.push(`<line x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}" stroke="${colour("--thin")}"/>`);
    for (const v of ticks(this.x.low, this.x.high, this.x.log, 9)) {
      const x = place(this.x, v);
      rule(x, MARGIN.top, x, height - MARGIN.bottom);
      text(x, height - MARGIN.bottom + 15, "middle", short(v));
    }
    for (const v of ticks(this.y.low, this.y.high, this.y.log, 9)) {
      const y = place(this.y, v);
      rule(MARGIN.left, y, width - MARGIN.right, y);
      text(MARGIN.left - 6, y + 4, "end", short(v));
    }
    text(width - MARGIN.right, height - 3, "end", this.options.xlabel);
    for (const s of this.series) {
      const points = this.pixels(s);
      let d = "";
      let pen = false;
      for (let i = 0; i < points.length; i += 2) {
        if (points[i] !== points[i]) pen = false;
        else {
          d += `${pen ? "L" : "M"}${points[i]!.toFixed(1)} ${points[i + 1]!.toFixed(1)}`;
          pen = true;
        }
      }
      const dash = s.dash?.length ? ` stroke-dasharray="${s.dash.join(" ")}"` : "";
      parts.push(`<path d="${d}" fill="none" stroke="${s.colour}" stroke-width="${s.width ?? 1.8}"${dash}><title>${escaped(s.name)}</title></path>`);
    }
    this.series.forEach((s, i) => {
      parts.push(`<text x="${MARGIN.left + 10}" y="${MARGIN.top + 16 + 16 * i}" fill="${s.colour}">${escaped(s.name)}</text>`);
    });
    return `${parts.join("\n")}\n</svg>\n`;
  }
}

export function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

/** A filled mark with a rim of the paper's colour. */
export function drawMark(c: CanvasRenderingContext2D, x: number, y: number, fill: string, shape: Mark["shape"], r: number): void {
  c.beginPath();
  if (shape === "circle") c.arc(x, y, r, 0, 2 * Math.PI);
  else if (shape === "square") c.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8);
  else {
    c.moveTo(x, y - r * 1.25);
    c.lineTo(x + r * 1.25, y);
    c.lineTo(x, y + r * 1.25);
    c.lineTo(x - r * 1.25, y);
    c.closePath();
  }
  c.fillStyle = fill;
  c.strokeStyle = colour("--surface");
  c.lineWidth = 1.5;
  c.fill();
  c.stroke();
}
