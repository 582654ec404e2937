// One run: a head with its state, tabs, and the range of steps that all of them show.

import { el } from "../shared/dom";
import { badge, age, Asker, message, type View } from "./view";
import { detail, type Detail, type Range } from "./data";
import { count, duration, split } from "./format";
import type { Live } from "./live";
import { go, route, START, steps, TABS, write, type Route, type Tab } from "./route";
import { About, Events } from "./panes";
import { Distribution, Heat, Layers, Overview, Spread, type Pane } from "./charts";

const NAMES: Record<Tab, string> = {
  overview: "Overview",
  layers: "Layers",
  heatmap: "Heat map",
  scatter: "Spread and step",
  distribution: "Distribution",
  events: "Alarms",
  about: "Settings",
};

export class RunView implements View {
  readonly element: HTMLElement;
  private readonly state = el("p", { class: "state", role: "status" });
  private readonly trouble = el("p", { class: "error", role: "alert" });
  private readonly tabs = el("div", { role: "tablist", "aria-label": "Views of the run", class: "tabs" });
  private readonly range = el("select", { "aria-label": "Steps shown" });
  private readonly body = el("div", { role: "tabpanel", id: "pane", tabindex: -1 });
  private readonly asker = new Asker(
    async (signal) => this.know(await detail(this.id, signal)),
    (error) => this.complain(message(error)),
  );
  private readonly clock: number;
  private known: Detail | null = null;
  private pane: Pane | null = null;
  private tab: Tab | null = null;
  private stamp = "";
  private ahead = 0;

  constructor(readonly id: string) {
    const { folder, name } = split(id);
    for (const tab of TABS) {
      const button = el("button", { type: "button", role: "tab", id: `tab-${tab}`, "aria-controls": "pane" }, NAMES[tab]);
      button.addEventListener("click", () => go({ tab }));
      this.tabs.append(button);
    }
    this.tabs.addEventListener("keydown", (event) => this.arrow(event));
    this.range.addEventListener("change", () => go({ range: this.range.value }));
    this.element = el(
      "section",
      { "aria-label": `Run ${id}` },
      el("div", { class: "head" }, el("h2", {}, el("small", { class: "soft" }, folder), name), this.state),
      this.trouble,
      el("div", { class: "bar" }, this.tabs, el("label", { class: "range" }, "steps ", this.range)),
      this.body,
    );
    this.clock = window.setInterval(() => this.describe(), 1000);
    this.asker.ask();
  }

  end(): void {
    this.asker.end();
    this.pane?.end();
    clearInterval(this.clock);
  }

  route(now: Route): void {
    if (!this.known) return;
    this.ranges(now);
    if (now.tab !== this.tab) {
      this.pane?.end();
      this.tab = now.tab;
      const make: Record<Tab, () => Pane> = {
        overview: () => new Overview(),
        layers: () => new Layers(),
        heatmap: () => new Heat(),
        scatter: () => new Spread(),
        distribution: () => new Distribution(),
        events: () => new Events(),
        about: () => new About(),
      };
      this.pane = make[now.tab]();
      this.body.replaceChildren(this.pane.element);
      this.body.setAttribute("aria-labelledby", `tab-${now.tab}`);
    }
    for (const button of this.tabs.children) {
      const chosen = button.id === `tab-${now.tab}`;
      button.setAttribute("aria-selected", String(chosen));
      button.setAttribute("tabindex", chosen ? "0" : "-1");
    }
    this.pane?.show(this.known, now, this.steps(now));
  }

  live(now: Live): void {
    this.ahead = now.ahead;
    const line = now.found?.runs.find((one) => one.id === this.id);
    if (now.found && !line && this.known) this.complain("This run is not in the folder any more.");
    if (line && (line.stamp !== this.stamp || !this.known)) {
      this.stamp = line.stamp;
      this.asker.ask();
    }
  }

  private steps(now: Route): Range {
    return steps(now.range, this.known?.first ?? null, this.known?.last ?? null);
  }

  private know(found: Detail): void {
    this.known = found;
    this.stamp = found.line.stamp;
    this.complain(found.problems.join(" "));
    this.describe();
    this.route(route());
  }

  private complain(text: string): void {
    if (this.trouble.textContent !== text) this.trouble.textContent = text;
  }

  private describe(): void {
    const line = this.known?.line;
    if (!line) return;
    const alarms = line.alarms ? el("a", { href: write({ ...route(), tab: "events" }), class: "error" }, `▲ ${line.alarms} alarm${line.alarms === 1 ? "" : "s"}`) : null;
    const parts: (Node | string | null)[] = [
      badge(line.status),
      line.last === null ? " nothing recorded yet" : ` step ${count(line.last)}`,
      line.optimizer ? ` · ${line.optimizer}` : "",
      ` · ${age(line, Date.now() / 1000 + this.ahead, duration)}`,
      line.dissection ? " · " : "",
      line.dissection ? el("a", { href: write({ ...START, view: "dissection", ids: [line.dissection] }) }, "its dissection") : null,
      alarms ? " · " : "",
      alarms,
    ];
    const text = parts.map((part) => (typeof part === "string" ? part : (part?.textContent ?? ""))).join("");
    if (this.state.textContent !== text) this.state.replaceChildren(...parts.filter((part) => part !== null));
  }

  private ranges(now: Route): void {
    const { first, last } = this.known ?? { first: null, last: null };
    const options: [string, string][] = [["", "all"]];
    if (first !== null && last !== null) {
      for (const tail of [100, 1000, 10_000, 100_000]) if (last - first > tail) options.push([`last:${tail}`, `the last ${count(tail)}`]);
    }
    if (now.range && !options.some(([value]) => value === now.range)) options.push([now.range, now.range.replace(/-(?=\d+$)/, " to ").replace("last:", "the last ")]);
    const shown = [...this.range.options].map((option) => option.value).join();
    if (shown !== options.map(([value]) => value).join()) {
      this.range.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
    }
    this.range.value = now.range;
  }

  private arrow(event: KeyboardEvent): void {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const next = TABS[(TABS.indexOf(route().tab) + by + TABS.length) % TABS.length];
    if (!next) return;
    go({ tab: next });
    document.getElementById(`tab-${next}`)?.focus();
    event.preventDefault();
  }
}
