// The map, the primary view: contours of log loss, every path up to the shown step (and faintly beyond), the start to
// drag. In one dimension it is the graph of the loss.

import { colour, el, fit } from "../shared/dom";
import { onTheme } from "../shared/theme";
import { drawMark, escaped, ticks } from "./chart";
import type { Path } from "./engine";
import { contours, type Field, field, shade } from "./field";
import { look } from "./look";
import type { Curves, LandscapeFunctions } from "./programs";
import { label, type LandscapeInfo, type Scene, short } from "./scene";
import { hasLimit, paintUnstable } from "./stability";
import type { Stored } from "./stored";

const GRID = 121;
const LEVELS = 16;
const MARGIN = { left: 46, right: 8, top: 8, bottom: 26 };

export interface MapInput {
  scene: Scene;
  place: LandscapeInfo;
  functions: LandscapeFunctions;
  paths: Path[];
  /** from a file */
  stored: Stored[];
  /** the theory, where the part of the map in which the shown method's step is unstable is to be tinted */
  unstable: Curves | null;
}

export class MapView {
  readonly canvas: HTMLCanvasElement;
  readonly root: HTMLElement;
  private input: MapInput | null = null;
  private base: HTMLCanvasElement | null = null;
  private lines: Float64Array[] = [];
  private field_: Field | null = null;
  private drawn = "";

  constructor(
    private readonly moveStart: (point: number[]) => void,
    private readonly moveView: (box: number[][]) => void,
  ) {
    this.canvas = el("canvas", {
      id: "map", class: "map", tabindex: 0, role: "application",
      "aria-label": "Map of the landscape. Arrow keys move the start; plus and minus zoom; 0 shows everything.",
    });
    const zoom = (name: string, text: string, f: number) =>
      el("button", { type: "button", "aria-label": name, onclick: () => (f ? this.zoom(f) : this.reset()) }, text);
    const buttons = el("div", { class: "map-buttons" }, zoom("Zoom in", "+", 0.7), zoom("Zoom out", "−", 1 / 0.7), zoom("Show everything", "all", 0));
    this.root = el("div", { class: "map-box" }, buttons, this.canvas);
    this.pointer();
    this.keys();
    onTheme(() => {
      this.drawn = "";
      this.draw();
    });
  }

  show(input: MapInput): void {
    this.input = input;
    this.draw();
  }

  /** The heights on the grid, which the surface shows too. */
  get field(): Field | null {
    return this.field_;
  }

  private get flat(): boolean {
    return this.input!.place.variables.length === 1;
  }

  private box(): number[][] {
    const { scene } = this.input!;
    return this.flat ? [scene.view[0]!, this.range1d()] : scene.view;
  }

  private range1d(): [number, number] {
    const { scene, functions } = this.input!;
    const [a, b] = scene.view[0]!;
    let low = Infinity;
    let high = -Infinity;
    for (let i = 0; i <= 200; i++) {
      const v = functions.loss([a! + ((b! - a!) * i) / 200]);
      if (Number.isFinite(v)) {
        low = Math.min(low, v);
        high = Math.max(high, v);
      }
    }
    if (!(high > low)) [low, high] = [low - 1, low + 1];
    return [low - 0.06 * (high - low), high + 0.06 * (high - low)];
  }

  private frame(width: number, height: number) {
    const [[x0, x1], [y0, y1]] = this.box() as [[number, number], [number, number]];
    const w = width - MARGIN.left - MARGIN.right;
    const h = height - MARGIN.top - MARGIN.bottom;
    return {
      x0, x1, y0, y1, w, h,
      X: (x: number) => MARGIN.left + ((x - x0) / (x1 - x0)) * w,
      Y: (y: number) => MARGIN.top + h - ((y - y0) / (y1 - y0)) * h,
      at: (px: number, py: number): [number, number] => [x0 + ((px - MARGIN.left) / w) * (x1 - x0), y0 + ((MARGIN.top + h - py) / h) * (y1 - y0)],
    };
  }

  private prepare(): void {
    const { scene, place, functions } = this.input!;
    const fixed = scene.plane.length === 2 && place.variables.length > 2 ? scene.start : [];
    const key = JSON.stringify([scene.landscape, scene.params, scene.view, scene.plane, fixed]);
    if (key === this.drawn || this.flat) return;
    this.drawn = key;
    const x = Float64Array.from(scene.start);
    const [i, j] = scene.plane;
    const loss = (a: number, b: number) => {
      x[i] = a;
      x[j] = b;
      return functions.loss(x);
    };
    const known = place.minima.map((one) => functions.loss(one));
    const f = field(loss, scene.view, GRID, known);
    this.field_ = f;
    const picture = document.createElement("canvas");
    picture.width = picture.height = GRID;
    const c = picture.getContext("2d")!;
    const colours = shade(f.height, 4); // from the lowest row up
    const data = c.createImageData(GRID, GRID);
    for (let row = 0; row < GRID; row++) data.data.set(colours.subarray(4 * GRID * row, 4 * GRID * (row + 1)), 4 * GRID * (GRID - 1 - row));
    c.putImageData(data, 0, 0);
    this.base = picture;
    this.lines = contours(f, Array.from({ length: LEVELS }, (_, k) => (k + 0.5) / LEVELS));
  }

  draw(): void {
    if (!this.input) return;
    this.prepare();
    const { width, height, scale } = fit(this.canvas);
    const c = this.canvas.getContext("2d")!;
    c.setTransform(scale, 0, 0, scale, 0, 0);
    c.fillStyle = colour("--surface");
    c.fillRect(0, 0, width, height);
    this.paint(c, width, height);
    this.canvas.dataset.start = JSON.stringify(this.input.scene.start);
  }

  /** Draws on any context: the page's canvas, or a larger one for a file. */
  paint(c: CanvasRenderingContext2D, width: number, height: number): void {
    const { scene, place, paths } = this.input!;
    const f = this.frame(width, height);
    c.save();
    c.beginPath();
    c.rect(MARGIN.left, MARGIN.top, f.w, f.h);
    c.clip();
    if (this.flat) this.graph(c, f);
    else {
      c.imageSmoothingEnabled = true;
      c.drawImage(this.base!, MARGIN.left - f.w / (2 * GRID), MARGIN.top - f.h / (2 * GRID), (f.w * GRID) / (GRID - 1), (f.h * GRID) / (GRID - 1));
      c.strokeStyle = colour("--soft");
      c.globalAlpha = 0.45;
      c.lineWidth = 0.8;
      c.beginPath();
      for (const s of this.lines) {
        for (let k = 0; k < s.length; k += 4) {
          c.moveTo(f.X(s[k]!), f.Y(s[k + 1]!));
          c.lineTo(f.X(s[k + 2]!), f.Y(s[k + 3]!));
        }
      }
      c.stroke();
      c.globalAlpha = 1;
      c.fillStyle = colour("--ink");
      for (const one of place.minima) {
        const [x, y] = [f.X(one[scene.plane[0]]!), f.Y(one[scene.plane[1]]!)];
        c.fillRect(x - 5, y - 0.75, 10, 1.5);
        c.fillRect(x - 0.75, y - 5, 1.5, 10);
      }
    }
    const { unstable, functions } = this.input!;
    const chosen = paths[scene.method];
    delete this.canvas.dataset.unstable;
    if (unstable && chosen && !this.flat && hasLimit(chosen.method.rule)) {
      this.canvas.dataset.unstable = paintUnstable(c, f, scene, chosen, functions, unstable).toFixed(3);
    }
    for (const one of this.input!.stored) this.storedPath(c, f, one, scene.at);
    for (const [k, path] of paths.entries()) this.path(c, f, path, k, scene.at);
    for (const [k, path] of paths.entries()) {
      const [x, y] = this.shown(path, scene.at);
      const style = look(k);
      drawMark(c, f.X(x), f.Y(y), style.colour, style.shape, 6);
    }
    this.handle(c, f);
    c.restore();
    this.axes(c, width, height, f);
  }

  private shown(path: Path, t: number): [number, number] {
    const out = path.look(t);
    if (this.flat) return [out[path.place("theta.0")]!, out[path.place("loss")]!];
    const [i, j] = this.input!.scene.plane;
    return [out[path.place(`theta.${i}`)]!, out[path.place(`theta.${j}`)]!];
  }

  private graph(c: CanvasRenderingContext2D, f: ReturnType<MapView["frame"]>): void {
    const { functions } = this.input!;
    c.strokeStyle = colour("--soft");
    c.lineWidth = 1.5;
    c.beginPath();
    for (let k = 0; k <= 400; k++) {
      const x = f.x0 + ((f.x1 - f.x0) * k) / 400;
      c.lineTo(f.X(x), f.Y(functions.loss([x])));
    }
    c.stroke();
  }

  private path(c: CanvasRenderingContext2D, f: ReturnType<MapView["frame"]>, path: Path, index: number, at: number): void {
    const style = look(index);
    const [i, j] = this.flat ? [0, path.width - 1] : this.input!.scene.plane;
    c.strokeStyle = style.colour;
    c.lineJoin = "round";
    c.setLineDash(style.dash);
    const { rows, width, count } = path;
    const until = Math.min(count - 1, Math.floor(at / path.every));
    const stroke = (first: number, last: number, alpha: number, thick: number) => {
      c.globalAlpha = alpha;
      c.lineWidth = thick;
      c.beginPath();
      let px = 1e9;
      let py = 1e9;
      for (let row = first; row <= last; row++) {
        const x = f.X(rows[row * width + i]!);
        const y = f.Y(rows[row * width + j]!);
        if (!(Math.abs(x) < 1e5 && Math.abs(y) < 1e5)) break;
        if (row !== first && row !== last && Math.abs(x - px) < 0.6 && Math.abs(y - py) < 0.6) continue;
        if (row === first) c.moveTo(x, y);
        else c.lineTo(x, y);
        px = x;
        py = y;
      }
      c.stroke();
    };
    stroke(until, count - 1, 0.28, 1.2);
    stroke(0, until, 1, 2.2);
    c.setLineDash([]);
    c.globalAlpha = 1;
    if (until <= 60) {
      c.fillStyle = style.colour;
      for (let row = 1; row <= until; row++) {
        c.beginPath();
        c.arc(f.X(rows[row * width + i]!), f.Y(rows[row * width + j]!), 2.4, 0, 7);
        c.fill();
      }
    }
  }

  private storedPath(c: CanvasRenderingContext2D, f: ReturnType<MapView["frame"]>, one: Stored, at: number): void {
    const [i, j] = this.input!.scene.plane;
    const [across, up] = this.flat ? [one.theta[0]!, one.loss] : [one.theta[i]!, one.theta[j]!];
    c.strokeStyle = colour("--ink");
    c.lineWidth = 1.4;
    c.setLineDash([1, 3]);
    c.lineCap = "round";
    c.beginPath();
    let last = 0;
    for (let row = 0; row < one.steps.length; row++) {
      const [x, y] = [f.X(across[row]!), f.Y(up[row]!)];
      if (!(Math.abs(x) < 1e5 && Math.abs(y) < 1e5)) break;
      c.lineTo(x, y);
      if (one.steps[row]! <= at) last = row;
    }
    c.stroke();
    c.setLineDash([]);
    c.lineCap = "butt";
    drawMark(c, f.X(across[last]!), f.Y(up[last]!), colour("--ink"), "circle", 4);
  }

  private startPixels(f: ReturnType<MapView["frame"]>): [number, number] {
    const { scene, functions } = this.input!;
    const [i, j] = scene.plane;
    return this.flat ? [f.X(scene.start[0]!), f.Y(functions.loss(scene.start))] : [f.X(scene.start[i]!), f.Y(scene.start[j]!)];
  }

  private handle(c: CanvasRenderingContext2D, f: ReturnType<MapView["frame"]>): void {
    const [x, y] = this.startPixels(f);
    c.lineWidth = 4;
    c.strokeStyle = colour("--surface");
    c.beginPath();
    c.arc(x, y, 8.5, 0, 7);
    c.stroke();
    c.lineWidth = 2;
    c.strokeStyle = colour("--ink");
    c.beginPath();
    c.arc(x, y, 8.5, 0, 7);
    c.stroke();
  }

  private axes(c: CanvasRenderingContext2D, width: number, height: number, f: ReturnType<MapView["frame"]>): void {
    const { place, scene } = this.input!;
    c.fillStyle = colour("--soft");
    c.strokeStyle = colour("--line");
    c.lineWidth = 1;
    c.strokeRect(MARGIN.left + 0.5, MARGIN.top + 0.5, f.w - 1, f.h - 1);
    c.font = "12px system-ui, sans-serif";
    c.textAlign = "center";
    c.textBaseline = "top";
    for (const v of ticks(f.x0, f.x1, false, Math.max(2, Math.floor(f.w / 80)))) {
      const x = f.X(v);
      if (x > MARGIN.left + 8 && x < width - 40) c.fillText(short(v), x, height - MARGIN.bottom + 5);
    }
    c.textAlign = "right";
    c.fillText(place.variables[scene.plane[0]]!, width - 8, height - MARGIN.bottom + 5);
    c.textBaseline = "middle";
    for (const v of ticks(f.y0, f.y1, false, Math.max(2, Math.floor(f.h / 48)))) {
      const y = f.Y(v);
      if (y > MARGIN.top + 20 && y < height - MARGIN.bottom - 4) c.fillText(short(v), MARGIN.left - 5, y);
    }
    c.fillText(this.flat ? "loss" : place.variables[scene.plane[1]]!, MARGIN.left - 5, MARGIN.top + 8);
  }

  private pointer(): void {
    let mode: "start" | "pan" | null = null;
    let last: [number, number] = [0, 0];
    let box: number[][] = [];
    const touches = new Map<number, [number, number]>();
    const spot = (event: PointerEvent): [number, number] => {
      const r = this.canvas.getBoundingClientRect();
      return [event.clientX - r.left, event.clientY - r.top];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      if (!this.input) return;
      this.canvas.setPointerCapture(event.pointerId);
      const p = spot(event);
      touches.set(event.pointerId, p);
      const f = this.frame(this.canvas.clientWidth, this.canvas.clientHeight);
      const [sx, sy] = this.startPixels(f);
      mode = Math.hypot(p[0] - sx, p[1] - sy) < (event.pointerType === "touch" ? 26 : 16) ? "start" : "pan";
      last = p;
      box = this.input.scene.view.map((one) => [...one]);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!mode || !this.input) return;
      const p = spot(event);
      const f = this.frame(this.canvas.clientWidth, this.canvas.clientHeight);
      if (touches.size === 2) {
        const [a, b] = [...touches.values()] as [[number, number], [number, number]];
        const before = Math.hypot(a[0] - b[0], a[1] - b[1]);
        touches.set(event.pointerId, p);
        const [u, v] = [...touches.values()] as [[number, number], [number, number]];
        const after = Math.hypot(u[0] - v[0], u[1] - v[1]);
        if (before > 10 && after > 10) this.zoom(before / after, f.at((u[0] + v[0]) / 2, (u[1] + v[1]) / 2));
        return;
      }
      touches.set(event.pointerId, p);
      if (mode === "start") {
        const [x, y] = f.at(...p);
        this.place(x, y);
      } else {
        const dx = ((p[0] - last[0]) / f.w) * (f.x1 - f.x0);
        const dy = ((p[1] - last[1]) / f.h) * (f.y1 - f.y0);
        this.moveView(box.map(([low, high], k) => (k === 0 ? [low! - dx, high! - dx] : [low! + dy, high! + dy])));
      }
    });
    const end = (event: PointerEvent) => {
      touches.delete(event.pointerId);
      mode = null;
    };
    this.canvas.addEventListener("pointerup", end);
    this.canvas.addEventListener("pointercancel", end);
    this.canvas.addEventListener("dblclick", (event) => {
      if (!this.input) return;
      const r = this.canvas.getBoundingClientRect();
      this.place(...this.frame(this.canvas.clientWidth, this.canvas.clientHeight).at(event.clientX - r.left, event.clientY - r.top));
    });
    this.canvas.addEventListener(
      "wheel",
      (event) => {
        if (!this.input || !(event.ctrlKey || event.metaKey || document.activeElement === this.canvas)) return;
        event.preventDefault();
        const r = this.canvas.getBoundingClientRect();
        const f = this.frame(this.canvas.clientWidth, this.canvas.clientHeight);
        this.zoom(Math.exp(Math.sign(event.deltaY) * 0.15), f.at(event.clientX - r.left, event.clientY - r.top));
      },
      { passive: false },
    );
  }

  private place(x: number, y: number): void {
    const { scene } = this.input!;
    const point = [...scene.start];
    const [i, j] = scene.plane;
    point[i] = Number(x.toPrecision(6));
    if (!this.flat) point[j] = Number(y.toPrecision(6));
    this.moveStart(point);
  }

  zoom(factor: number, about?: [number, number]): void {
    if (!this.input) return;
    this.moveView(
      this.input.scene.view.map(([low, high], k) => {
        const at = about?.[k] ?? (low! + high!) / 2;
        return [at + (low! - at) * factor, at + (high! - at) * factor];
      }),
    );
  }

  reset(): void {
    if (this.input) this.moveView(this.input.scene.plane.slice(0, this.input.place.variables.length).map((k) => [...this.input!.place.view[k]!]));
  }

  private keys(): void {
    this.canvas.addEventListener("keydown", (event) => {
      if (!this.input || event.ctrlKey || event.metaKey || event.altKey) return;
      const { scene } = this.input;
      const by = event.shiftKey ? 0.1 : 0.01;
      const move = (k: number, sign: number) => {
        const box = scene.view[k];
        if (!box) return;
        const point = [...scene.start];
        const c = scene.plane[k]!;
        point[c] = Number((point[c]! + sign * by * (box[1]! - box[0]!)).toPrecision(6));
        this.moveStart(point);
      };
      const does: Record<string, () => void> = {
        ArrowLeft: () => move(0, -1), ArrowRight: () => move(0, 1), ArrowDown: () => move(1, -1), ArrowUp: () => move(1, 1),
        "+": () => this.zoom(0.7), "=": () => this.zoom(0.7), "-": () => this.zoom(1 / 0.7), "0": () => this.reset(),
      };
      const f = does[event.key];
      if (!f) return;
      event.preventDefault();
      event.stopPropagation();
      f();
    });
  }

  /** The map as an SVG document. */
  svg(width = 820, height = 700): string {
    const { scene, place, paths } = this.input!;
    const f = this.frame(width, height);
    const out = [
      `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="sans-serif" font-size="12">`,
      `<rect width="${width}" height="${height}" fill="${colour("--surface")}"/>`,
      `<clipPath id="box"><rect x="${MARGIN.left}" y="${MARGIN.top}" width="${f.w}" height="${f.h}"/></clipPath><g clip-path="url(#box)">`,
    ];
    if (this.flat) {
      const d = Array.from({ length: 401 }, (_, k) => f.x0 + ((f.x1 - f.x0) * k) / 400).map((x) => `${f.X(x).toFixed(1)} ${f.Y(this.input!.functions.loss([x])).toFixed(1)}`);
      out.push(`<path d="M${d.join("L")}" fill="none" stroke="${colour("--soft")}"/>`);
    } else {
      out.push(`<image href="${this.base!.toDataURL("image/png")}" x="${MARGIN.left}" y="${MARGIN.top}" width="${f.w}" height="${f.h}" preserveAspectRatio="none"/>`);
      let d = "";
      for (const s of this.lines) {
        for (let k = 0; k < s.length; k += 4) d += `M${f.X(s[k]!).toFixed(1)} ${f.Y(s[k + 1]!).toFixed(1)}L${f.X(s[k + 2]!).toFixed(1)} ${f.Y(s[k + 3]!).toFixed(1)}`;
      }
      out.push(`<path d="${d}" fill="none" stroke="${colour("--soft")}" stroke-opacity="0.45" stroke-width="0.8"/>`);
    }
    for (const [k, path] of paths.entries()) {
      const style = look(k);
      const [i, j] = this.flat ? [0, path.width - 1] : scene.plane;
      const points: string[] = [];
      let before = "";
      for (let row = 0; row < path.count && path.stepOf(row) <= scene.at; row++) {
        const [x, y] = [f.X(path.rows[row * path.width + i]!), f.Y(path.rows[row * path.width + j]!)];
        if (!(Math.abs(x) < 1e5 && Math.abs(y) < 1e5)) break;
        const point = `${x.toFixed(1)} ${y.toFixed(1)}`;
        if (point !== before) points.push(point);
        before = point;
      }
      const dash = style.dash.length ? ` stroke-dasharray="${style.dash.join(" ")}"` : "";
      out.push(`<path d="M${points.join("L")}" fill="none" stroke="${style.colour}" stroke-width="2.2"${dash}><title>${escaped(label(scene.methods, k))}</title></path>`);
    }
    out.push("</g>");
    const text = (x: number, y: number, anchor: string, words: string) => out.push(`<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}" fill="${colour("--soft")}">${escaped(words)}</text>`);
    for (const v of ticks(f.x0, f.x1, false, 8)) text(f.X(v), height - 8, "middle", short(v));
    for (const v of ticks(f.y0, f.y1, false, 8)) text(MARGIN.left - 5, f.Y(v) + 4, "end", short(v));
    text(width - 8, height - 8, "end", place.variables[scene.plane[0]]!);
    scene.methods.forEach((_, k) => out.push(`<text x="${MARGIN.left + 10}" y="${MARGIN.top + 18 + 16 * k}" fill="${look(k).colour}">${escaped(label(scene.methods, k))}</text>`));
    return `${out.join("\n")}\n</svg>\n`;
  }
}
