import { busy } from "../shared/busy";
import { byId, el } from "../shared/dom";
import { themeButton } from "../shared/theme";
import { Compare } from "./compare";
import { DissectionView } from "./dissection";
import { RunList } from "./list";
import { live, onLive, watchRuns } from "./live";
import { onRoute, route, START, write, type Route } from "./route";
import { RunView } from "./run";
import { redraws } from "./trial";
import type { View } from "./view";

const banner = el("p", { class: "banner hidden", role: "alert" }, "The server does not answer. This page goes on by itself when it is back.");
const home = el("a", { href: write(START) }, "stepscope watch");
const place = el("main", { id: "main", tabindex: -1 });
const heading = el("h1", {}, home);

byId("app").append(
  el("a", { class: "skip", href: "#main" }, "to the content"),
  el("header", {}, heading, el("span", { class: "soft folder" }), themeButton()),
  banner,
  place,
);
document.querySelector(".skip")?.addEventListener("click", (event) => {
  event.preventDefault();
  place.focus();
});

let view: View | null = null;
let shown = "";

function show(now: Route): void {
  const name = JSON.stringify([now.view, now.ids]);
  if (name !== shown || !view) {
    view?.end();
    shown = name;
    const id = now.ids[0] ?? "";
    view = now.view === "run" ? new RunView(id) : now.view === "compare" ? new Compare(now.ids) : now.view === "dissection" ? new DissectionView(id) : new RunList();
    place.replaceChildren(view.element);
    document.title = now.view === "list" ? "stepscope watch" : `${now.ids.join(", ")} · stepscope watch`;
    view.live(live(), { found: null, ahead: 0, connected: true });
  }
  view.route(now);
}

onRoute((now) => show(now));
onLive((now, before) => {
  banner.classList.toggle("hidden", now.connected);
  const folder = document.querySelector(".folder");
  if (folder) folder.textContent = now.found?.folder ?? "";
  view?.live(now, before);
});
document.addEventListener("keydown", (event) => {
  const target = event.target as HTMLElement;
  if (event.key !== "/" || event.ctrlKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) return;
  const filter = document.querySelector<HTMLInputElement>("input[type=search]");
  if (filter) {
    event.preventDefault();
    filter.focus();
  }
});
Object.assign(window, { stepscope: { redraws, settled: () => !busy() } });
show(route());
void watchRuns();
