// The two tabs without a chart: what happened, and how the run was set up.

import { el } from "../shared/dom";
import type { Detail, Range, RunEvent } from "./data";
import { count, number, words } from "./format";
import { go, type Route } from "./route";
import type { Pane } from "./charts";

/** The step an event names, if it does. */
export function stepOf(event: RunEvent): number | null {
  return typeof event.step === "number" && Number.isFinite(event.step) ? event.step : null;
}

/** An event in a sentence: its own words where it has some, everything it holds otherwise. */
export function sentence(event: RunEvent): string {
  for (const name of ["message", "sentence", "text"]) if (typeof event[name] === "string") return event[name] as string;
  const rest = Object.entries(event).filter(([name, value]) => !["kind", "time", "step", "layer", "name", "alarm"].includes(name) && typeof value !== "object");
  return rest.map(([name, value]) => `${name} ${String(value)}`).join(", ").slice(0, 300);
}

export const titleOf = (event: RunEvent): string =>
  String(event.kind === "alarm" ? (event.alarm ?? event.id ?? event.name ?? "alarm") : event.kind).replaceAll("_", " ");

const MOST = 200;

export class Events implements Pane {
  private readonly list = el("ol", { class: "events" });
  private readonly empty = el("p", { class: "soft" }, "Nothing happened: no alarm, and the run was not continued from elsewhere.");
  private readonly more = el("p", { class: "soft" });
  readonly element = el("div", {}, this.empty, this.list, this.more);

  show(detail: Detail, _route: Route, _range: Range): void {
    const sorted = [...detail.events].reverse().sort((a, b) => Number(b.kind === "alarm") - Number(a.kind === "alarm"));
    const events = sorted.slice(0, MOST);
    this.more.textContent = sorted.length > MOST ? `The newest ${MOST} of ${sorted.length} are shown.` : "";
    this.empty.classList.toggle("hidden", events.length > 0);
    const text = JSON.stringify(events);
    if (this.list.dataset.shown === text) return;
    this.list.dataset.shown = text;
    this.list.replaceChildren(...events.map((event) => this.item(event, detail)));
  }

  private item(event: RunEvent, detail: Detail): HTMLElement {
    const step = stepOf(event);
    const layer = typeof event.layer === "string" && event.layer ? event.layer : null;
    const jump = step === null ? null : el("button", { type: "button", class: "jump" }, `go to step ${count(step)}`);
    jump?.addEventListener("click", () => {
      const reach = Math.max(20, Math.round(((detail.last ?? 0) - (detail.first ?? 0)) / 40));
      const range = `${Math.max(detail.first ?? 0, (step ?? 0) - reach)}-${(step ?? 0) + reach}`;
      go(layer ? { tab: "layers", layer, range } : { tab: "overview", range });
    });
    const advice = ["helps", "advice"].map((name) => event[name]).find((value) => typeof value === "string");
    const numbers = event.evidence && typeof event.evidence === "object" ? Object.entries(event.evidence) : [];
    const evidence = numbers.map(([name, value]) => `${words(name)} ${typeof value === "number" ? number(value) : String(value)}`).join(", ");
    return el(
      "li",
      { class: event.kind === "alarm" ? "panel alarm" : "panel" },
      el("strong", { class: event.kind === "alarm" ? "error" : "" }, event.kind === "alarm" ? `▲ ${titleOf(event)}` : titleOf(event)),
      layer ? el("code", {}, ` ${layer}`) : null,
      el("time", { class: "soft", datetime: event.time }, ` ${new Date(event.time).toLocaleString()}`),
      el("p", {}, sentence(event)),
      evidence ? el("p", { class: "soft" }, evidence) : null,
      advice ? el("p", { class: "soft" }, String(advice)) : null,
      jump,
    );
  }

  end(): void {}
}

export class About implements Pane {
  readonly element = el("div", { class: "about" });
  private shown = "";

  show(detail: Detail): void {
    const config = Object.fromEntries(Object.entries(detail.config).filter(([name]) => name !== "scope"));
    const scope = detail.config.scope as Record<string, unknown> | undefined;
    const text = JSON.stringify([detail.config, detail.provenance, detail.columns.length]);
    if (text === this.shown) return;
    this.shown = text;
    const own = scope ? Object.fromEntries(Object.entries(scope).filter(([name]) => name !== "columns")) : {};
    this.element.replaceChildren(
      part("Settings", { ...config, ...own, created: detail.line.created, tensors: detail.line.tensors }),
      part("Where it comes from", detail.provenance),
      el(
        "section",
        { class: "panel" },
        el("h3", {}, "Columns"),
        el(
          "dl",
          {},
          ...detail.columns
            .filter((column) => !column.name.includes("["))
            .flatMap((column) => [
              el("dt", {}, el("code", {}, column.name), column.unit && column.unit !== "1" ? el("span", { class: "soft" }, ` ${column.unit}`) : null),
              el("dd", {}, column.formula, column.source ? el("span", { class: "soft" }, ` ${column.source}`) : null),
            ]),
        ),
      ),
    );
  }

  end(): void {}
}

function part(title: string, values: Record<string, unknown>): HTMLElement {
  const rows = Object.entries(values).flatMap(([name, value]) =>
    value !== null && typeof value === "object" && !Array.isArray(value)
      ? Object.entries(value).map(([inner, one]): [string, unknown] => [`${name} ${inner}`, one])
      : [[name, value] as [string, unknown]],
  );
  const say = (value: unknown) => (Array.isArray(value) ? value.join(" ") : typeof value === "object" ? JSON.stringify(value) : String(value));
  return el("section", { class: "panel" }, el("h3", {}, title), el("dl", {}, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, say(value))])));
}
