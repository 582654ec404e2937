// The list: every run with its status, how far it is, and its loss; the dissections above it.

import { el } from "../shared/dom";
import { onTheme } from "../shared/theme";
import { sparkline } from "./chart";
import { key, series, type DissectionLine, type Found, type RunLine, type Series } from "./data";
import { count, duration, number, split } from "./format";
import type { Live } from "./live";
import { go, type Route, write, START } from "./route";
import { age, Asker, badge, type View } from "./view";

const LOSSES = ["loss", "train_loss", "training_loss", "train/loss"];

interface Row {
  element: HTMLTableRowElement;
  canvas: HTMLCanvasElement;
  loss: HTMLElement;
  step: HTMLElement;
  status: HTMLElement;
  alarms: HTMLElement;
  age: HTMLElement;
  box: HTMLInputElement;
  line: RunLine;
  shown: string;
  visible: boolean;
  series?: Series | undefined;
}

export class RunList implements View {
  readonly element: HTMLElement;
  private readonly filter = el("input", { type: "search", id: "filter", placeholder: "filter runs", "aria-label": "Filter runs by name", autocomplete: "off" });
  private readonly compare = el("button", { type: "button", id: "compare", disabled: true }, "compare selected");
  private readonly body = el("tbody", {});
  private readonly summary = el("p", { class: "soft", role: "status" });
  private readonly dissections = el("ul", { class: "dissections" });
  private readonly table: HTMLElement;
  private readonly rows = new Map<string, Row>();
  private readonly chosen = new Set<string>();
  private readonly losses = new Asker((signal) => this.fetch(signal), () => undefined);
  private readonly seen: IntersectionObserver;
  private readonly clock: number;
  private found: Found | null = null;
  private ahead = 0;

  constructor() {
    this.table = el(
      "table",
      { class: "runs" },
      el("caption", { class: "visually-hidden" }, "Runs"),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("th", { scope: "col" }, el("span", { class: "visually-hidden" }, "compare")),
          ...["run", "status", "step", "loss", "alarms", "changed"].map((name) => el("th", { scope: "col", class: name }, name)),
        ),
      ),
      this.body,
    );
    this.element = el(
      "section",
      { "aria-label": "Runs" },
      el("div", { class: "bar" }, this.filter, this.compare, this.summary),
      this.dissections,
      this.table,
    );
    this.seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        const row = this.rows.get((entry.target as HTMLElement).dataset.id ?? "");
        if (row) row.visible = entry.isIntersecting;
      }
      this.losses.ask();
    });
    this.filter.addEventListener("input", () => go({ filter: this.filter.value }));
    this.compare.addEventListener("click", () => go({ ...START, view: "compare", ids: [...this.chosen] }));
    this.body.addEventListener("keydown", (event) => this.arrow(event));
    this.clock = window.setInterval(() => this.ages(), 1000);
    onTheme(() => this.paint());
  }

  end(): void {
    this.losses.end();
    this.seen.disconnect();
    clearInterval(this.clock);
  }

  route(now: Route): void {
    if (this.filter.value !== now.filter) this.filter.value = now.filter;
    this.sift(now.filter);
  }

  live(now: Live): void {
    if (!now.found || now.found === this.found) return;
    this.found = now.found;
    this.ahead = now.ahead;
    const { runs, dissections } = now.found;
    this.dissections.replaceChildren(...dissections.map(dissectionItem));
    const there = new Set(runs.map((line) => line.id));
    for (const [id, row] of this.rows) {
      if (there.has(id)) continue;
      row.element.remove();
      this.rows.delete(id);
      this.chosen.delete(id);
    }
    for (const line of runs) {
      const row = this.rows.get(line.id) ?? this.make(line);
      this.fill(row, line);
    }
    // The newest first: that is the one somebody waits for.
    const order = [...this.rows.values()].sort((a, b) => b.line.created.localeCompare(a.line.created) || a.line.id.localeCompare(b.line.id));
    order.forEach((row, i) => {
      if (this.body.children[i] !== row.element) this.body.insertBefore(row.element, this.body.children[i] ?? null);
    });
    this.sift(this.filter.value);
    this.losses.ask();
  }

  private make(line: RunLine): Row {
    const { folder, name } = split(line.id);
    const canvas = el("canvas", { class: "spark", "aria-hidden": "true" });
    const cell = (kind: string, ...children: Node[]) => el("td", { class: kind }, ...children);
    const box = el("input", { type: "checkbox", "aria-label": `Compare ${line.id}` });
    const [status, step, alarms, when, loss] = [el("span", {}), el("span", {}), el("span", {}), el("span", {}), el("span", { class: "value" })];
    const link = el("a", { href: write({ ...START, view: "run", ids: [line.id] }) }, el("small", { class: "soft" }, folder), name);
    const element = el(
      "tr",
      { "data-id": line.id },
      cell("pick", box),
      el("th", { scope: "row", class: "run" }, link, el("small", { class: "soft optimizer" }, line.optimizer)),
      cell("status", status),
      cell("step", step),
      cell("loss", canvas, loss),
      cell("alarms", alarms),
      cell("changed", when),
    );
    box.addEventListener("change", () => {
      if (box.checked) this.chosen.add(line.id);
      else this.chosen.delete(line.id);
      this.compare.disabled = this.chosen.size < 2;
      this.compare.textContent = this.chosen.size < 2 ? "compare selected" : `compare ${this.chosen.size} runs`;
    });
    const row: Row = { element, canvas, loss, step, status, alarms, age: when, box, line, shown: "", visible: false };
    this.rows.set(line.id, row);
    this.seen.observe(element);
    return row;
  }

  private fill(row: Row, line: RunLine): void {
    row.line = line;
    row.status.replaceChildren(badge(line.status));
    if (line.problem) row.status.append(el("small", { class: "error problem" }, line.problem));
    row.step.textContent = line.last === null ? "–" : count(line.last);
    row.alarms.textContent = line.alarms ? `▲ ${line.alarms}` : "";
    row.alarms.className = line.alarms ? "error" : "";
    this.agree(row);
  }

  private agree(row: Row): void {
    row.age.textContent = age(row.line, Date.now() / 1000 + this.ahead, duration);
    row.age.className = row.age.textContent.startsWith("no news") ? "error" : "soft";
  }

  private ages(): void {
    for (const row of this.rows.values()) if (row.visible) this.agree(row);
  }

  private sift(filter: string): void {
    const words = filter.toLowerCase().split(/\s+/);
    let shown = 0;
    for (const row of this.rows.values()) {
      const text = `${row.line.id} ${row.line.status} ${row.line.optimizer}`.toLowerCase();
      const fits = words.every((word) => text.includes(word));
      row.element.hidden = !fits;
      shown += Number(fits);
    }
    const all = this.rows.size;
    const running = [...this.rows.values()].filter((row) => row.line.status === "running").length;
    const more = this.found?.truncated ? ", and more than are shown" : "";
    this.summary.textContent = all
      ? `${shown === all ? all : `${shown} of ${all}`} run${all === 1 ? "" : "s"}${running ? `, ${running} running` : ""}${more}`
      : this.found
        ? `No run in ${this.found.folder} yet. It appears here as soon as one begins to record.`
        : "Looking for runs …";
    this.table.classList.toggle("hidden", all === 0);
  }

  private async fetch(signal: AbortSignal): Promise<void> {
    const wanted = [...this.rows.values()].filter((row) => row.visible && !row.element.hidden && row.shown !== row.line.stamp && row.line.status !== "broken");
    for (let i = 0; i < wanted.length; i += 10) {
      const some = wanted.slice(i, i + 10);
      const stamps = some.map((row) => row.line.stamp);
      const { found, read } = await series({ runs: some.map((row) => row.line.id), columns: LOSSES, layers: [""], buckets: 120 }, signal);
      some.forEach((row, j) => {
        row.series = LOSSES.map((name) => found.get(key(row.line.id, name, ""))).find((one) => one !== undefined);
        if (read === 1) row.shown = stamps[j] ?? "";
        this.draw(row);
      });
      if (read < 1) this.losses.ask();
    }
  }

  private draw(row: Row): void {
    sparkline(row.canvas, row.series);
    const end = row.series?.end.at(-1);
    row.loss.textContent = !row.series ? "" : Number.isNaN(end) ? "NaN" : number(end);
  }

  private paint(): void {
    for (const row of this.rows.values()) if (row.visible) this.draw(row);
  }

  private arrow(event: KeyboardEvent): void {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const links = [...this.body.querySelectorAll<HTMLAnchorElement>("tr:not([hidden]) a")];
    const row = (event.target as HTMLElement).closest("tr");
    const at = links.findIndex((link) => link.closest("tr") === row);
    links[at + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
    event.preventDefault();
  }
}

function dissectionItem(line: DissectionLine): HTMLElement {
  const { folder, name } = split(line.id);
  const words = line.status === "finished" ? `${line.done} trials` : `${line.done} trials so far`;
  return el(
    "li",
    { class: "panel" },
    el("a", { href: write({ ...START, view: "dissection", ids: [line.id] }) }, el("small", { class: "soft" }, folder), name),
    el("span", { class: "soft" }, ` dissection of ${line.problem || "a problem"} · ${words} · `),
    badge(line.status),
  );
}

