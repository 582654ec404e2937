// Several runs in one picture: the loss, and any instrument of a layer that they share, by step.

import { el } from "../shared/dom";
import { Chart, swatch, type Line } from "./chart";
import { called, detail, key, series, type Detail } from "./data";
import { words } from "./format";
import type { Live } from "./live";
import { go, START, steps, write, type Route } from "./route";
import { given } from "./grid";
import { Asker, badge, message, type View } from "./view";

const zoom = (first?: number, last?: number): void => go({ range: first === undefined || last === undefined ? "" : `${Math.max(0, first)}-${Math.max(1, last)}` }, true);

export class Compare implements View {
  readonly element: HTMLElement;
  private readonly trouble = el("p", { class: "error", role: "alert" });
  private readonly runs = el("ul", { class: "compared" });
  private readonly column = el("select", { "aria-label": "Instrument" });
  private readonly layer = el("select", { "aria-label": "Layer" });
  private readonly scale = el("select", { "aria-label": "Scale of the values" }, ...["", "log", "linear"].map((value) => el("option", { value }, value ? `${value} scale` : "automatic scale")));
  private readonly loss = new Chart("Noted by the runs", zoom);
  private readonly chart = new Chart("Instrument of a layer", zoom);
  private readonly note = el("select", { "aria-label": "Noted value" });
  private readonly details = new Map<string, Detail>();
  private readonly asker = new Asker((signal) => this.fetch(signal), (error) => (this.trouble.textContent = message(error)));
  private stamps = "";
  private now: Route = START;

  constructor(private readonly ids: string[]) {
    this.element = el(
      "section",
      { "aria-label": "Comparison of runs" },
      el("h2", {}, "Comparison"),
      this.trouble,
      this.runs,
      el("div", { class: "bar" }, this.note, this.scale),
      this.loss.element,
      el("div", { class: "bar" }, this.column, this.layer),
      this.chart.element,
    );
    this.column.addEventListener("change", () => go({ column: this.column.value }));
    this.layer.addEventListener("change", () => go({ layer: this.layer.value }));
    this.scale.addEventListener("change", () => go({ log: this.scale.value as Route["log"] }));
    this.note.addEventListener("change", () => this.asker.ask(true));
  }

  end(): void {
    this.asker.end();
  }

  route(now: Route): void {
    this.now = now;
    this.scale.value = now.log;
    this.asker.ask(true);
  }

  live(now: Live): void {
    const lines = now.found?.runs.filter((line) => this.ids.includes(line.id)) ?? [];
    const stamps = lines.map((line) => line.stamp).join();
    if (stamps === this.stamps) return;
    this.stamps = stamps;
    this.runs.replaceChildren(
      ...this.ids.map((id, i) => {
        const line = lines.find((one) => one.id === id);
        return el("li", {}, swatch(i), el("a", { href: write({ ...START, view: "run", ids: [id] }) }, line ? called(line) : id), " ", line ? badge(line.status) : el("span", { class: "error" }, "not there"));
      }),
    );
    this.asker.ask();
  }

  private async fetch(signal: AbortSignal): Promise<void> {
    for (const id of this.ids) {
      try {
        this.details.set(id, await detail(id, signal));
      } catch (error) {
        if (signal.aborted) throw error;
        this.trouble.textContent = message(error);
      }
    }
    const known = [...this.details.values()];
    const columns = common(known.map((one) => one.columns.map((column) => column.name).filter((name) => !name.includes("["))));
    const layers = common(known.map((one) => one.layers.map((layer) => layer.name).filter(Boolean)));
    const instruments = columns.filter((name) => known.some((one) => one.columns.find((column) => column.name === name)?.formula));
    const noted = columns.filter((name) => !instruments.includes(name) || name === "lr");
    choose(this.column, instruments, this.now.column || "spread_median");
    choose(this.layer, layers, this.now.layer ?? "");
    choose(this.note, noted, this.note.value || noted.find((name) => name.includes("loss")) || "");
    const lasts = known.map((one) => one.last).filter((last) => last !== null);
    const range = given(steps(this.now.range, 0, lasts.length ? Math.max(...lasts) : null));
    const log = this.now.log === "" ? undefined : this.now.log === "log";
    for (const [chart, column, layer] of [
      [this.loss, this.note.value, ""],
      [this.chart, this.column.value, this.layer.value],
    ] as const) {
      if (!column) continue;
      const { found, read } = await series({ runs: this.ids.filter((id) => this.details.has(id)), columns: [column], layers: [layer], buckets: 800, ...range }, signal);
      const lines: Line[] = this.ids.flatMap((id, i) => {
        const one = found.get(key(id, column, layer));
        return one ? [{ name: called(this.details.get(id)!.line), look: i, series: one }] : [];
      });
      chart.set({ lines, log, ...range });
      chart.element.querySelector("figcaption")?.replaceChildren(layer ? `${words(column)} of ${layer}` : words(column));
      if (read < 1) this.asker.ask();
    }
  }
}

function common(lists: string[][]): string[] {
  const [first, ...rest] = lists;
  return (first ?? []).filter((name) => rest.every((list) => list.includes(name)));
}

function choose(select: HTMLSelectElement, names: string[], wanted: string): void {
  if ([...select.options].map((option) => option.value).join() !== names.join()) select.replaceChildren(...names.map((name) => el("option", { value: name }, words(name))));
  if (names.includes(wanted)) select.value = wanted;
}
