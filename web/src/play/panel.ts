// What one step of one method is made of, for one coordinate: the numbers, the two arrows, and how they came about.

import { colour, el } from "../shared/dom";
import { Chart, type Series } from "./chart";
import type { Path } from "./engine";
import { look } from "./look";
import type { Curves, LandscapeFunctions } from "./programs";
import { hasLimit, shareAt, shares } from "./stability";
import { label, type LandscapeInfo, type Scene, short } from "./scene";

const MEANINGS: Record<string, string> = {
  exp_avg: "m, average of g", exp_avg_sq: "v, average of g²", momentum_buffer: "momentum buffer", square_avg: "v, average of g²",
  sum: "sum of g²", acc_delta: "average of squared steps", m: "m, average of g (bias-corrected)", S: "v − m² (bias-corrected)",
};

export class Panel {
  readonly root: HTMLElement;
  readonly theory: Chart;
  private readonly title = el("h2");
  private readonly numbers = el("tbody");
  private readonly arrows = el("div", { class: "arrows" });
  private readonly sentence = el("p", { class: "sentence" });
  readonly averages: Chart;
  readonly corrections: Chart;
  readonly factors: Chart;
  readonly stability: Chart;
  private readonly stabilityBox: HTMLElement;
  private curves: Curves | null = null;
  private readonly correctionsBox: HTMLElement;
  private drawn = "";

  constructor(pick: (step: number) => void, choice: HTMLElement) {
    const go = (x: number) => pick(Math.round(x) - 1);
    this.averages = new Chart({ label: "Gradient and averages over the steps", xlabel: "step", ylabel: "gradient" }, go);
    this.corrections = new Chart({ label: "Bias corrections over the steps", xlabel: "step", ylabel: "1/(1 − βᵗ)", logY: true }, go);
    this.factors = new Chart({ label: "Factor and spread over the steps", xlabel: "step", ylabel: "factor, spread", logY: true }, go);
    this.stability = new Chart({ label: "Step over the largest stable step", xlabel: "step", ylabel: "share of the limit", logY: true }, go);
    this.theory = new Chart({ label: "Factor against spread: theory and this step", xlabel: "spread σ/|m|", ylabel: "factor", logX: true, xRange: [0.01, 100], yRange: [0, 1.08] });
    const named = (text: string, chart: Chart, key?: HTMLElement) => el("figure", {}, el("figcaption", {}, text, key ?? null), chart.root);
    this.correctionsBox = named("The correction 1/(1 − βᵗ) vanishes", this.corrections);
    this.stabilityBox = named("Stability: step × curvature over its limit", this.stability);
    this.stabilityBox.id = "stability";
    this.root = el(
      "section",
      { class: "panel inner", "aria-labelledby": "inner-title" },
      el("div", { class: "inner-head" }, this.title, choice),
      el("div", { class: "inner-now" }, this.arrows, this.sentence, el("table", { class: "numbers" }, el("caption", { class: "visually-hidden" }, "Numbers of the shown step"), this.numbers)),
      el(
        "div",
        { class: "inner-charts" },
        named("Gradient and its average", this.averages),
        this.correctionsBox,
        named("Factor (solid) and spread (dashed)", this.factors),
        named("Theory: 1/√(1+γ²), 1/(1+γ²), erf(1/√2γ); points: now", this.theory),
        this.stabilityBox,
      ),
    );
    this.title.id = "inner-title";
  }

  set theories(curves: Curves | null) {
    this.curves = curves;
  }

  get theories(): Curves | null {
    return this.curves;
  }

  show(scene: Scene, place: LandscapeInfo, functions: LandscapeFunctions, paths: Path[], logSteps: boolean): void {
    const path = paths[scene.method];
    if (!path) return;
    const i = scene.coordinate;
    const variable = place.variables[i]!;
    const name = label(scene.methods, scene.method);
    this.title.textContent = `Inside ${name}: coordinate ${variable}`;
    const out = path.look(scene.at);
    const get = (column: string) => {
      const at = path.place(`${column}.${i}`);
      return at < 0 ? Number.NaN : out[at]!;
    };
    const sample = scene.at + 1;
    const lr = path.method.hyper.lr ?? 1;
    const [direction, factor, update, mean, variance] = ["direction", "factor", "update", "mean", "variance"].map(get) as [number, number, number, number, number];
    const has = (column: string) => path.place(`${column}.${i}`) >= 0;
    const rows: [string, string, number][] = [["theta", variable, get("theta")], ["g", "g, gradient", get("g")]];
    for (const state of path.program.columns.filter((c) => c.endsWith(`.${i}`)).map((c) => c.slice(0, -String(i).length - 1))) {
      if (MEANINGS[state]) rows.push([state, MEANINGS[state], get(state)]);
    }
    const [one, two] = [1 / path.scalar("correction1", sample), 1 / path.scalar("correction2", sample)];
    if (Number.isFinite(one)) rows.push(["bias1", "1/(1 − β₁ᵗ)", one], ["bias2", "1/(1 − β₂ᵗ)", two]);
    if (has("mean")) rows.push(["mean", "m̂, corrected", mean]);
    if (has("variance")) rows.push(["second", "√v̂, corrected", Math.sqrt(variance + mean * mean)], ["spread", "spread σ/|m̂|", get("spread")]);
    rows.push(["direction", "direction", direction], ["factor", "factor", factor], ["update", `step Δ${variable}`, update]);
    const limited = this.curves !== null && hasLimit(path.method.rule);
    if (limited) rows.push(["stability", "step / limit", shareAt(path, scene.at, functions, this.curves!)]);
    this.numbers.replaceChildren(
      ...rows.map(([key, words, v]) => el("tr", {}, el("th", { scope: "row" }, words), el("td", { "data-name": key, "data-value": String(v) }, short(v, 6)))),
    );
    this.draw2(direction, factor, update, lr, variable);
    this.charts(scene, path, i, logSteps, sample);
    this.stabilityBox.classList.toggle("hidden", !limited);
    if (limited) this.limits(path, functions, logSteps, sample);
    this.drawTheory(scene, paths, i);
  }

  /** direction and size as two arrows, and the step they make. */
  private draw2(direction: number, factor: number, update: number, lr: number, variable: string): void {
    const signed = Math.abs(direction) === 1 || direction === 0;
    const scale = Math.max(Math.abs(direction), 1e-300);
    const c = look(0).colour;
    const arrow = (y: number, share: number, fill: string, of: string) => {
      const length = Math.max(-1, Math.min(1, share)) * 118;
      const end = 150 + length;
      const head = Math.min(9, Math.abs(length));
      const s = Math.sign(length);
      return (
        `<line x1="32" x2="268" y1="${y}" y2="${y}" stroke="${colour("--thin")}" stroke-width="10" stroke-linecap="round"><title>${of}</title></line>` +
        (length ? `<line x1="150" x2="${end - s * head}" y1="${y}" y2="${y}" stroke="${fill}" stroke-width="4"/><path d="M${end} ${y}l${-s * head} -6v12z" fill="${fill}"/>` : "") +
        `<line x1="150" x2="150" y1="${y - 8}" y2="${y + 8}" stroke="${colour("--soft")}"/>`
      );
    };
    const text = (y: number, words: string) => `<text x="284" y="${y + 4}" fill="${colour("--ink")}">${words}</text>`;
    const label = `Direction ${short(direction)}, factor ${short(factor)}, step of ${variable} ${short(update)}`;
    this.arrows.innerHTML =
      `<svg viewBox="0 0 430 96" role="img" aria-label="${label}" font-size="13">` +
      arrow(16, -direction / scale, colour("--c1"), "direction") + text(16, `− direction = ${short(-direction)}`) +
      arrow(48, factor, colour("--c2"), "factor") + text(48, `× factor ${short(factor)}`) +
      arrow(80, update / (lr * (signed ? 1 : scale) || 1), c, "step") + text(80, `= step ${short(update / lr)} · lr`) +
      "</svg>";
    this.sentence.textContent = `Δ${variable} = ${short(update, 6)} = −${short(lr)} × ${short(direction)} × ${short(factor)}`;
  }

  private charts(scene: Scene, path: Path, i: number, logSteps: boolean, sample: number): void {
    // Also whether the theory is there: what it says of the path comes with the first time that it is.
    const key = JSON.stringify([this.curves !== null, scene.method, i, logSteps, path.t, path.method, scene.landscape, scene.params, scene.start, scene.noise, scene.sigma, scene.seed]);
    if (key !== this.drawn || path.t === 0) {
      this.drawn = key;
      this.stability.series = [];
      const names = ["g", "mean", "exp_avg", "factor", "spread"].map((n) => `${n}.${i}`);
      const { steps, values } = path.columns(names, 2000);
      const x = steps.map((t) => t + 1);
      const [g, mean, raw, factor, spread] = values as [Float64Array, Float64Array, Float64Array, Float64Array, Float64Array];
      const adam = path.place(`exp_avg.${i}`) >= 0;
      const series: Series[] = [{ name: "g", colour: colour("--line"), x, y: g, width: 1.2 }];
      if (adam) series.push({ name: "m, uncorrected", colour: colour("--c1"), dash: [4, 3], x, y: raw });
      if (path.place(`mean.${i}`) >= 0) series.push({ name: "m̂", colour: colour("--c0"), x, y: mean });
      this.averages.series = series;
      this.correctionsBox.classList.toggle("hidden", !Number.isFinite(path.scalar("correction1", 1)));
      this.corrections.series = [
        { name: "1/(1 − β₁ᵗ)", colour: colour("--c0"), x, y: x.map((t) => 1 / path.scalar("correction1", t)) },
        { name: "1/(1 − β₂ᵗ)", colour: colour("--c1"), dash: [7, 4], x, y: x.map((t) => 1 / path.scalar("correction2", t)) },
      ];
      this.factors.series = [
        { name: "factor", colour: colour("--c2"), x, y: factor },
        { name: "spread", colour: colour("--c3"), dash: [7, 4], x, y: spread },
      ];
      this.factors.options.yRange = usual([factor, spread]);
    }
    for (const chart of [this.averages, this.corrections, this.factors]) {
      chart.options.logX = logSteps;
      chart.cursor = sample;
      chart.draw();
    }
  }

  /** Along the whole path, computed anew when the other charts are. */
  private limits(path: Path, functions: LandscapeFunctions, logSteps: boolean, sample: number): void {
    if (this.stability.series.length === 0) {
      const { steps, values } = shares(path, functions, this.curves!, 600);
      const x = steps.map((t) => t + 1);
      this.stability.series = [
        { name: "step", colour: colour("--c0"), x, y: values },
        { name: "limit", colour: colour("--bad"), dash: [5, 4], x: [x[0]!, x.at(-1)!], y: [1, 1] },
      ];
    }
    this.stability.options.logX = logSteps;
    this.stability.cursor = sample;
    this.stability.draw();
  }

  private drawTheory(scene: Scene, paths: Path[], i: number): void {
    const c = this.curves;
    if (!c) return;
    const eta = Float64Array.from({ length: 241 }, (_, k) => 10 ** (-2 + k / 60));
    const line = (name: keyof Curves, words: string, dash: number[]): Series => ({ name: words, colour: colour("--soft"), dash, width: 1.4, x: eta, y: eta.map((e) => c[name](e)) });
    this.theory.series = [line("adam_factor", "1/√(1+γ²)", []), line("svag_factor", "1/(1+γ²)", [6, 4]), line("exact_factor", "erf(1/√2γ)", [2, 3])];
    this.theory.marks = paths.flatMap((path, k) => {
      const [s, f] = [path.place(`spread.${i}`), path.place(`factor.${i}`)];
      if (s < 0 || f < 0) return [];
      const out = path.look(scene.at);
      const style = look(k);
      return [{ x: Math.min(100, Math.max(0.01, out[s]!)), y: out[f]!, colour: style.colour, shape: style.shape, name: label(scene.methods, k) }];
    });
    this.theory.draw();
  }

  redraw(): void {
    this.drawn = "";
  }
}

/** The range of positive numbers, cut at a millionth and a million: a spread has no end where the average is nothing. */
function usual(all: Float64Array[]): [number, number] {
  let [low, high] = [1, 1];
  for (const values of all) {
    for (const v of values) {
      if (v > 0 && v < low) low = v;
      if (v > high) high = v;
    }
  }
  return [Math.max(1e-6, low / 1.5), Math.min(1e6, high * 1.5)];
}
