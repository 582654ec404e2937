// Phase diagrams and basins: one number per setting, computed by the server, shown as it comes. A click loads a cell.

import { frames, post, Refused } from "../shared/api";
import { afterPause, waiting } from "../shared/busy";
import { colour, el, fit, rgb } from "../shared/dom";
import { onTheme } from "../shared/theme";
import { ticks } from "./chart";
import { numberField } from "./fields";
import { saved } from "./programs";
import { type Axis, type Catalogue, firstMap, label, type LandscapeInfo, MOST_STEPS, type Quantity, type Scene, short } from "./scene";

const WORDS: Record<Quantity, string> = {
  loss: "loss after the last step", min_loss: "lowest loss", first_inside: "steps until within 0.001 of the minimum", diverged_at: "step at which it diverges",
  period: "period of the cycle it ends in", basin: "which minimum it ends in", winner: "which method ends lowest",
};
const MARGIN = { left: 62, right: 10, top: 10, bottom: 36 };
const CIVIDIS: [number, number, number][] = [[0, 32, 76], [57, 72, 107], [102, 105, 112], [150, 142, 120], [200, 183, 103], [255, 234, 70]];

export interface MapsHost {
  scene: Scene;
  place: LandscapeInfo;
  catalogue: Catalogue;
  changed(): void;
  /** put a cell's setting into the player */
  load(values: Record<string, number>): void;
}

export class Maps {
  readonly root: HTMLElement;
  private readonly canvas: HTMLCanvasElement;
  private readonly form = el("div", { class: "map-form" });
  private readonly said = el("p", { class: "soft", id: "map-said", role: "status" });
  private readonly legend = el("div", { class: "legend", id: "map-legend" });
  private cells: { size: number; values: Float32Array } | null = null;
  private shown: { quantity: Quantity; x: Axis; y: Axis; names: string[] } | null = null;
  private abort: AbortController | null = null;
  private cross: [number, number] | null = null;
  private asked = "";
  /** milliseconds from asking to the first picture, and to the whole */
  times = { first: Number.NaN, whole: Number.NaN };

  constructor(private readonly host: MapsHost) {
    this.canvas = el("canvas", {
      id: "phase", class: "phase", tabindex: 0, role: "application",
      "aria-label": "Map of a quantity over two settings. Arrow keys move the cross; Enter loads its setting into the player.",
    });
    this.root = el("section", { class: "panel maps", id: "maps" }, this.form, el("div", { class: "phase-box" }, this.canvas, this.legend, this.said));
    onTheme(() => this.draw());
    this.listen();
  }

  build(): void {
    const { scene, place, catalogue } = this.host;
    const rule = catalogue.rules.find((r) => r.name === scene.methods[scene.method]!.rule)!;
    const names = [...place.variables.map((v) => `start.${v}`), ...rule.hyper.map((h) => h.name), ...Object.keys(place.params), ...(scene.noise === "none" ? [] : ["sigma"])];
    const map = scene.map;
    for (const axis of [map.x, map.y]) if (!names.includes(axis.name)) Object.assign(axis, axis === map.x ? firstMap(place).x : firstMap(place).y);
    if (map.x.name === map.y.name) map.y = { ...firstMap(place)[map.x.name === "lr" ? "x" : "y"] };
    const axis = (key: "x" | "y", words: string) => {
      const one = map[key];
      const choice = el("select", { "aria-label": words, id: `axis-${key}` }, ...names.map((n) => el("option", { value: n }, n.replace(".", " "))));
      choice.value = one.name;
      choice.addEventListener("change", () => {
        const name = choice.value;
        const i = place.variables.indexOf(name.slice(6));
        const value = rule.hyper.find((h) => h.name === name)?.default ?? place.params[name] ?? 1;
        const range: Axis = name.startsWith("start.")
          ? { name, low: place.view[i]![0]!, high: place.view[i]![1]!, log: false }
          : rule.hyper.some((h) => h.name === name && h.high === 1)
            ? { name, low: 0, high: 0.999, log: false }
            : name === "lr" ? { name, low: 1e-4, high: 1, log: true } : { name, low: (value || 1) / 100, high: (value || 1) * 100, log: true };
        map[key] = range;
        this.host.changed();
        this.build();
        this.later();
      });
      const end = (side: "low" | "high") =>
        numberField(side === "low" ? "from" : "to", one[side], null, (v) => {
          one[side] = v;
          this.host.changed();
          this.later();
        }, () => "", { "aria-label": `${words}: ${side === "low" ? "from" : "to"}` }).root;
      const log = el("input", { type: "checkbox", checked: one.log, "aria-label": `${words}: even factors` });
      log.addEventListener("change", () => {
        one.log = log.checked && one.low > 0;
        log.checked = one.log;
        this.host.changed();
        this.later();
      });
      return el("div", { class: "axis" }, el("span", {}, words), choice, end("low"), end("high"), el("label", { class: "check" }, log, " log"));
    };
    const quantity = el("select", { id: "quantity", "aria-label": "Quantity" }, ...(Object.keys(WORDS) as Quantity[]).map((q) => el("option", { value: q }, WORDS[q])));
    quantity.value = map.quantity;
    quantity.addEventListener("change", () => {
      map.quantity = quantity.value as Quantity;
      this.host.changed();
      this.later();
    });
    const size = el("select", { id: "size", "aria-label": "Cells along a side" }, ...[64, 128, 256, 512].map((n) => el("option", { value: n }, `${n} × ${n}`)));
    size.value = String([64, 128, 256, 512].includes(map.size) ? map.size : 256);
    size.addEventListener("change", () => {
      map.size = Number(size.value);
      this.host.changed();
      this.later();
    });
    const steps = numberField("steps", map.steps, null, (v) => {
      map.steps = Math.round(v);
      this.host.changed();
      this.later();
    }, (v) => (v >= 1 && v <= MOST_STEPS ? "" : "from 1 to a million"), { id: "map-steps" });
    const basin = (name: string, f: () => void) => el("button", { type: "button", onclick: () => { f(); this.host.changed(); this.build(); this.later(); } }, name);
    const start = (k: number): Axis => ({ name: `start.${place.variables[k]}`, low: place.view[k]![0]!, high: place.view[k]![1]!, log: false });
    this.form.replaceChildren(
      el("div", { class: "row" },
        basin("Phase diagram: start × rate", () => Object.assign(map, { ...firstMap(place), size: map.size, steps: map.steps })),
        place.variables.length > 1 ? basin("Basins over the map", () => Object.assign(map, { x: start(scene.plane[0]), y: start(scene.plane[1]), quantity: "basin" })) : null,
        place.variables.length > 1 ? basin("Who wins where", () => Object.assign(map, { x: start(scene.plane[0]), y: start(scene.plane[1]), quantity: "winner" })) : null),
      el("label", { class: "field pick" }, el("span", {}, "show"), quantity),
      axis("x", "across"), axis("y", "up"),
      el("div", { class: "row" }, steps.root, size),
      el("p", { class: "soft" }, `of ${label(scene.methods, scene.method)}, the method chosen in the player; everything else is as set there`),
    );
  }

  /** Ask again, a moment after the last change. */
  readonly later = afterPause(150, () => this.compute());

  /** Ask the server, unless this very map is there. */
  compute(): Promise<void> {
    return waiting(this.ask());
  }

  private async ask(): Promise<void> {
    const { scene } = this.host;
    if (saved) {
      this.said.textContent = "Maps are computed by the server: start `stepscope play`.";
      return;
    }
    const map = scene.map;
    const methods = map.quantity === "winner" ? scene.methods : [scene.methods[scene.method]!];
    const common = (name: string) => methods.every((one) => name in one.hyper) || !methods.some((one) => name in one.hyper);
    if (map.quantity === "winner" && !(common(map.x.name) && common(map.y.name))) {
      this.said.textContent = "Not every method has that number: choose axes that all share, such as the start or lr.";
      return;
    }
    const body = {
      landscape: scene.landscape, params: scene.params, start: scene.start, methods, x: map.x, y: map.y, quantity: map.quantity,
      steps: map.steps, size: map.size, noise: scene.noise, sigma: scene.sigma, seed: scene.seed,
    };
    const key = JSON.stringify(body);
    if (key === this.asked) return;
    this.asked = key;
    this.abort?.abort();
    const abort = (this.abort = new AbortController());
    const begun = performance.now();
    this.said.textContent = "computing …";
    try {
      const stream = await post("/api/map", body, abort.signal);
      let first = true;
      for await (const { header, data } of frames(stream)) {
        if (abort.signal.aborted) return;
        if (header.error) throw new Error(String(header.error));
        const size = Number(header.size);
        const rows = new Float32Array(data);
        if (!this.cells || first || this.cells.size !== size) {
          const old = first ? null : this.cells;
          this.cells = { size, values: new Float32Array(size * size).fill(Number.NaN) };
          if (old) for (let j = 0; j < size; j++) for (let i = 0; i < size; i++) this.cells.values[j * size + i] = old.values[Math.floor((j * old.size) / size) * old.size + Math.floor((i * old.size) / size)]!;
        }
        this.cells.values.set(rows, Number(header.row) * size);
        this.shown = { quantity: map.quantity, x: { ...map.x }, y: { ...map.y }, names: scene.methods.map((_, k) => label(scene.methods, k)) };
        this.draw();
        if (first) this.times.first = performance.now() - begun;
        first = false;
        if (header.done) {
          this.times.whole = performance.now() - begun;
          this.said.textContent = `${size} × ${size} paths of ${map.steps.toLocaleString("en")} steps in ${short(this.times.whole / 1000, 2)} s`;
          this.canvas.dataset.done = String(size);
        }
      }
    } catch (error) {
      if (abort.signal.aborted) return;
      this.asked = "";
      this.said.textContent = error instanceof Refused || error instanceof Error ? error.message : String(error);
    }
  }

  private valueAt(axis: Axis, f: number): number {
    return axis.log ? axis.low * (axis.high / axis.low) ** f : axis.low + f * (axis.high - axis.low);
  }

  draw(): void {
    const { width, height, scale } = fit(this.canvas);
    const c = this.canvas.getContext("2d")!;
    c.setTransform(scale, 0, 0, scale, 0, 0);
    c.fillStyle = colour("--surface");
    c.fillRect(0, 0, width, height);
    if (!this.cells || !this.shown) return;
    const { size, values } = this.cells;
    const kind = this.shown.quantity;
    const classes = kind === "winner" || (kind === "basin" && this.host.place.minima.length > 0);
    let low = Infinity;
    let high = -Infinity;
    const log = kind === "loss" || kind === "min_loss" || kind === "first_inside" || kind === "diverged_at";
    for (const v of values) {
      if (log ? v > 1e-30 && v < 1e30 : Number.isFinite(v)) {
        if (v < low) low = v;
        if (v > high) high = v;
      }
    }
    const useLog = log && low > 0 && high > low;
    if (kind === "loss" || kind === "min_loss") low = Math.max(low, high * 1e-20);
    const [a, b] = useLog ? [Math.log10(low), Math.log10(high)] : [low, high];
    const none = rgb(colour("--wash"));
    const hues = Array.from({ length: 8 }, (_, k) => rgb(colour(`--c${k}`)));
    const tint = (v: number): [number, number, number] => {
      if (classes) return Number.isNaN(v) ? none : hues[Math.round(v) % 8]!;
      if (Number.isNaN(v)) return none;
      const f = Math.min(1, Math.max(0, ((useLog ? Math.log10(Math.max(v, low)) : v) - a) / (b - a || 1))) * (CIVIDIS.length - 1.0001);
      const k = Math.floor(f);
      return [0, 1, 2].map((q) => CIVIDIS[k]![q]! + (f - k) * (CIVIDIS[k + 1]![q]! - CIVIDIS[k]![q]!)) as [number, number, number];
    };
    const picture = document.createElement("canvas");
    picture.width = picture.height = size;
    const p = picture.getContext("2d")!;
    const data = p.createImageData(size, size);
    for (let j = 0; j < size; j++) {
      for (let i = 0; i < size; i++) {
        const [r, g, bl] = tint(values[(size - 1 - j) * size + i]!);
        const k = 4 * (j * size + i);
        data.data[k] = r;
        data.data[k + 1] = g;
        data.data[k + 2] = bl;
        data.data[k + 3] = 255;
      }
    }
    p.putImageData(data, 0, 0);
    const w = width - MARGIN.left - MARGIN.right;
    const h = height - MARGIN.top - MARGIN.bottom;
    c.imageSmoothingEnabled = false;
    c.drawImage(picture, MARGIN.left, MARGIN.top, w, h);
    c.strokeStyle = colour("--line");
    c.strokeRect(MARGIN.left + 0.5, MARGIN.top + 0.5, w - 1, h - 1);
    c.font = "12px system-ui, sans-serif";
    c.fillStyle = colour("--soft");
    const position = (axis: Axis, v: number) => (axis.log ? Math.log(v / axis.low) / Math.log(axis.high / axis.low) : (v - axis.low) / (axis.high - axis.low));
    c.textAlign = "center";
    c.textBaseline = "top";
    for (const v of ticks(this.shown.x.low, this.shown.x.high, this.shown.x.log, Math.floor(w / 90))) c.fillText(short(v), MARGIN.left + position(this.shown.x, v) * w, height - MARGIN.bottom + 5);
    c.textAlign = "right";
    c.fillText(this.shown.x.name.replace(".", " "), width - MARGIN.right, height - 15);
    c.textBaseline = "middle";
    for (const v of ticks(this.shown.y.low, this.shown.y.high, this.shown.y.log, Math.floor(h / 50))) c.fillText(short(v), MARGIN.left - 5, MARGIN.top + h - position(this.shown.y, v) * h);
    c.save();
    c.translate(10, MARGIN.top);
    c.rotate(-Math.PI / 2);
    c.fillText(this.shown.y.name.replace(".", " "), 0, 0);
    c.restore();
    if (this.cross) {
      const [x, y] = [MARGIN.left + this.cross[0] * w, MARGIN.top + (1 - this.cross[1]) * h];
      for (const [thick, ink] of [[3, "--surface"], [1.2, "--ink"]] as const) {
        c.lineWidth = thick;
        c.strokeStyle = colour(ink);
        c.beginPath();
        c.moveTo(x - 9, y);
        c.lineTo(x + 9, y);
        c.moveTo(x, y - 9);
        c.lineTo(x, y + 9);
        c.stroke();
      }
    }
    this.key(classes, low, high, useLog);
  }

  private key(classes: boolean, low: number, high: number, log: boolean): void {
    const { place } = this.host;
    if (classes) {
      const names = this.shown!.quantity === "winner" ? this.shown!.names : place.minima.map((m) => `(${m.map((v) => short(v, 3)).join(", ")})`);
      this.legend.replaceChildren(
        ...names.map((name, k) => {
          const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
          swatch.style.background = colour(`--c${k % 8}`);
          return el("span", {}, swatch, name);
        }),
        el("span", { class: "soft" }, "blank: none"),
      );
      return;
    }
    const ramp = el("canvas", { class: "ramp", width: 160, height: 10, role: "img", "aria-label": "colour scale" });
    const c = ramp.getContext("2d")!;
    const g = c.createLinearGradient(0, 0, 160, 0);
    CIVIDIS.forEach(([r, gr, b], k) => g.addColorStop(k / (CIVIDIS.length - 1), `rgb(${r},${gr},${b})`));
    c.fillStyle = g;
    c.fillRect(0, 0, 160, 10);
    const fine = Number.isFinite(low);
    this.legend.replaceChildren(fine ? short(low, 3) : "", ramp, fine ? `${short(high, 3)}${log ? " (log)" : ""}` : "", el("span", { class: "soft" }, "blank: none or not a number"));
  }

  private at(px: number, py: number): [number, number] {
    const clamp = (v: number) => Math.min(0.9999, Math.max(0, v));
    const r = this.canvas.getBoundingClientRect();
    return [
      clamp((px - r.left - MARGIN.left) / (r.width - MARGIN.left - MARGIN.right)),
      clamp(1 - (py - r.top - MARGIN.top) / (r.height - MARGIN.top - MARGIN.bottom)),
    ];
  }

  private tell(): void {
    if (!this.cross || !this.shown || !this.cells) return;
    const [fx, fy] = this.cross;
    const { size, values } = this.cells;
    const v = values[Math.floor(fy * size) * size + Math.floor(fx * size)]!;
    const { quantity, x, y } = this.shown;
    const what = Number.isNaN(v) ? "none" : quantity === "winner" ? this.shown.names[Math.round(v)]! : short(v);
    this.said.textContent = `${x.name.replace(".", " ")} ${short(this.cell(x, fx))}, ${y.name.replace(".", " ")} ${short(this.cell(y, fy))}: ${what}`;
  }

  /** The value at the middle of the cell: what the server computed. */
  private cell(axis: Axis, f: number): number {
    const size = this.cells!.size;
    return this.valueAt(axis, (Math.floor(f * size) + 0.5) / size);
  }

  private load(): void {
    if (!this.cross || !this.shown) return;
    const [fx, fy] = this.cross;
    const round = (v: number) => Number(v.toPrecision(12));
    this.host.load({ [this.shown.x.name]: round(this.cell(this.shown.x, fx)), [this.shown.y.name]: round(this.cell(this.shown.y, fy)) });
  }

  private listen(): void {
    this.canvas.addEventListener("pointermove", (event) => {
      this.cross = this.at(event.clientX, event.clientY);
      this.tell();
      this.draw();
    });
    this.canvas.addEventListener("click", (event) => {
      this.cross = this.at(event.clientX, event.clientY);
      this.load();
    });
    this.canvas.addEventListener("keydown", (event) => {
      const by = event.shiftKey ? 0.1 : 0.01;
      const move = (dx: number, dy: number) => {
        const [x, y] = this.cross ?? [0.5, 0.5];
        this.cross = [Math.min(0.9999, Math.max(0, x + dx)), Math.min(0.9999, Math.max(0, y + dy))];
        this.tell();
        this.draw();
      };
      const does: Record<string, () => void> = {
        ArrowLeft: () => move(-by, 0), ArrowRight: () => move(by, 0), ArrowUp: () => move(0, by), ArrowDown: () => move(0, -by), Enter: () => this.load(),
      };
      const f = does[event.key];
      if (!f) return;
      event.preventDefault();
      event.stopPropagation();
      f();
    });
  }
}
