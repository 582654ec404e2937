// The tabs of a run that show values. Each asks for what it shows, again whenever the run has grown.

import { el } from "../shared/dom";
import { Chart, type Mark } from "./chart";
import { chosenColumn, chosenLayers, Controls, describe, instruments, logOf, notes } from "./controls";
import { curves, key, matrices, series, type Curves, type Detail, type Matrix, type Range } from "./data";
import { count, words } from "./format";
import { given, Grid } from "./grid";
import { HeatMap } from "./heat";
import { sentence, stepOf, titleOf } from "./panes";
import { go, type Route } from "./route";
import { Scatter } from "./scatter";
import { Asker, message } from "./view";

export interface Pane {
  readonly element: HTMLElement;
  show(detail: Detail, route: Route, range: Range): void;
  end(): void;
}

/** Zooming on any chart sets the range of all. */
const zoom = (first?: number, last?: number): void => go({ range: first === undefined || last === undefined ? "" : `${Math.max(0, first)}-${Math.max(1, last)}` }, true);

/** The newest alarms, as marks; more would hide the lines. */
const marksOf = (detail: Detail, layer?: string): Mark[] =>
  detail.events.slice(-300).flatMap((event) => {
    const step = stepOf(event);
    if (step === null || event.kind !== "alarm" || (layer !== undefined && event.layer && event.layer !== layer)) return [];
    return [{ step, text: `▲ ${titleOf(event)}: ${sentence(event)}` }];
  });

const bucketsFor = (element: HTMLElement): number => Math.max(100, Math.min(1200, Math.round(element.clientWidth || 800)));

/** What all panes do: remember what is to be shown, ask for it, say what went wrong. */
abstract class Asking implements Pane {
  abstract readonly element: HTMLElement;
  protected detail!: Detail;
  protected now!: Route;
  protected range!: Range;
  protected readonly trouble = el("p", { class: "error", role: "alert" });
  protected readonly progress = el("p", { class: "soft reading", role: "status" });
  private before = "";
  private readonly asker = new Asker(
    async (signal) => {
      const read = await this.fetch(signal);
      this.trouble.textContent = "";
      this.progress.textContent = read < 1 ? `reading the run: ${Math.floor(read * 100)} %` : "";
      if (read < 1) this.asker.ask();
    },
    (error) => {
      this.trouble.textContent = message(error);
    },
  );

  show(detail: Detail, route: Route, range: Range): void {
    [this.detail, this.now, this.range] = [detail, route, range];
    const what = JSON.stringify([route.column, route.layer, route.filter, route.weights, route.range]);
    const fresh = what !== this.before;
    this.before = what;
    this.prepare();
    this.asker.ask(fresh);
  }

  protected ask(): void {
    this.asker.ask(true);
  }

  protected abstract prepare(): void;
  /** Asks, shows what came, and returns the share that was read. */
  protected abstract fetch(signal: AbortSignal): Promise<number>;

  end(): void {
    this.asker.end();
  }
}

export class Overview extends Asking {
  private readonly charts = el("div", { class: "charts" });
  private readonly byName = new Map<string, Chart>();
  private readonly empty = el("p", { class: "soft hidden" }, "Nothing is recorded yet. It appears here a second after the first step.");
  readonly element = el("div", {}, this.trouble, this.progress, this.empty, this.charts);

  protected prepare(): void {
    this.empty.classList.toggle("hidden", this.detail.last !== null);
  }

  protected async fetch(signal: AbortSignal): Promise<number> {
    const rank = (name: string) => (name.includes("loss") ? 0 : name === "lr" ? 2 : 1);
    const names = notes(this.detail).map((column) => column.name).sort((a, b) => rank(a) - rank(b));
    if (!names.length) return 1;
    const id = this.detail.line.id;
    const { found, read } = await series({ runs: [id], columns: names.slice(0, 50), layers: [""], buckets: bucketsFor(this.charts), ...given(this.range) }, signal);
    const there = names.filter((name) => found.has(key(id, name, "")));
    if (!there.length && this.byName.size === 0 && this.detail.last !== null) {
      this.charts.replaceChildren(el("p", { class: "soft" }, "No loss was noted: scope.note(loss=...) after each step shows it here. The layers have their own tab."));
      return read;
    }
    for (const name of there) {
      let chart = this.byName.get(name);
      if (!chart) {
        if (!this.byName.size) this.charts.replaceChildren();
        chart = new Chart(words(name), zoom);
        this.byName.set(name, chart);
        this.charts.append(chart.element);
      }
      const one = found.get(key(id, name, ""));
      if (one) chart.set({ lines: [{ name, look: 0, series: one, band: true }], marks: marksOf(this.detail), log: logOf(this.now), ...this.range });
    }
    return read;
  }
}

export class Layers extends Asking {
  private readonly controls = new Controls();
  private readonly grid = new Grid((item) => go({ layer: item.layer }, true));
  private readonly others = new Grid((item) => go({ column: item.column }));
  private readonly heading = el("h3", { tabindex: -1 });
  private readonly about = el("p", { class: "soft" });
  private readonly close = el("button", { type: "button" }, "all layers");
  private chart = new Chart("value", zoom);
  private readonly one = el("div", { class: "one hidden" });
  private readonly none = el("p", { class: "soft hidden" });
  readonly element = el("div", {}, this.controls.element, this.trouble, this.progress, this.one, this.none, this.grid.element);

  constructor() {
    super();
    this.close.addEventListener("click", () => go({ layer: null }));
    this.one.append(el("div", { class: "bar" }, this.heading, this.close), this.about, this.chart.element, el("h3", {}, "All instruments of this layer"), this.others.element);
  }

  protected prepare(): void {
    const { detail, now, range } = this;
    this.controls.show(detail, now);
    const column = chosenColumn(detail, now);
    const layers = chosenLayers(detail, now);
    const single = now.layer !== null && now.layer !== "";
    this.one.classList.toggle("hidden", !single);
    this.grid.element.classList.toggle("hidden", single);
    this.none.classList.toggle("hidden", single || layers.length > 0);
    const all = detail.layers.filter((layer) => layer.name).length;
    this.none.textContent = all ? `None of the ${all} layers is called that.` : "No layer is recorded yet.";
    if (!single) {
      this.grid.show(
        detail.line.id,
        layers.map((layer) => ({ column, layer: layer.name, title: layer.name, note: layer.shape.join(" × ") })),
        range,
        detail.line.stamp,
      );
      return;
    }
    const title = `${words(column)} of ${now.layer ?? ""}`;
    if (this.chart.name !== title) {
      const chart = new Chart(title, zoom);
      this.chart.element.replaceWith(chart.element);
      this.chart = chart;
    }
    this.heading.textContent = now.layer;
    const shape = detail.layers.find((layer) => layer.name === now.layer)?.shape.join(" × ");
    this.about.textContent = shape ? `shape ${shape}` : "";
    this.others.show(
      detail.line.id,
      instruments(detail).map((one) => ({ column: one.name, layer: now.layer ?? "", title: words(one.name), note: one.unit === "1" ? "" : one.unit })),
      range,
      detail.line.stamp,
      key("", column, now.layer ?? ""),
    );
  }

  protected async fetch(signal: AbortSignal): Promise<number> {
    const layer = this.now.layer;
    if (!layer) return 1;
    const id = this.detail.line.id;
    const column = chosenColumn(this.detail, this.now);
    const { found, read } = await series({ runs: [id], columns: [column], layers: [layer], buckets: bucketsFor(this.one), ...given(this.range) }, signal);
    const one = found.get(key(id, column, layer));
    this.chart.set({ lines: one ? [{ name: column, look: 0, series: one, band: true }] : [], marks: marksOf(this.detail, layer), log: logOf(this.now), ...this.range });
    return read;
  }

  override end(): void {
    super.end();
    this.grid.end();
    this.others.end();
  }
}

const MOST_ROWS = 2000;

export class Heat extends Asking {
  private readonly controls = new Controls();
  private readonly map = new HeatMap("Values by layer and step", (layer) => go({ tab: "layers", layer }));
  readonly element = el("div", {}, this.controls.element, this.trouble, this.progress, this.map.element);

  protected prepare(): void {
    this.controls.show(this.detail, this.now);
  }

  protected async fetch(signal: AbortSignal): Promise<number> {
    const column = chosenColumn(this.detail, this.now);
    const layers = chosenLayers(this.detail, this.now)
      .slice(0, MOST_ROWS)
      .map((layer) => layer.name);
    this.map.element.classList.toggle("hidden", !layers.length || !column);
    if (!layers.length || !column) return 1;
    const buckets = Math.min(Math.floor(4_000_000 / layers.length), Math.max(60, Math.min(900, Math.round((this.element.clientWidth || 700) * 0.8))));
    const found = await matrices({ run: this.detail.line.id, columns: [column], layers, buckets, value: "mean", ...given(this.range) }, signal);
    const matrix = found.get(column);
    if (!matrix) return 1;
    const marks = marksOf(this.detail).map((mark) => mark.step);
    this.map.set({ matrix, rows: layers, kind: "", log: logOf(this.now), marks: marks.slice(-40) });
    return matrix.read;
  }
}

const SPREADS = ["spread_median", "spread_mean"];
const STEPS = ["update_abs_median_per_lr", "update_abs_mean_per_lr"];

export class Spread extends Asking {
  private readonly controls = new Controls(false);
  private readonly kind = el("select", { "aria-label": "Averages" }, el("option", { value: "0" }, "medians"), el("option", { value: "1" }, "means, as in Eigen's figures"));
  private readonly time = el("input", { type: "range", min: 0, max: 0, value: 0, id: "time", "aria-label": "Step" });
  private readonly when = el("output", { for: "time", class: "value" });
  private readonly play = el("button", { type: "button", "aria-pressed": "false" }, "▶ play");
  private readonly scatter = new Scatter("Size of the step of each layer over the spread of its gradients", (layer) => go({ tab: "layers", layer }));
  private readonly table = el("table", { class: "numbers" });
  private readonly none = el("p", { class: "soft hidden" }, "This picture needs the columns spread_median and update_abs_median_per_lr, or their means; the run has neither.");
  private readonly shown = el("div", {}, this.scatter.element, el("details", {}, el("summary", {}, "The numbers"), this.table));
  readonly element = el(
    "div",
    {},
    el("div", { class: "bar" }, this.kind, this.controls.element),
    el("p", { class: "soft" }, "Each point is a layer: its spread σ/|m| and the size of its step in units of the learning rate. The dashed line is 1/√(1+spread²), which Adam's steps follow where its two averages are alike. Round: weights; square: the others; dark: the first layers, light: the last."),
    this.trouble,
    this.progress,
    this.none,
    el("div", { class: "bar time" }, this.play, this.time, this.when),
    this.shown,
  );
  private spread: Matrix | undefined;
  private size: Matrix | undefined;
  private names: string[] = [];
  private follow = true;
  private timer = 0;

  constructor() {
    super();
    this.kind.addEventListener("change", () => this.ask());
    this.time.addEventListener("input", () => {
      this.follow = this.time.value === this.time.max;
      void this.draw();
    });
    this.play.addEventListener("click", () => this.toggle());
  }

  private toggle(): void {
    const playing = this.timer !== 0;
    clearInterval(this.timer);
    this.timer = 0;
    this.play.setAttribute("aria-pressed", String(!playing));
    this.play.textContent = playing ? "▶ play" : "‖ pause";
    if (playing) return;
    if (this.time.value === this.time.max) this.time.value = "0";
    this.timer = window.setInterval(() => {
      this.time.value = String(Number(this.time.value) + 1);
      this.follow = this.time.value === this.time.max;
      void this.draw();
      if (this.follow) this.toggle();
    }, 60);
  }

  private columns(): [string, string] | null {
    const names = new Set(this.detail.columns.map((column) => column.name));
    const wanted = Number(this.kind.value);
    for (const i of [wanted, 1 - wanted]) {
      const pair: [string, string] = [SPREADS[i] ?? "", STEPS[i] ?? ""];
      if (pair.every((name) => names.has(name))) return pair;
    }
    return null;
  }

  protected prepare(): void {
    this.controls.show(this.detail, this.now);
    const pair = this.columns();
    this.none.classList.toggle("hidden", pair !== null);
    this.shown.classList.toggle("hidden", pair === null);
  }

  protected async fetch(signal: AbortSignal): Promise<number> {
    const pair = this.columns();
    const layers = chosenLayers(this.detail, this.now)
      .slice(0, 1000)
      .map((layer) => layer.name);
    if (!pair || !layers.length) return 1;
    const found = await matrices({ run: this.detail.line.id, columns: pair, layers, buckets: 240, value: "end", ...given(this.range) }, signal);
    [this.spread, this.size, this.names] = [found.get(pair[0]), found.get(pair[1]), layers];
    const buckets = this.filled();
    this.time.max = String(Math.max(0, buckets.length - 1));
    if (this.follow) this.time.value = this.time.max;
    await this.draw();
    return Math.min(this.spread?.read ?? 1, this.size?.read ?? 1);
  }

  /** The buckets in which some layer has both values. */
  private filled(): number[] {
    const [a, b] = [this.spread, this.size];
    if (!a || !b || a.size !== b.size) return [];
    return Array.from({ length: a.size }, (_, i) => i).filter((i) => {
      for (let row = 0; row < a.rows; row++) if (a.values[row * a.size + i]! > 0 && b.values[row * b.size + i]! >= 0) return true;
      return false;
    });
  }

  private async draw(): Promise<void> {
    const { adam, spread } = await curves();
    const [a, b] = [this.spread, this.size];
    const buckets = this.filled();
    const i = buckets[Number(this.time.value)];
    if (!a || !b || i === undefined) return;
    const width = (a.last - a.first + 1) / a.size;
    const last = Math.max(Math.ceil(a.first + i * width), Math.ceil(a.first + (i + 1) * width) - 1);
    this.when.textContent = `step ${count(last)}`;
    this.time.setAttribute("aria-valuetext", `step ${count(last)}`);
    const weight = new Map(this.detail.layers.map((layer) => [layer.name, layer.weight]));
    const points = this.names.map((name, row) => ({
      name,
      x: a.values[row * a.size + i] ?? NaN,
      y: b.values[row * b.size + i] ?? NaN,
      depth: this.names.length > 1 ? row / (this.names.length - 1) : 0.5,
      weight: weight.get(name) ?? true,
    }));
    const log = logOf(this.now) ?? false;
    this.scatter.set({ points, curve: { x: spread, y: adam }, reach: { x: a.values, y: b.values }, xLabel: `spread (${this.columns()?.[0].includes("mean") ? "mean" : "median"})`, yLabel: "step / lr", log });
    if ((this.table.parentElement as HTMLDetailsElement).open || !this.table.childElementCount) {
      const head = el("tr", {}, ...["layer", "spread", "step / lr"].map((name) => el("th", { scope: "col" }, name)));
      const rows = points.map((point) => el("tr", {}, el("th", { scope: "row" }, point.name), el("td", {}, point.x.toPrecision(4)), el("td", {}, point.y.toPrecision(4))));
      this.table.replaceChildren(el("caption", { class: "visually-hidden" }, "Spread and step by layer"), el("thead", {}, head), el("tbody", {}, ...rows));
    }
  }

  override end(): void {
    super.end();
    clearInterval(this.timer);
  }
}

/** Histograms that a run has, by name: of one value (NAME[k], cells from 2^k on) or of two (NAME[j,k]). */
function histograms(detail: Detail): Map<string, "cells" | "joint"> {
  const found = new Map<string, "cells" | "joint">();
  for (const { name } of detail.columns) {
    const cell = /^(.+)\[-?\d+(,-?\d+)?\]$/.exec(name);
    if (cell?.[1]) found.set(cell[1], cell[2] ? "joint" : "cells");
  }
  return found;
}

/** The numbers in a cell's name. */
const place = (column: string): number[] => column.slice(column.lastIndexOf("[") + 1, -1).split(",").map(Number);

/**
 * The whole numbers from the largest down to the least. A gap becomes one null: the outermost cells of a histogram, which
 * hold all that is out of range, lie far from the others.
 */
function down(values: number[]): (number | null)[] {
  const sorted = [...new Set(values)].sort((a, b) => b - a);
  return sorted.flatMap((value, i): (number | null)[] => {
    const next = sorted[i + 1] ?? value - 1;
    const between = value - next - 1;
    return [value, ...(between > 3 ? [null] : Array.from({ length: between }, (_, k) => value - 1 - k))];
  });
}

/** Where 2^exponent lies among cells listed by their powers, in cells from the first edge on; NaN in a gap or outside. */
function within(cells: (number | null)[], exponent: number): number {
  const cell = Math.floor(exponent);
  const i = cells.indexOf(cell);
  const rising = (cells.at(-1) ?? 0) >= (cells[0] ?? 0);
  return i < 0 ? NaN : rising ? i + exponent - cell : i + 1 - (exponent - cell);
}

/** "2⁻³"; an ellipsis for a gap. */
const power = (n: number | null): string => (n === null ? "⋯" : `2${[...String(n)].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹".charAt(Number(c)))).join("")}`);

/** Prefixes of columns of which the run has the 10 %, 50 % and 90 % quantile. */
function fans(detail: Detail): string[] {
  const names = new Set(detail.columns.map((column) => column.name));
  return [...names].flatMap((name) => {
    const prefix = name.endsWith("_q10") ? name.slice(0, -4) : "";
    return prefix && names.has(`${prefix}_median`) && names.has(`${prefix}_q90`) ? [prefix] : [];
  });
}

export class Distribution extends Asking {
  private readonly what = el("select", { "aria-label": "Distribution of" });
  private readonly layer = el("select", { "aria-label": "Layer" });
  private readonly about = el("p", { class: "soft" });
  private readonly map = new HeatMap("Share of coordinates by size and step");
  private readonly pair = new HeatMap("Share of coordinates by two sizes, at one step");
  private readonly time = el("input", { type: "range", min: 0, max: 0, value: 0, id: "joint-time", "aria-label": "Step" });
  private readonly when = el("output", { for: "joint-time", class: "value" });
  private readonly timing = el("div", { class: "bar time" }, this.time, this.when);
  private readonly chart = new Chart("Median, with the 10 % and 90 % quantiles as a band", zoom);
  private readonly none = el("p", { class: "soft hidden" }, "This run has neither quantiles nor histograms. Scope(..., instruments=...) records them.");
  readonly element = el("div", {}, el("div", { class: "bar" }, this.what, this.layer), this.about, this.trouble, this.progress, this.none, this.timing, this.chart.element, this.map.element, this.pair.element);
  private picked = "";
  private cells = new Map<string, Matrix>();
  private filled: number[] = [];
  private follow = true;
  private theory: Curves | null = null;

  constructor() {
    super();
    this.what.addEventListener("change", () => {
      this.picked = this.what.value;
      this.reveal();
      this.ask();
    });
    this.layer.addEventListener("change", () => go({ layer: this.layer.value }));
    this.time.addEventListener("input", () => {
      this.follow = this.time.value === this.time.max;
      this.drawPair();
    });
  }

  protected prepare(): void {
    const kinds = { cells: "histogram", joint: "joint histogram with |update| / lr" };
    const options = [
      ...fans(this.detail).map((name): [string, string] => [`fan:${name}`, `${words(name)}: quantiles`]),
      ...[...histograms(this.detail)].map(([name, kind]): [string, string] => [`${kind}:${name}`, `${words(kind === "joint" ? name.replace(/_update$/, "") : name)}: ${kinds[kind]}`]),
    ];
    fill(this.what, options);
    if (options.some(([value]) => value === this.picked)) this.what.value = this.picked;
    this.picked = this.what.value;
    const layers = this.detail.layers.filter((layer) => layer.name).map((layer): [string, string] => [layer.name, layer.name]);
    fill(this.layer, layers);
    if (this.now.layer && layers.some(([name]) => name === this.now.layer)) this.layer.value = this.now.layer;
    this.none.classList.toggle("hidden", options.length > 0 && layers.length > 0);
    this.reveal();
  }

  /** Only what the choice needs is there. */
  private reveal(): void {
    const kind = this.layer.value ? this.picked.split(":")[0] : "";
    for (const [element, of] of [[this.chart.element, "fan"], [this.map.element, "cells"], [this.pair.element, "joint"], [this.timing, "joint"]] as const) element.classList.toggle("hidden", kind !== of);
  }

  protected async fetch(signal: AbortSignal): Promise<number> {
    const [kind, name] = this.picked.split(":", 2) as [string, string | undefined];
    const layer = this.layer.value;
    const id = this.detail.line.id;
    if (!name || !layer) return 1;
    const about = this.detail.columns.find((column) => column.name === `${name}_median` || column.name.startsWith(`${name}[`));
    this.about.textContent = about ? describe(about) : "";
    if (kind === "fan") {
      const columns = ["_q10", "_median", "_q90"].map((end) => name + end);
      const { found, read } = await series({ runs: [id], columns, layers: [layer], buckets: bucketsFor(this.element), ...given(this.range) }, signal);
      const [low, middle, high] = columns.map((column) => found.get(key(id, column, layer)));
      const fits = low && middle && high && low.step.length === middle.step.length && high.step.length === middle.step.length;
      const line = middle && { name, look: 0, band: true, series: fits ? { ...middle, low: low.mean, high: high.mean } : middle };
      this.chart.set({ lines: line ? [line] : [], log: logOf(this.now), marks: marksOf(this.detail, layer), ...this.range });
      return read;
    }
    const buckets = kind === "joint" ? 100 : Math.min(600, bucketsFor(this.element));
    const found = await matrices({ run: id, columns: [], histogram: name, layers: [layer], buckets, value: "mean", ...given(this.range) }, signal);
    const first = found.values().next().value;
    if (!first) return 1;
    if (kind === "joint") {
      this.theory = await curves();
      this.showPair(found);
    }
    else {
      const cells = down([...found].filter(([, matrix]) => matrix.values.some((v) => v > 0)).map(([column]) => place(column)[0]!));
      const values = new Float64Array(cells.length * first.size).fill(NaN);
      for (const [column, matrix] of found) {
        const row = cells.indexOf(place(column)[0]!);
        if (row >= 0) values.set(matrix.values, row * first.size);
      }
      this.map.set({ matrix: { ...first, rows: cells.length, values }, rows: cells.map(power), kind: "from ", empty: true, log: logOf(this.now) });
    }
    return Math.min(...[...found.values()].map((one) => one.read));
  }

  private showPair(found: Map<string, Matrix>): void {
    this.cells = found;
    const all = [...found.values()];
    this.filled = Array.from({ length: all[0]?.size ?? 0 }, (_, i) => i).filter((i) => all.some((matrix) => !Number.isNaN(matrix.values[i])));
    this.time.max = String(Math.max(0, this.filled.length - 1));
    if (this.follow) this.time.value = this.time.max;
    this.drawPair();
  }

  /** The cells of one moment: the first size across, the second one up. */
  private drawPair(): void {
    const i = this.filled[Number(this.time.value)];
    const any = this.cells.values().next().value;
    if (i === undefined || !any) return;
    const places = [...this.cells].filter(([, matrix]) => matrix.values.some((v) => v > 0)).map(([column]) => place(column));
    const across = down(places.map(([a]) => a!)).reverse();
    const up = down(places.map(([, b]) => b!));
    const values = new Float64Array(across.length * up.length).fill(NaN);
    for (const [column, matrix] of this.cells) {
      const [a, b] = place(column);
      if (across.includes(a!) && up.includes(b!)) values[up.indexOf(b!) * across.length + across.indexOf(a!)] = matrix.values[i]!;
    }
    const name = this.picked.split(":")[1]!;
    // Adam's step is the rate times its factor, which is a function of the spread alone.
    const { spread, adam } = this.theory!;
    const at = spread.map((x, k): [number, number] => [within(across, Math.log2(x)), within(up, Math.log2(adam[k]!))]);
    const curve = name.startsWith("spread") ? { curve: { name: "Adam's factor 1/√(1 + spread²)", at } } : {};
    const width = (any.last - any.first + 1) / any.size;
    const last = Math.max(Math.ceil(any.first + i * width), Math.ceil(any.first + (i + 1) * width) - 1);
    this.when.textContent = `step ${count(last)}`;
    this.time.setAttribute("aria-valuetext", `step ${count(last)}`);
    this.pair.set({ matrix: { ...any, size: across.length, rows: up.length, values }, rows: up.map(power), columns: across.map(power), across: `${name.replace(/_update$/, "")} from `, kind: "|update| / lr from ", log: logOf(this.now), ...curve });
  }
}

function fill(select: HTMLSelectElement, options: [string, string][]): void {
  if ([...select.options].map((option) => option.value).join() === options.map(([value]) => value).join()) return;
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
  if (options.some(([value]) => value === before)) select.value = before;
}

