// What several tabs let one choose: the instrument, which layers, and the scale of the values.

import { el } from "../shared/dom";
import type { Column, Detail, Layer } from "./data";
import { words } from "./format";
import { go, type Route } from "./route";

/** Columns that layers have: not the loss and other notes, nor single cells of histograms. */
export const instruments = (detail: Detail): Column[] => detail.columns.filter((column) => column.formula && column.name !== "lr" && !column.name.includes("["));

/** Columns that may belong to the run as a whole. */
export const notes = (detail: Detail): Column[] => detail.columns.filter((column) => (!column.formula && !column.name.includes("[")) || column.name === "lr");

const PREFERRED = ["spread_median", "factor_adam", "update_to_weight", "grad_norm"];

/** The instrument that the route names, or the first of those that tell most. Runs of other sinks have columns without a formula. */
export function chosenColumn(detail: Detail, route: Route): string {
  const known = instruments(detail);
  const all = known.length ? known : detail.columns.filter((column) => !column.name.includes("["));
  const names = all.map((column) => column.name);
  if (names.includes(route.column)) return route.column;
  return PREFERRED.find((name) => names.includes(name)) ?? names[0] ?? "";
}

/** The layers that the route's filter lets through. */
export function chosenLayers(detail: Detail, route: Route): Layer[] {
  const parts = route.filter.toLowerCase().split(/\s+/);
  return detail.layers.filter(
    (layer) => layer.name !== "" && (!route.weights || layer.weight) && parts.every((part) => layer.name.toLowerCase().includes(part)),
  );
}

export class Controls {
  readonly element: HTMLElement;
  private readonly column = el("select", { id: "column", "aria-label": "Instrument", "aria-describedby": "about-column" });
  private readonly filter = el("input", { type: "search", id: "layers", placeholder: "filter layers", "aria-label": "Filter layers by name", autocomplete: "off" });
  private readonly weights = el("input", { type: "checkbox", id: "weights" });
  private readonly scale = el(
    "select",
    { "aria-label": "Scale of the values" },
    ...[
      ["", "automatic scale"],
      ["log", "log scale"],
      ["linear", "linear scale"],
    ].map(([value, text]) => el("option", { value: value ?? "" }, text ?? "")),
  );
  private readonly about = el("summary", { id: "about-column" });
  private readonly more = el("p", {});

  constructor(withColumn = true) {
    this.column.addEventListener("change", () => go({ column: this.column.value }));
    this.filter.addEventListener("input", () => go({ filter: this.filter.value }));
    this.weights.addEventListener("change", () => go({ weights: this.weights.checked }));
    this.scale.addEventListener("change", () => go({ log: this.scale.value as Route["log"] }));
    this.element = el(
      "div",
      { class: "controls" },
      el("div", { class: "bar" }, withColumn ? this.column : null, this.scale, this.filter, el("label", { class: "check" }, this.weights, " weights only")),
      withColumn ? el("details", { class: "soft about-column" }, this.about, this.more) : null,
    );
  }

  show(detail: Detail, route: Route): void {
    const known = instruments(detail);
    const all = known.length ? known : detail.columns.filter((column) => !column.name.includes("["));
    const options = all.map((column) => column.name);
    if ([...this.column.options].map((option) => option.value).join() !== options.join()) {
      this.column.replaceChildren(...options.map((name) => el("option", { value: name }, words(name))));
    }
    this.column.value = chosenColumn(detail, route);
    const about = detail.columns.find((column) => column.name === this.column.value);
    this.about.textContent = about?.formula ? `${about.formula}${about.unit && about.unit !== "1" ? ` in units of ${about.unit}` : ""}` : "no description";
    this.more.textContent = about ? `${about.estimator ? `Estimate: ${about.estimator}. ` : ""}${about.source}` : "";
    if (this.filter.value !== route.filter) this.filter.value = route.filter;
    this.weights.checked = route.weights;
    this.scale.value = route.log;
  }
}

export function describe(column: Column): string {
  const unit = column.unit && column.unit !== "1" ? ` In units of ${column.unit}.` : "";
  const estimator = column.estimator ? ` Estimate: ${column.estimator}.` : "";
  return column.formula ? `${column.formula}.${unit}${estimator} ${column.source}`.trim() : "";
}

export const logOf = (route: Route): boolean | undefined => (route.log === "" ? undefined : route.log === "log");
