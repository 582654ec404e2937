// Eigen's picture: each layer at its spread and the size of its step, with what Adam's formula says of the one from the
// other. The points move with the step.

import { colour, el, everyFrame, fit } from "../shared/dom";
import { onTheme } from "../shared/theme";
import { number } from "./format";
import { css } from "./palette";
import { around, placer, ticks, type Scale } from "./scales";

export interface Point {
  name: string;
  x: number;
  y: number;
  /** From 0, the first layer, to 1, the last one. */
  depth: number;
  weight: boolean;
}

export interface ScatterPicture {
  points: Point[];
  curve: { x: number[]; y: number[] };
  /** All x and y that occur at any step: the axes do not jump. */
  reach: { x: ArrayLike<number>; y: ArrayLike<number> };
  xLabel: string;
  yLabel: string;
  log: boolean;
}

const LEFT = 62;
const RIGHT = 14;
const TOP = 24;
const BOTTOM = 40;

export class Scatter {
  readonly element: HTMLElement;
  private readonly canvas = el("canvas", { class: "scatter-canvas", tabindex: 0, role: "img" });
  private readonly readout = el("output", { class: "readout" });
  private picture: ScatterPicture | null = null;
  private picked = -1;
  private readonly redraw = everyFrame(() => this.draw());

  constructor(
    title: string,
    private readonly onPick: (name: string) => void,
  ) {
    this.canvas.setAttribute("aria-label", `${title}. Left and right go from layer to layer, Enter opens one.`);
    this.element = el("figure", { class: "scatter" }, this.canvas, this.readout);
    new ResizeObserver(this.redraw).observe(this.canvas);
    onTheme(this.redraw);
    this.canvas.addEventListener("pointermove", (event) => this.look(this.under(event)));
    this.canvas.addEventListener("pointerleave", () => document.activeElement === this.canvas || this.look(-1));
    this.canvas.addEventListener("click", (event) => {
      this.look(this.under(event));
      this.pick();
    });
    this.canvas.addEventListener("keydown", (event) => {
      const n = this.picture?.points.length ?? 0;
      if (event.key === "ArrowRight" && n) this.look((this.picked + 1) % n);
      else if (event.key === "ArrowLeft" && n) this.look((this.picked - 1 + n) % n);
      else if (event.key === "Enter") this.pick();
      else return;
      event.preventDefault();
    });
  }

  set(picture: ScatterPicture): void {
    this.picture = picture;
    this.canvas.setAttribute("data-points", String(picture.points.filter((p) => p.x > 0 && Number.isFinite(p.y)).length));
    this.say();
    this.redraw();
  }

  private places(): { x: (v: number) => number; y: (v: number) => number; xs: Scale; ys: Scale } {
    const box = this.canvas.getBoundingClientRect();
    const reach = this.picture?.reach ?? { x: [], y: [] };
    const xs = around([reach.x], true, 0.06);
    const log = this.picture?.log ?? false;
    const ys = log ? around([reach.y], true, 0.06) : { low: 0, high: Math.max(1, around([reach.y], false).high) * 1.04, log };
    return { x: placer(xs, LEFT, box.width - RIGHT), y: placer(ys, box.height - BOTTOM, TOP), xs, ys };
  }

  draw(): void {
    const { width, height, scale } = fit(this.canvas);
    const context = this.canvas.getContext("2d");
    const picture = this.picture;
    if (!context) return;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!picture) return;
    const { x, y, xs, ys } = this.places();
    context.font = "12px system-ui, sans-serif";
    context.strokeStyle = colour("--thin");
    context.fillStyle = colour("--soft");
    context.textBaseline = "middle";
    for (const tick of ticks(ys, 6)) {
      line(context, [LEFT, width - RIGHT], [y(tick), y(tick)]);
      context.textAlign = "right";
      context.fillText(number(tick), LEFT - 6, y(tick));
    }
    for (const tick of ticks(xs, Math.floor(width / 90))) {
      line(context, [x(tick), x(tick)], [TOP, height - BOTTOM]);
      context.textAlign = "center";
      context.fillText(number(tick), x(tick), height - BOTTOM + 12);
    }
    context.textAlign = "left";
    context.fillText(picture.yLabel, 4, 10);
    context.textAlign = "right";
    context.fillText(picture.xLabel, width - RIGHT, height - 9);
    context.save();
    context.beginPath();
    context.rect(LEFT - 6, TOP - 6, width - LEFT - RIGHT + 12, height - TOP - BOTTOM + 12);
    context.clip();
    context.strokeStyle = colour("--ink");
    context.lineWidth = 1.6;
    context.setLineDash([6, 3]);
    line(context, picture.curve.x.map(x), picture.curve.y.map(y));
    context.setLineDash([]);
    picture.points.forEach((point, i) => {
      const [a, b] = [x(point.x), y(point.y)];
      if (Number.isNaN(a + b)) return;
      context.beginPath();
      if (point.weight) context.arc(a, b, i === this.picked ? 8 : 5.5, 0, 7);
      else context.rect(a - 4, b - 4, 8, 8);
      context.fillStyle = css(point.depth);
      context.strokeStyle = i === this.picked ? colour("--accent") : colour("--ink");
      context.lineWidth = i === this.picked ? 3 : 0.8;
      context.fill();
      context.stroke();
    });
    context.restore();
  }

  private under(event: PointerEvent | MouseEvent): number {
    const box = this.canvas.getBoundingClientRect();
    const { x, y } = this.places();
    let best = -1;
    let least = 20 ** 2;
    this.picture?.points.forEach((point, i) => {
      const away = (x(point.x) - (event.clientX - box.left)) ** 2 + (y(point.y) - (event.clientY - box.top)) ** 2;
      if (away < least) [least, best] = [away, i];
    });
    return best;
  }

  private look(i: number): void {
    if (i === this.picked) return;
    this.picked = i;
    this.say();
    this.redraw();
  }

  private pick(): void {
    const point = this.picture?.points[this.picked];
    if (point) this.onPick(point.name);
  }

  private say(): void {
    const point = this.picture?.points[this.picked];
    this.readout.textContent = point ? `${point.name} · spread ${number(point.x)} · step ${number(point.y)} lr` : "";
  }
}

function line(context: CanvasRenderingContext2D, xs: number[], ys: number[]): void {
  context.beginPath();
  xs.forEach((x, i) => context.lineTo(x, ys[i] ?? NaN));
  context.stroke();
}
