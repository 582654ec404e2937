import { get } from "../shared/api";
import { byId, el } from "../shared/dom";
import { themeButton } from "../shared/theme";

interface RunLine {
  id: string;
  status: string;
  created: string;
  problem: string;
  tensors: number;
}

const list = el("tbody");
byId("app").append(
  el("main", {}, el("h1", {}, "stepscope watch"), themeButton(), el("table", {}, el("caption", {}, "Runs"), list)),
);

async function refresh(): Promise<void> {
  const { runs } = await get<{ folder: string; runs: RunLine[] }>("/api/runs");
  const row = (one: RunLine) => el("tr", {}, el("th", { scope: "row" }, one.id), el("td", {}, one.status), el("td", {}, one.created));
  list.replaceChildren(...runs.map(row));
}

void refresh();
