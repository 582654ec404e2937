// What is shown lives in the fragment of the address, readable, so that a link or the back button finds it again.

import type { Range } from "./data";

export type Tab = "overview" | "layers" | "heatmap" | "scatter" | "distribution" | "events" | "about";
export const TABS: readonly Tab[] = ["overview", "layers", "heatmap", "scatter", "distribution", "events", "about"];

export interface Route {
  view: "list" | "run" | "compare" | "dissection";
  ids: string[];
  tab: Tab;
  column: string;
  layer: string | null;
  filter: string;
  weights: boolean;
  /** "" for all steps, "last:1000", or "10-200". */
  range: string;
  log: "" | "log" | "linear";
}

export const START: Route = {
  view: "list",
  ids: [],
  tab: "overview",
  column: "",
  layer: null,
  filter: "",
  weights: false,
  range: "",
  log: "",
};

const short = (text: string | null): string => (text ?? "").slice(0, 1000);

/** Whatever a fragment says, made into a route; what makes no sense is left out. */
export function read(fragment: string): Route {
  const query = new URLSearchParams(fragment.replace(/^#/, ""));
  const route: Route = { ...START, ids: [] };
  for (const view of ["run", "compare", "dissection"] as const) {
    if (query.has(view)) {
      route.view = view;
      route.ids = query.getAll(view).map(short).slice(0, 20);
    }
  }
  const tab = query.get("tab");
  if (TABS.includes(tab as Tab)) route.tab = tab as Tab;
  route.column = short(query.get("column"));
  route.layer = query.has("layer") ? short(query.get("layer")) : null;
  route.filter = short(query.get("filter"));
  route.weights = query.get("weights") === "1";
  const range = short(query.get("range"));
  if (/^(last:\d{1,15}|-?\d{1,15}-\d{1,15})$/.test(range)) route.range = range;
  const log = query.get("scale");
  if (log === "log" || log === "linear") route.log = log;
  return route;
}

/** The fragment of a route, "#" included; parts that are as at the start are left out. */
export function write(route: Route): string {
  const query = new URLSearchParams();
  if (route.view !== "list") for (const id of route.ids) query.append(route.view, id);
  if (route.tab !== START.tab && route.view === "run") query.set("tab", route.tab);
  if (route.column) query.set("column", route.column);
  if (route.layer !== null) query.set("layer", route.layer);
  if (route.filter) query.set("filter", route.filter);
  if (route.weights) query.set("weights", "1");
  if (route.range) query.set("range", route.range);
  if (route.log) query.set("scale", route.log);
  return `#${query.toString().replaceAll("%2F", "/")}`;
}

/** The steps that a range names, for a run that reaches from `first` to `last`. */
export function steps(range: string, first: number | null, last: number | null): Range {
  const tail = /^last:(\d+)$/.exec(range);
  if (tail && last !== null) return { first: Math.max(first ?? 0, last - Number(tail[1]) + 1), last };
  const ends = /^(-?\d+)-(\d+)$/.exec(range);
  if (ends && Number(ends[2]) >= Number(ends[1])) return { first: Number(ends[1]), last: Number(ends[2]) };
  return { first: undefined, last: undefined };
}

let current = read(location.hash);
const listeners = new Set<(now: Route, before: Route) => void>();

export const route = (): Route => current;
export const onRoute = (f: (now: Route, before: Route) => void): void => void listeners.add(f);

/** Goes there. A change within a view replaces the address unless `step` asks for a step in the history. */
export function go(change: Partial<Route>, step = "view" in change || "tab" in change): void {
  const next = { ...current, ...change };
  const fragment = write(next);
  if (step && fragment !== location.hash) history.pushState(null, "", fragment);
  else history.replaceState(null, "", fragment);
  arrive(next);
}

function arrive(next: Route): void {
  const before = current;
  current = next;
  for (const f of [...listeners]) f(next, before);
}

addEventListener("popstate", () => arrive(read(location.hash)));
