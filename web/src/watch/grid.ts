// Many small lines side by side, of which only those in view are asked for and drawn; each is a button to the whole.

import { el } from "../shared/dom";
import { onTheme } from "../shared/theme";
import { sparkline } from "./chart";
import { key, series, type Range, type Series } from "./data";
import { number } from "./format";
import { Asker } from "./view";

export interface Item {
  column: string;
  layer: string;
  title: string;
  note: string;
}

interface Cell {
  item: Item;
  element: HTMLButtonElement;
  canvas: HTMLCanvasElement;
  value: HTMLElement;
  visible: boolean;
  shown: string;
  series?: Series | undefined;
}

const AT_ONCE = 48;

export class Grid {
  readonly element = el("div", { class: "grid" });
  private readonly cells = new Map<string, Cell>();
  private readonly asker = new Asker((signal) => this.fetch(signal), () => undefined);
  private readonly seen: IntersectionObserver;
  private run = "";
  private range: Range = { first: undefined, last: undefined };
  private version = "";
  private chosen = "";

  constructor(private readonly onPick: (item: Item) => void) {
    this.seen = new IntersectionObserver(
      (entries) => {
        for (const entry of entries) {
          const cell = this.cells.get((entry.target as HTMLElement).dataset.key ?? "");
          if (cell) cell.visible = entry.isIntersecting;
        }
        this.asker.ask();
      },
      { rootMargin: "200px" },
    );
    this.element.addEventListener("keydown", (event) => this.arrow(event));
    onTheme(() => this.cells.forEach((cell) => cell.visible && this.draw(cell)));
  }

  /** stamp: changes whenever the values may. */
  show(run: string, items: Item[], range: Range, stamp: string, chosen = ""): void {
    this.run = run;
    this.range = range;
    this.version = `${stamp} ${range.first} ${range.last}`;
    const wanted = new Set(items.map((item) => key("", item.column, item.layer)));
    for (const [name, cell] of this.cells) {
      if (wanted.has(name)) continue;
      this.seen.unobserve(cell.element);
      cell.element.remove();
      this.cells.delete(name);
    }
    const order = items.map((item) => {
      const name = key("", item.column, item.layer);
      return (this.cells.get(name) ?? this.make(name, item)).element;
    });
    const there = [...this.element.children];
    if (there.length !== order.length || order.some((element, i) => element !== there[i])) this.element.replaceChildren(...order);
    if (this.chosen !== chosen) {
      this.chosen = chosen;
      for (const [name, cell] of this.cells) cell.element.setAttribute("aria-pressed", String(name === chosen));
    }
    this.asker.ask();
  }

  end(): void {
    this.asker.end();
    this.seen.disconnect();
  }

  private make(name: string, item: Item): Cell {
    const canvas = el("canvas", { class: "spark", "aria-hidden": "true" });
    const value = el("span", { class: "value" });
    const title = el("span", { class: item.title === item.layer ? "title end" : "title", title: item.title }, el("bdi", {}, item.title));
    const element = el("button", { type: "button", class: "cell", "data-key": name }, title, el("span", { class: "soft note" }, item.note), canvas, value);
    const cell: Cell = { item, element, canvas, value, visible: false, shown: "" };
    element.addEventListener("click", () => this.onPick(item));
    if (name === this.chosen) element.setAttribute("aria-pressed", "true");
    this.cells.set(name, cell);
    this.seen.observe(element);
    return cell;
  }

  private async fetch(signal: AbortSignal): Promise<void> {
    const version = this.version;
    const stale = [...this.cells.values()].filter((cell) => cell.visible && cell.shown !== version);
    const layers = new Map<string, Cell[]>();
    for (const cell of stale) {
      const group = cell.item.column;
      layers.set(group, [...(layers.get(group) ?? []), cell]);
    }
    // One column of many layers, or many columns of one layer: either is one request.
    const groups =
      layers.size > 1 && new Set(stale.map((cell) => cell.item.layer)).size === 1
        ? [stale]
        : [...layers.values()].flatMap((cells) => Array.from({ length: Math.ceil(cells.length / AT_ONCE) }, (_, i) => cells.slice(i * AT_ONCE, (i + 1) * AT_ONCE)));
    for (const cells of groups) {
      const query = {
        runs: [this.run],
        columns: [...new Set(cells.map((cell) => cell.item.column))].slice(0, 50),
        layers: [...new Set(cells.map((cell) => cell.item.layer))],
        buckets: 150,
        ...given(this.range),
      };
      const { found, read } = await series(query, signal);
      for (const cell of cells) {
        cell.series = found.get(key(this.run, cell.item.column, cell.item.layer));
        if (read === 1) cell.shown = version;
        this.draw(cell);
      }
      if (read < 1) this.asker.ask();
    }
  }

  private draw(cell: Cell): void {
    sparkline(cell.canvas, cell.series);
    cell.value.textContent = number(cell.series?.end.at(-1));
    cell.element.dataset.points = String(cell.series?.step.length ?? 0);
  }

  private arrow(event: KeyboardEvent): void {
    const cells = [...this.element.children] as HTMLElement[];
    const at = cells.indexOf(document.activeElement as HTMLElement);
    if (at < 0) return;
    const first = cells[0]?.offsetTop;
    const across = Math.max(1, cells.filter((cell) => cell.offsetTop === first).length);
    const by: Record<string, number> = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
    const move = by[event.key];
    if (move === undefined) return;
    cells[at + move]?.focus();
    event.preventDefault();
  }
}

/** A range without its undefined ends, as JSON wants it. */
export function given(range: Range): Partial<Range> {
  return { ...(range.first === undefined ? {} : { first: range.first }), ...(range.last === undefined ? {} : { last: range.last }) };
}
