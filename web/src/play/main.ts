// The playground: one scene, its paths, and every view of them.

import { busy, waiting } from "../shared/busy";
import { byId, colour, el, everyFrame } from "../shared/dom";
import { decode, encode, keepInAddress } from "../shared/state";
import { onTheme, themeButton } from "../shared/theme";
import { Chart, type Series } from "./chart";
import { Controls } from "./controls";
import { Engine } from "./engine";
import { exportsPanel, python, standalone } from "./exports";
import { look } from "./look";
import { Maps } from "./maps";
import { MapView } from "./mapview";
import { Panel } from "./panel";
import { PRESETS } from "./presets";
import { catalogue as fetchCatalogue, curves, landscapeInfo, landscapeProgram, type LandscapeFunctions, type LandscapeProgram, saved } from "./programs";
import { accept, type Catalogue, label, type LandscapeInfo, type Scene, short, title, VERSION } from "./scene";
import { readPaths, type Stored } from "./stored";
import { Surface } from "./surface";

const SPEEDS = [1, 5, 20, 100, 500, 2000, 10_000, 100_000, 1_000_000];

class Playground {
  scene!: Scene;
  place!: LandscapeInfo;
  catalogue!: Catalogue;
  functions!: LandscapeFunctions;
  readonly engine = new Engine(() => this.everything());
  readonly map = new MapView((p) => this.moveStart(p), (box) => this.moveView(box));
  readonly surface = new Surface();
  readonly loss: Chart;
  private program!: LandscapeProgram;
  private controls!: Controls;
  private maps!: Maps;
  private panel!: Panel;
  private readonly remember = keepInAddress(() => this.shared());
  private readonly draw = everyFrame(() => this.paint());
  private readonly status = el("p", { class: "soft status", role: "status", id: "status" });
  private readonly rows = el("tbody");
  private readonly head = el("tr");
  private readonly scrub = el("input", { type: "range", id: "scrub", min: 0, step: 1, "aria-label": "Shown step" });
  private readonly exact = el("input", { type: "text", inputmode: "numeric", id: "at", "aria-label": "Shown step, exactly", class: "short" });
  private readonly playButton = el("button", { type: "button", id: "play", class: "primary", onclick: () => this.toggle() }, "▶ play");
  private readonly speed = el("select", { id: "speed", "aria-label": "Steps a second" }, ...SPEEDS.map((s) => el("option", { value: s }, `${s.toLocaleString("en")} steps/s`)));
  private readonly xAxis = el("select", { id: "loss-x", "aria-label": "Axis of the losses" }, ...["step", "log step", "time"].map((one) => el("option", { value: one }, one)));
  private readonly yAxis = el("input", { type: "checkbox", id: "loss-log", checked: true });
  private readonly methodChoice = el("select", { id: "inner-method", "aria-label": "Method" });
  private readonly coordinateChoice = el("select", { id: "inner-coordinate", "aria-label": "Coordinate" });
  private readonly logSteps = el("input", { type: "checkbox", id: "log-steps", checked: true });
  private readonly tabs = { player: el("button", { type: "button", id: "tab-player", role: "tab", "aria-controls": "player" }, "Player"), maps: el("button", { type: "button", id: "tab-maps", role: "tab", "aria-controls": "maps" }, "Phase diagrams and basins") };
  private readonly unstable = el("input", { type: "checkbox", id: "unstable" });
  private begun = false;
  private stored: Stored[] = [];
  private playing = 0;
  private last = 0;
  private position = 0;
  private wanted = 0;
  private center!: HTMLElement;

  constructor() {
    this.loss = new Chart({ label: "Losses of all methods over the steps", xlabel: "step", ylabel: "loss", logY: true }, (x) => this.pickLoss(x));
  }

  async begin(): Promise<void> {
    this.catalogue = await fetchCatalogue();
    const given = saved ? saved.scene : location.hash.length > 1 ? ((await decode(location.hash)) as { v?: number; scene?: unknown } | null) : null;
    const scene = saved ? given : given && (given as { v?: number }).v === VERSION ? (given as { scene?: unknown }).scene : null;
    await this.load(scene ?? { ...PRESETS[0]!.scene, preset: PRESETS[0]!.id });
    this.layout();
    void curves().then((made) => {
      this.panel.theories = made;
      this.draw();
    });
    onTheme(() => {
      this.panel.redraw();
      this.controls.build();
      this.everything();
    });
    addEventListener("resize", () => this.draw());
    addEventListener("hashchange", () => void waiting(this.fromAddress()));
    addEventListener("keydown", (event) => this.key(event));
    this.everything();
  }

  private async fromAddress(): Promise<void> {
    const given = (await decode(location.hash)) as { v?: number; scene?: unknown } | null;
    if (given?.v !== VERSION || JSON.stringify(given) === JSON.stringify(this.shared())) return;
    await this.load(given.scene);
    this.rebuild();
  }

  private shared(): unknown {
    return { v: VERSION, scene: this.scene };
  }

  /** Take over a scene from anywhere. Throws if its landscape does not exist. */
  private async load(given: unknown): Promise<void> {
    const wish = (given ?? {}) as { landscape?: unknown };
    const text = typeof wish.landscape === "string" && wish.landscape.length <= 500 ? wish.landscape : "ellipse";
    let place: LandscapeInfo;
    try {
      place = await landscapeInfo(text, this.catalogue);
    } catch (error) {
      if (!this.scene) place = this.catalogue.landscapes[0]!;
      else throw error;
    }
    const mine = ++this.wanted;
    const scene = accept(given, this.catalogue, place);
    const [program] = await Promise.all([landscapeProgram(place.name), this.engine.prepare(scene)]);
    if (mine !== this.wanted) return;
    if (this.place && String(this.place.variables) !== String(place.variables)) this.stored = [];
    this.place = place;
    this.program = program;
    this.scene = scene;
    this.exact.value = String(scene.at);
    this.stop();
    this.compute();
  }

  private compute(): void {
    this.functions = this.program.of(this.program.params.map((name) => this.scene.params[name]!));
    this.engine.start(this.scene);
  }

  /** The scene's numbers have changed: compute again, at once if the programs are there. */
  private changed(): void {
    this.scene.preset = "";
    const choice = document.getElementById("preset") as HTMLSelectElement | null;
    if (choice) choice.value = "";
    this.remember();
    if (this.engine.prepared(this.scene)) {
      this.compute();
      return;
    }
    const mine = ++this.wanted;
    void waiting(this.engine.prepare(this.scene).then(() => {
      if (mine === this.wanted) this.compute();
    }, (error: unknown) => this.say(error instanceof Error ? error.message : String(error))));
  }

  private moveStart(point: number[]): void {
    if (!point.every((x) => Number.isFinite(x) && Math.abs(x) <= 1e6)) return;
    this.scene.start = point;
    this.changed();
    this.controls.sync();
  }

  private moveView(box: number[][]): void {
    if (!box.every(([a, b]) => Number.isFinite(a) && Number.isFinite(b) && b! - a! > 1e-9 && b! - a! < 1e7)) return;
    this.scene.view = box;
    this.remember();
    this.draw();
  }

  private async landscape(text: string): Promise<void> {
    const { methods, steps, noise, sigma, seed, shared } = this.scene;
    await this.load({ landscape: text, methods, steps, noise, sigma, seed, shared, at: this.scene.at, method: this.scene.method });
    this.scene.preset = "";
    this.rebuild();
  }

  private async preset(id: string): Promise<void> {
    const preset = PRESETS.find((one) => one.id === id);
    if (!preset) return;
    try {
      await this.load({ ...preset.scene, preset: id });
    } catch (error) {
      this.say(error instanceof Error ? error.message : String(error));
    }
    this.rebuild();
  }

  private rebuild(): void {
    this.controls.build();
    this.choices();
    this.maps.build();
    this.tab(this.scene.tab);
    this.remember();
    this.everything();
  }

  // ---- layout ----------------------------------------------------------------------------------------------------

  private layout(): void {
    this.panel = new Panel((step) => this.seek(step), el("div", { class: "row" }, this.methodChoice, this.coordinateChoice, el("label", { class: "check" }, this.logSteps, " log steps"), el("label", { class: "check" }, this.unstable, " unstable region on the map")));
    const self = this;
    this.controls = new Controls({
      get scene() { return self.scene; },
      get place() { return self.place; },
      get catalogue() { return self.catalogue; },
      changed: () => {
        this.changed();
        this.choices();
      },
      landscape: (text) => waiting(this.landscape(text)),
      preset: (id) => waiting(this.preset(id)),
      say: (words) => this.say(words),
    });
    this.maps = new Maps({
      get scene() { return self.scene; },
      get place() { return self.place; },
      get catalogue() { return self.catalogue; },
      changed: () => this.remember(),
      load: (values) => this.loadCell(values),
    });
    const lossHead = el("div", { class: "chart-head" }, el("h2", { id: "loss-title" }, "Losses"), el("div", { class: "row" }, this.xAxis, el("label", { class: "check" }, this.yAxis, " log loss")));
    const losses = el("section", { class: "panel", "aria-labelledby": "loss-title" }, lossHead, this.loss.root);
    const numbers = el("section", { class: "panel scroll", "aria-label": "Current losses", tabindex: 0 }, el("table", { class: "losses", id: "losses" }, el("caption", { class: "visually-hidden" }, "Every method at the shown step"), el("thead", {}, this.head), this.rows));
    const player = el("div", { class: "player", role: "group", "aria-label": "Playback" },
      el("button", { type: "button", id: "to-start", "aria-label": "To the start", onclick: () => this.seek(0) }, "|◀"),
      el("button", { type: "button", id: "back", "aria-label": "One step back", onclick: () => this.seek(this.scene.at - 1) }, "◀"),
      this.playButton,
      el("button", { type: "button", id: "forth", "aria-label": "One step on", onclick: () => this.seek(this.scene.at + 1) }, "▶"),
      el("button", { type: "button", id: "to-end", "aria-label": "To the end", onclick: () => this.seek(this.scene.steps) }, "▶|"),
      this.exact, this.scrub, this.speed);
    this.speed.value = "100";
    this.center = el("div", { class: "center", id: "player", role: "tabpanel", "aria-labelledby": "tab-player" },
      el("div", { class: "views" }, el("section", { class: "panel view", "aria-label": "Map" }, this.map.root), el("section", { class: "panel view solid", "aria-label": "Surface" }, this.surface.root)),
      el("section", { class: "panel", "aria-label": "Player" }, player),
      el("div", { class: "views" }, losses, numbers));
    const mapsPane = el("div", { class: "center", role: "tabpanel", "aria-labelledby": "tab-maps", id: "maps-pane" }, this.maps.root);
    this.tabs.maps.setAttribute("aria-controls", "maps-pane");
    const tabs = el("div", { class: "tabs", role: "tablist", "aria-label": "Views" }, this.tabs.player, this.tabs.maps);
    for (const [name, button] of Object.entries(this.tabs)) {
      button.addEventListener("click", () => this.tab(name as Scene["tab"]));
      button.addEventListener("keydown", (event) => {
        if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
        event.stopPropagation();
        const other = name === "player" ? "maps" : "player";
        this.tab(other);
        this.tabs[other].focus();
      });
    }
    byId("app").append(
      el("header", {}, el("h1", {}, "stepscope play"), tabs, this.status, themeButton()),
      el("main", { class: "play" }, this.controls.root, el("div", { class: "stage" }, this.center, mapsPane, this.panel.root,
        exportsPanel({
          get scene() { return self.scene; },
          get place() { return self.place; },
          get catalogue() { return self.catalogue; },
          engine: this.engine, map: this.map, loss: this.loss,
          address: async () => `${location.href.split("#")[0]}#${await encode(this.shared())}`,
          show: (step) => {
            this.seek(step);
            this.paint();
          },
          say: (words) => this.say(words),
          open: async (file) => {
            this.stored = file ? await waiting(readPaths(file, this.place.variables)) : [];
            this.everything();
            return this.stored;
          },
        }))),
    );
    this.scrub.addEventListener("input", () => this.seek(Number(this.scrub.value)));
    const exactly = () => this.seek(Number(this.exact.value.replaceAll(/[, ]/g, "")));
    this.exact.addEventListener("change", exactly);
    this.exact.addEventListener("keydown", (event) => event.key === "Enter" && exactly());
    for (const one of [this.xAxis, this.yAxis, this.logSteps, this.unstable]) one.addEventListener("change", () => this.everything());
    this.methodChoice.addEventListener("change", () => {
      this.scene.method = Number(this.methodChoice.value);
      this.maps.build();
      this.remember();
      this.draw();
    });
    this.coordinateChoice.addEventListener("change", () => {
      this.scene.coordinate = Number(this.coordinateChoice.value);
      this.remember();
      this.draw();
    });
    this.choices();
    this.maps.build();
    this.tab(this.scene.tab);
  }

  private choices(): void {
    const { scene, place } = this;
    this.methodChoice.replaceChildren(...scene.methods.map((_, k) => el("option", { value: k }, label(scene.methods, k))));
    this.methodChoice.value = String(scene.method);
    this.coordinateChoice.replaceChildren(...place.variables.map((v, k) => el("option", { value: k }, v)));
    this.coordinateChoice.value = String(scene.coordinate);
  }

  private tab(name: Scene["tab"]): void {
    this.scene.tab = name;
    for (const [key, button] of Object.entries(this.tabs)) {
      button.setAttribute("aria-selected", String(key === name));
      button.tabIndex = key === name ? 0 : -1;
    }
    this.center.classList.toggle("hidden", name !== "player");
    byId("maps-pane").classList.toggle("hidden", name !== "maps");
    this.remember();
    if (name === "maps") void this.maps.compute();
    this.draw();
  }

  private loadCell(values: Record<string, number>): void {
    const { scene, place } = this;
    for (const [name, v] of Object.entries(values)) {
      if (name.startsWith("start.")) scene.start[place.variables.indexOf(name.slice(6))] = v;
      else if (name === "sigma") scene.sigma = v;
      else if (name in place.params) scene.params[name] = v;
      else {
        const all = scene.map.quantity === "winner" || (name === "lr" && scene.shared);
        for (const [k, one] of scene.methods.entries()) if (name in one.hyper && (all || k === scene.method)) one.hyper[name] = v;
      }
    }
    scene.start = [...scene.start];
    scene.steps = scene.map.steps;
    scene.at = scene.steps;
    this.changed();
    this.controls.build();
    this.tab("player");
    this.say(`loaded ${Object.entries(values).map(([name, v]) => `${name.replace(".", " ")} ${short(v)}`).join(", ")}`);
  }

  say(words: string): void {
    this.status.textContent = words;
  }

  // ---- time ------------------------------------------------------------------------------------------------------

  private seek(step: number): void {
    if (!Number.isFinite(step)) step = this.scene.at;
    this.scene.at = Math.min(this.scene.steps, Math.max(0, Math.round(step)));
    this.position = this.scene.at;
    this.exact.value = String(this.scene.at);
    this.remember();
    this.draw();
  }

  private pickLoss(x: number): void {
    const mode = this.xAxis.value;
    if (mode !== "time") return this.seek(mode === "log step" ? x - 1 : x);
    const path = this.engine.paths[this.scene.method]!;
    this.seek((x / path.spent) * path.t);
  }

  private toggle(): void {
    if (this.playing) return this.stop();
    if (this.scene.at >= this.scene.steps) this.scene.at = 0;
    this.position = this.scene.at;
    this.last = performance.now();
    this.playButton.textContent = "❚❚ pause";
    const go = (now: number) => {
      this.position += ((now - this.last) / 1000) * Number(this.speed.value);
      this.last = now;
      this.scene.at = Math.min(this.scene.steps, Math.floor(this.position));
      this.paint();
      if (this.scene.at >= this.scene.steps) return this.stop();
      this.playing = requestAnimationFrame(go);
    };
    this.playing = requestAnimationFrame(go);
  }

  private stop(): void {
    cancelAnimationFrame(this.playing);
    this.playing = 0;
    this.playButton.textContent = "▶ play";
    this.remember();
  }

  private key(event: KeyboardEvent): void {
    const at = event.target as HTMLElement;
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA|BUTTON|SUMMARY)$/.test(at.tagName)) return;
    const by = event.shiftKey ? 10 : 1;
    const does: Record<string, () => void> = {
      " ": () => this.toggle(), ArrowRight: () => this.seek(this.scene.at + by), ArrowLeft: () => this.seek(this.scene.at - by), Home: () => this.seek(0), End: () => this.seek(this.scene.steps),
    };
    const f = does[event.key];
    if (!f) return;
    event.preventDefault();
    f();
  }

  // ---- drawing ---------------------------------------------------------------------------------------------------

  private everything(): void {
    if (!this.panel) return;
    this.losses();
    this.draw();
  }

  /** The losses as series: their rows where they lie, thinned only by the chart. */
  private losses(): void {
    const mode = this.xAxis.value;
    const { options } = this.loss;
    options.logX = mode === "log step";
    options.logY = this.yAxis.checked;
    options.xlabel = mode === "time" ? "milliseconds of computing here" : "step";
    let lowest = Infinity;
    // A logarithm needs something positive: the height above the known minimum, or above the lowest point met.
    if (options.logY) {
      for (const m of this.place.minima) lowest = Math.min(lowest, this.functions.loss(m));
      if (!this.place.minima.length) for (const path of this.engine.paths) for (let row = 0; row < path.count; row++) if (path.loss(row) < lowest) lowest = path.loss(row);
    }
    const floor = Number.isFinite(lowest) && lowest < -1e-9 ? lowest : 0;
    options.ylabel = floor ? `loss − (${short(floor)})` : "loss";
    this.loss.series = this.engine.paths.map((path, k): Series => {
      const n = path.count;
      const x = new Float64Array(n);
      const y = new Float64Array(n);
      for (let row = 0; row < n; row++) {
        const t = path.stepOf(row);
        x[row] = mode === "time" ? (t / Math.max(1, path.t)) * path.spent : mode === "log step" ? t + 1 : t;
        y[row] = path.loss(row) - floor;
      }
      const style = look(k);
      return { name: label(this.scene.methods, k), colour: style.colour, dash: style.dash, x, y };
    });
    for (const one of mode === "time" ? [] : this.stored) {
      this.loss.series.push({ name: one.name, colour: colour("--ink"), dash: [1, 3], width: 1.4, x: mode === "step" ? one.steps : one.steps.map((t) => t + 1), y: one.loss.map((v) => v - floor) });
    }
  }

  private paint(): void {
    const { scene, place, engine } = this;
    if (!this.panel || engine.paths.length === 0) return;
    this.scrub.max = String(scene.steps);
    this.scrub.value = String(scene.at);
    this.scrub.setAttribute("aria-valuetext", `step ${scene.at} of ${scene.steps}`);
    if (document.activeElement !== this.exact) this.exact.value = String(scene.at);
    this.table();
    if (scene.tab === "player") {
      const flat = place.variables.length === 1;
      this.surface.root.closest(".view")!.classList.toggle("hidden", flat); // before the map is drawn: it takes the room
      const unstable = this.unstable.checked ? this.panel.theories : null;
      this.map.show({ scene, place, functions: this.functions, paths: engine.paths, stored: this.stored, unstable });
      if (!flat && this.map.field) this.surface.show({ field: this.map.field, scene, paths: engine.paths, functions: this.functions });
      const mode = this.xAxis.value;
      const path = engine.paths[scene.method]!;
      this.loss.cursor = mode === "time" ? (scene.at / Math.max(1, path.t)) * path.spent : mode === "log step" ? scene.at + 1 : scene.at;
      this.loss.draw();
    } else this.maps.draw();
    if (this.begun) this.panel.show(scene, place, this.functions, engine.paths, this.logSteps.checked);
    else this.draw(); // the first picture is the map; what the step is made of comes with the next frame
    this.begun = true;
    const root = document.documentElement.dataset;
    root.ready = "true"; // with the first picture
    root.done = String(engine.done);
    root.latency = engine.latency.toFixed(3);
    root.step = String(scene.at);
    if (!this.playing) {
      const best = engine.paths.map((one, k) => ({ k, loss: this.lossAt(one) })).sort((a, b) => a.loss - b.loss)[0]!;
      const words = `Step ${scene.at}: lowest loss ${short(best.loss)} by ${label(scene.methods, best.k)}`;
      this.map.canvas.setAttribute("aria-description", words);
    }
  }

  private lossAt(path: Engine["paths"][number]): number {
    return path.look(this.scene.at)[path.place("loss")]!;
  }

  private table(): void {
    const { scene, place, engine } = this;
    const shown = place.variables.slice(0, 3);
    const th = (words: string) => el("th", { scope: "col" }, words);
    this.head.replaceChildren(th(`step ${scene.at}`), th("loss"), ...shown.map(th));
    this.rows.replaceChildren(
      ...engine.paths.map((path, k) => {
        const out = path.look(scene.at);
        const cell = (name: string) => {
          const v = out[path.place(name)]!;
          return el("td", { "data-name": name, "data-value": String(v) }, short(v));
        };
        const swatch = el("span", { class: "swatch", "aria-hidden": "true" });
        swatch.style.background = look(k).colour;
        return el("tr", { "data-method": k }, el("th", { scope: "row" }, swatch, label(scene.methods, k)), cell("loss"), ...shown.map((_, i) => cell(`theta.${i}`)));
      }),
    );
  }

  /** What tests and benchmarks ask. */
  probe() {
    return {
      scene: () => structuredClone(this.scene),
      latency: () => this.engine.latency,
      /** whether everything that was begun is on the page; a path that takes longer may go on */
      settled: () => !busy(),
      done: () => !busy() && this.engine.done,
      stored: () => this.stored.map((one) => ({ name: one.name, rows: one.steps.length, last: one.theta.map((x) => x.at(-1)) })),
      maps: () => this.maps.times,
      python: () => python(this.scene, this.catalogue, this.place),
      /** the saved page of any scene */
      standalone: async (wish: { landscape: string }) => {
        const place = await landscapeInfo(wish.landscape, this.catalogue);
        return standalone(accept(wish, this.catalogue, place), place, this.catalogue);
      },
      final: () => this.engine.paths.map((path) => ({ rule: title(path.method.rule), rows: Array.from(path.rows.subarray((path.count - 1) * path.width, path.count * path.width)) })),
      chartTime: (series: number, points: number) => {
        const chart = new Chart({ label: "", xlabel: "", ylabel: "" });
        chart.root.className = "chart-box";
        byId("app").append(chart.root);
        const x = Float64Array.from({ length: points }, (_, k) => k);
        chart.series = Array.from({ length: series }, (_, s) => ({ name: "", colour: colour("--c0"), x, y: x.map((k) => Math.sin(k / 500 + s) + Math.sin(k * 12.9898 + s)) }));
        const times = Array.from({ length: 9 }, () => {
          const begun = performance.now();
          chart.draw();
          chart.canvas.getContext("2d")!.getImageData(0, 0, 1, 1); // waits for the painting
          return performance.now() - begun;
        }).sort((a, b) => a - b);
        chart.root.remove();
        return times[4]!;
      },
    };
  }
}

declare global {
  interface Window {
    stepscope: ReturnType<Playground["probe"]>;
  }
}

const playground = new Playground();
window.stepscope = playground.probe();
waiting(playground.begin()).catch((error: unknown) => {
  byId("app").append(el("p", { class: "error", role: "alert" }, `The page could not start: ${error instanceof Error ? error.message : String(error)}`));
});
