// A dissection while it is computed: how far it is, how each step size did, the runs at the chosen one, and the effects
// so far.

import { get } from "../shared/api";
import { el } from "../shared/dom";
import { Chart, swatch, type Line } from "./chart";
import { called, type RunLine, type Series } from "./data";
import { duration, method, number, split } from "./format";
import type { Live } from "./live";
import { START, write, type Route } from "./route";
import { Asker, badge, message, type View } from "./view";

interface Point {
  lr: number;
  status: string;
  score: number | null;
  train_loss: number | null;
}

interface Replication {
  seed: number;
  lr: number;
  status: string;
  trial: string;
  recorded: boolean;
  steps: number[];
  train_loss: (number | null)[];
  test: (number | null)[];
}

interface Standing {
  problem: string;
  status: string;
  done: number;
  total: number;
  working: number;
  seconds_left: number | null;
  metric: string;
  arms: { method: string; points: Point[]; best: number | null; at_edge: boolean; replications: Replication[] }[];
  effects: {
    cell: string;
    outcome: string;
    effect: string;
    scale: string;
    estimate: number | null;
    low: number | null;
    high: number | null;
    seeds: number;
    verdict: string;
  }[];
  problems: string[];
}

export class DissectionView implements View {
  readonly element: HTMLElement;
  private readonly state = el("p", { role: "status" });
  private readonly bar = el("progress", { max: 1, value: 0, "aria-label": "Trials done" });
  private readonly trouble = el("p", { class: "error", role: "alert" });
  private readonly tuning = new Chart("Tuning: training loss at the end, by step size");
  private readonly loss = new Chart("Training loss of the runs at the chosen step size");
  private readonly test = new Chart("Test result of these runs");
  private readonly arms = el("table", { class: "numbers" });
  private readonly effects = el("table", { class: "numbers" });
  private readonly recorded = el("ul", { class: "plain" });
  private readonly asker = new Asker(
    async (signal) => this.show(await get<Standing>("/api/dissection", { id: this.id }, signal)),
    (error) => (this.trouble.textContent = message(error)),
  );
  private stamp = "";
  private readonly clock: number;
  private runs: RunLine[] = [];

  constructor(private readonly id: string) {
    const { folder, name } = split(id);
    const wide = (table: HTMLElement) => el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table" }, table);
    this.element = el(
      "section",
      { "aria-label": `Dissection ${id}` },
      el("div", { class: "head" }, el("h2", {}, el("small", { class: "soft" }, folder), name), this.state),
      this.bar,
      this.trouble,
      this.tuning.element,
      wide(this.arms),
      el("div", { class: "charts" }, this.loss.element, this.test.element),
      el("h3", {}, "Effects so far"),
      wide(this.effects),
      el("h3", {}, "Recorded runs"),
      this.recorded,
    );
    this.asker.ask();
    // The time left shrinks between two trials as well.
    this.clock = window.setInterval(() => this.stamp.startsWith("running") && this.asker.ask(), 2000);
  }

  end(): void {
    this.asker.end();
    clearInterval(this.clock);
  }

  route(_now: Route): void {}

  live(now: Live): void {
    const line = now.found?.dissections.find((one) => one.id === this.id);
    this.runs = now.found?.runs.filter((run) => run.dissection === this.id) ?? [];
    this.fillRecorded();
    if (!line || line.stamp === this.stamp) return;
    this.stamp = line.stamp;
    this.asker.ask();
  }

  private show(now: Standing): void {
    this.trouble.textContent = now.problems.join("; ");
    this.bar.max = Math.max(1, now.total);
    this.bar.value = now.done;
    const left = now.seconds_left === null ? "" : `, about ${duration(now.seconds_left)} left`;
    const text = ` ${now.done} of ${now.total} trials of ${now.problem}${now.working ? `, ${now.working} at work` : ""}${left}`;
    if (this.state.dataset.shown !== now.status + text) {
      this.state.dataset.shown = now.status + text;
      this.state.replaceChildren(badge(now.status), text);
    }
    const lines = now.arms.flatMap((arm, look): Line[] => {
      const points = arm.points.filter((point) => point.train_loss !== null);
      return points.length ? [{ name: method(arm.method), look, dots: true, series: plain(points.map((p) => p.lr), points.map((p) => p.train_loss)) }] : [];
    });
    this.tuning.set({ lines, xLog: true, xLabel: "step size" });
    const curves = (of: (run: Replication) => (number | null)[]) =>
      now.arms.flatMap((arm, look) => arm.replications.map((run): Line => ({ name: method(arm.method), look, series: plain(run.steps, of(run)) })));
    this.loss.set({ lines: once(curves((run) => run.train_loss)) });
    this.test.set({ lines: once(curves((run) => run.test)), log: now.metric === "loss" ? undefined : false });
    const any = now.arms.some((arm) => arm.replications.length > 0);
    for (const chart of [this.loss, this.test]) chart.element.classList.toggle("hidden", !any);
    this.fillArms(now);
    this.fillEffects(now);
  }

  private fillRecorded(): void {
    this.recorded.replaceChildren(
      ...(this.runs.length
        ? this.runs.map((run) => el("li", {}, el("a", { href: write({ ...START, view: "run", ids: [run.id] }) }, called(run))))
        : [el("li", { class: "soft" }, "The first seed of each method is recorded once its step size is chosen.")]),
    );
  }

  private fillArms(now: Standing): void {
    const rows = now.arms.map((arm, look) => {
      const unstable = arm.points.filter((point) => point.status !== "ok").length;
      const tried = arm.points.length ? `${arm.points.length} step size${arm.points.length === 1 ? "" : "s"}${unstable ? `, ${unstable} of them unstable` : ""}` : "not begun";
      const best = arm.best === null ? "–" : `${number(arm.best)}${arm.at_edge ? " (at the edge of what was tried)" : ""}`;
      const ends = arm.replications.map((run) => (run.status === "ok" ? (run.train_loss.at(-1) ?? null) : null)).filter((end) => end !== null);
      const mean = ends.length ? number(ends.reduce((sum, end) => sum + end, 0) / ends.length) : "–";
      return el("tr", {}, el("th", { scope: "row" }, swatch(look), method(arm.method)), ...[tried, best, String(arm.replications.length), mean].map((text) => el("td", {}, text)));
    });
    const head = ["method", "tried", "best step size", "runs", "mean final training loss"].map((name) => el("th", { scope: "col" }, name));
    this.arms.replaceChildren(el("caption", { class: "visually-hidden" }, "Methods"), el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows));
  }

  private fillEffects(now: Standing): void {
    const rows = now.effects.map((one) => {
      const what = one.scale === "ratio" ? "factor " : "";
      const interval = one.low === null || one.high === null ? "" : ` (${number(one.low)} to ${number(one.high)})`;
      const estimate = one.estimate === null ? "–" : `${what}${number(one.estimate)}${interval}`;
      const name = ["sign", "variance_adaptation", "interaction"].includes(one.effect) ? one.effect.replaceAll("_", " ") : `${method(one.effect)} instead`;
      const cells = [method(one.cell), one.outcome.replaceAll("_", " "), estimate, String(one.seeds), one.verdict];
      return el("tr", {}, el("th", { scope: "row" }, name), ...cells.map((text) => el("td", {}, text)));
    });
    const head = ["effect", "with or for", "on", "estimate (95 % interval)", "seeds", "verdict"].map((name) => el("th", { scope: "col" }, name));
    const none = el("tr", {}, el("td", { colspan: 6, class: "soft" }, "An effect needs one seed that all four methods have finished."));
    this.effects.replaceChildren(el("caption", { class: "visually-hidden" }, "Effects"), el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...(rows.length ? rows : [none])));
  }
}

/** Values at places as a series without bands. */
function plain(x: number[], y: (number | null)[]): Series {
  const values = Float64Array.from(y, (value) => value ?? NaN);
  const none = new Float64Array(x.length);
  return { step: Float64Array.from(x), low: values, mean: values, high: values, end: values, finite: none, broken: none };
}

/** The legend names each method once. */
function once(lines: Line[]): Line[] {
  const seen = new Set<string>();
  return lines.map((line) => {
    const name = seen.has(line.name) ? "" : line.name;
    seen.add(line.name);
    return { ...line, name };
  });
}
