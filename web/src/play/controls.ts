// The controls: preset, landscape or formula, start, noise, steps, and the methods with their numbers.

import { Refused } from "../shared/api";
import { afterPause } from "../shared/busy";
import { el } from "../shared/dom";
import { decayScale, linearScale, logScale, type NumberField, numberField, scaleOf } from "./fields";
import { look } from "./look";
import { PRESETS } from "./presets";
import { type Catalogue, type HyperInfo, label, type LandscapeInfo, methodOf, MOST_METHODS, MOST_STEPS, NOISES, type Scene, title } from "./scene";

export interface ControlsHost {
  scene: Scene;
  place: LandscapeInfo;
  catalogue: Catalogue;
  /** the scene's numbers have changed */
  changed(): void;
  /** another landscape, by name or formula; throws Refused */
  landscape(text: string): Promise<void>;
  preset(id: string): Promise<void>;
  say(words: string): void;
}

const NOISE_WORDS = { none: "none", additive: "additive: g + σz", relative: "relative: g(1 + σz)", shift: "shifted data: g at θ − σz" };
const OWN = "own formula…";

function problemOf(info: HyperInfo): (v: number) => string {
  return (v) => {
    const end = info.high === null ? "∞)" : `${info.high}${info.open_end ? ")" : "]"}`;
    const low = Number.isFinite(info.low) && info.low > -1e300 ? String(info.low) : "−∞";
    const fine = v >= info.low && (info.high === null || (info.open_end ? v < info.high : v <= info.high));
    return fine ? "" : `${info.name} must lie in [${low}, ${end}`;
  };
}

export class Controls {
  readonly root = el("div", { class: "controls" });
  private readonly syncs: (() => void)[] = [];
  private formula = "";

  constructor(private readonly host: ControlsHost) {
    this.build();
  }

  /** Make every control again: another landscape, other methods. Keeps the focus where it was. */
  build(): void {
    const before = document.activeElement as HTMLInputElement | null;
    const focused = before?.id;
    const typed = focused === "formula" ? { text: before!.value, from: before!.selectionStart, to: before!.selectionEnd } : null;
    this.syncs.length = 0;
    this.root.replaceChildren(this.presets(), this.landscape(), this.startAndNoise(), this.methods());
    if (focused) document.getElementById(focused)?.focus();
    if (typed) {
      const field = this.root.querySelector<HTMLInputElement>("#formula")!;
      const goneOn = field.value !== typed.text;
      field.value = typed.text;
      field.setSelectionRange(typed.from, typed.to);
      if (goneOn) field.dispatchEvent(new Event("input"));
    }
  }

  /** Show the scene's numbers in the controls that are there. */
  sync(): void {
    for (const f of this.syncs) f();
  }

  private group(legend: string, ...children: (Node | string | null)[]): HTMLElement {
    return el("fieldset", { class: "panel" }, el("legend", {}, legend), ...children);
  }

  private presets(): HTMLElement {
    const { scene } = this.host;
    const now = PRESETS.find((one) => one.id === scene.preset);
    const choice = el(
      "select",
      { id: "preset", "aria-label": "Preset scene", onchange: () => void this.host.preset(choice.value) },
      el("option", { value: "" }, "your own scene"),
      ...PRESETS.map((one) => el("option", { value: one.id }, one.title)),
    );
    choice.value = now?.id ?? "";
    const about = el("p", { class: "about", id: "preset-text" }, now?.text ?? "Change anything: the address of this page always holds the whole scene.");
    return this.group("Scene", choice, about, now ? el("p", { class: "soft source", id: "preset-source" }, now.source) : null);
  }

  private landscape(): HTMLElement {
    const { scene, place, catalogue, host } = { ...this.host, scene: this.host.scene, place: this.host.place, catalogue: this.host.catalogue, host: this.host };
    const named = catalogue.landscapes.some((one) => one.name === scene.landscape);
    const choice = el(
      "select",
      { id: "landscape", "aria-label": "Landscape" },
      ...catalogue.landscapes.map((one) => el("option", { value: one.name }, one.name.replaceAll("_", " "))),
      el("option", { value: OWN }, OWN),
    );
    choice.value = named ? scene.landscape : OWN;
    const typed = el("input", {
      type: "text", id: "formula", "aria-label": "Formula of the loss", "aria-describedby": "formula-problem formula-hint", spellcheck: "false", autocomplete: "off",
      maxlength: 500, class: "formula", value: named ? this.formula || "x^2 + 0.1 y^2 + 0.3 sin(5x)" : scene.landscape,
    });
    const problem = el("pre", { id: "formula-problem", class: "error formula-problem", role: "status" });
    const own = el("div", { class: named ? "own hidden" : "own" }, typed, problem, el("p", { id: "formula-hint", class: "soft" }, "in x and y, or x1 to x9: + − * / ^ |x| sqrt exp log sin cos tan tanh erf min max"));
    const submit = async () => {
      const text = typed.value;
      try {
        await host.landscape(text);
        problem.textContent = "";
        typed.setAttribute("aria-invalid", "false");
        this.formula = text;
      } catch (error) {
        if (text !== typed.value) return; // typing has gone on
        const at = error instanceof Refused ? error.position : null;
        const words = error instanceof Error ? error.message : String(error);
        const from = at === null ? 0 : Math.max(0, at - 24);
        problem.textContent = at === null ? words : `${from ? "…" : ""}${text.slice(from, from + 34)}\n${" ".repeat(at - from + (from ? 1 : 0))}^ ${words}`;
        typed.setAttribute("aria-invalid", "true");
      }
    };
    typed.addEventListener("input", afterPause(180, submit));
    choice.addEventListener("change", () => {
      own.classList.toggle("hidden", choice.value !== OWN);
      if (choice.value === OWN) {
        void submit();
        typed.focus();
      } else {
        host.landscape(choice.value).catch((error: unknown) => {
          host.say(error instanceof Error ? error.message : String(error));
          choice.value = named ? scene.landscape : OWN;
        });
      }
    });
    const params = Object.entries(place.params).map(([name, first]) => {
      const scale = name === "angle" ? linearScale(-Math.PI / 2, Math.PI / 2) : first > 0 ? logScale(first / 1000, first * 1000) : linearScale(-2, 2);
      const field = numberField(name, scene.params[name] ?? first, scale, (v) => {
        host.scene.params[name] = v;
        host.changed();
      });
      this.syncs.push(() => field.set(host.scene.params[name] ?? first));
      return field.root;
    });
    const planes =
      place.variables.length > 2
        ? [0, 1].map((k) => {
            const axis = el("select", { "aria-label": k ? "Coordinate up" : "Coordinate across" }, ...place.variables.map((v, i) => el("option", { value: i }, v)));
            axis.value = String(scene.plane[k]);
            axis.addEventListener("change", () => {
              const other = host.scene.plane[1 - k]!;
              const here = Number(axis.value);
              if (here === other) host.scene.plane = [host.scene.plane[1], host.scene.plane[0]];
              else host.scene.plane[k] = here;
              host.scene.view = host.scene.plane.map((i) => [...place.view[i]!]);
              host.changed();
              this.build();
            });
            return axis;
          })
        : [];
    return this.group("Landscape", choice, own, el("p", { class: "soft source" }, place.source), ...params, planes.length ? el("div", { class: "row" }, "shown:", ...planes) : null);
  }

  private startAndNoise(): HTMLElement {
    const { host } = this;
    const { scene, place } = host;
    const add = (field: NumberField, read: () => number) => {
      this.syncs.push(() => field.set(read()));
      return field.root;
    };
    const starts = place.variables.map((name, i) => {
      const field = numberField(`start ${name}`, scene.start[i]!, null, (v) => {
        host.scene.start = host.scene.start.map((x, k) => (k === i ? v : x));
        host.changed();
      }, (v) => (Math.abs(v) <= 1e6 ? "" : "at most a million"), { id: `start-${name}` });
      return add(field, () => host.scene.start[i]!);
    });
    const steps = numberField("steps", scene.steps, logScale(10, MOST_STEPS), (v) => {
      const end = host.scene.at === host.scene.steps;
      host.scene.steps = Math.round(v);
      host.scene.at = end ? host.scene.steps : Math.min(host.scene.at, host.scene.steps);
      host.changed();
    }, (v) => (v >= 1 && v <= MOST_STEPS ? "" : "from 1 to a million"), { id: "steps" });
    const noise = el("select", { id: "noise", "aria-label": "Gradient noise" }, ...NOISES.map((one) => el("option", { value: one }, NOISE_WORDS[one])));
    noise.value = scene.noise;
    const noisy = el("div", { class: scene.noise === "none" ? "hidden" : "" });
    noise.addEventListener("change", () => {
      host.scene.noise = noise.value as Scene["noise"];
      noisy.classList.toggle("hidden", host.scene.noise === "none");
      host.changed();
    });
    const sigma = numberField("σ", scene.sigma, logScale(1e-4, 100, true), (v) => {
      host.scene.sigma = v;
      host.changed();
    }, (v) => (v >= 0 && v <= 1e6 ? "" : "0 or more"), { id: "sigma" });
    const seed = numberField("seed", scene.seed, null, (v) => {
      host.scene.seed = Math.round(v);
      host.changed();
    }, (v) => (Number.isInteger(v) && v >= 0 && v < 2 ** 31 ? "" : "a whole number from 0"), { id: "seed" });
    const next = el("button", {
      type: "button", id: "next-seed",
      onclick: () => {
        host.scene.seed = (host.scene.seed + 1) % 2 ** 31;
        host.changed();
        seed.set(host.scene.seed);
      },
    }, "another");
    noisy.append(add(sigma, () => host.scene.sigma), el("div", { class: "row" }, add(seed, () => host.scene.seed), next));
    this.syncs.push(() => {
      noise.value = host.scene.noise;
      noisy.classList.toggle("hidden", host.scene.noise === "none");
    });
    return this.group("Start, steps, noise", el("div", { class: "row" }, ...starts), add(steps, () => host.scene.steps), el("label", { class: "field pick" }, el("span", {}, "noise"), noise), noisy);
  }

  private methods(): HTMLElement {
    const { host } = this;
    const { scene, catalogue } = host;
    const shared = el("input", { type: "checkbox", id: "shared", checked: scene.shared });
    shared.addEventListener("change", () => {
      host.scene.shared = shared.checked;
      if (shared.checked) this.rate(host.scene.methods[0]!.hyper.lr ?? 1e-3);
      host.changed();
      this.build();
    });
    const one = scene.methods[0]!;
    const rate = scene.shared ? numberField("learning rate", one.hyper.lr ?? 1e-3, logScale(1e-6, 10), (v) => {
      this.rate(v);
      host.changed();
      this.sync();
    }, (v) => (v >= 0 ? "" : "0 or more"), { id: "lr" }) : null;
    if (rate) this.syncs.push(() => rate.set(host.scene.methods[0]!.hyper.lr ?? 1e-3));
    const cards = scene.methods.map((_, index) => this.card(index));
    const more = el("select", { id: "add-method", "aria-label": "Add a method" }, el("option", { value: "" }, "add a method…"), ...catalogue.rules.map((rule) => el("option", { value: rule.name }, title(rule.name))));
    more.disabled = scene.methods.length >= MOST_METHODS;
    more.addEventListener("change", () => {
      const rule = catalogue.rules.find((r) => r.name === more.value);
      if (!rule) return;
      host.scene.methods.push(methodOf(rule, host.scene.shared ? { lr: one.hyper.lr } : {}));
      host.scene.method = host.scene.methods.length - 1; // shown from inside, and its card open
      host.changed();
      this.build();
    });
    return this.group("Methods", el("label", { class: "check" }, shared, " one learning rate for all"), rate?.root ?? null, ...cards, more);
  }

  private rate(value: number): void {
    for (const one of this.host.scene.methods) if ("lr" in one.hyper) one.hyper.lr = value;
  }

  private card(index: number): HTMLElement {
    const { host } = this;
    const method = host.scene.methods[index]!;
    const rule = host.catalogue.rules.find((r) => r.name === method.rule)!;
    const name = el("span", { class: "method-name" });
    const swatch = el("span", { class: `swatch s${index % 8}`, "aria-hidden": "true" });
    const retitle = () => {
      name.textContent = label(host.scene.methods, index);
      swatch.style.background = look(index).colour;
    };
    retitle();
    this.syncs.push(retitle);
    const fields = rule.hyper
      .filter((info) => !(info.name === "lr" && host.scene.shared))
      .map((info) => {
        const field = numberField(info.name, method.hyper[info.name]!, info.name.startsWith("beta") ? decayScale : scaleOf(info), (v) => {
          host.scene.methods[index]!.hyper[info.name] = v;
          host.changed();
          this.syncs.forEach((f) => f === retitle && f());
        }, problemOf(info), { "data-hyper": `${index}.${info.name}` });
        this.syncs.push(() => {
          const now = host.scene.methods[index];
          if (now) field.set(now.hyper[info.name]!);
        });
        return field.root;
      });
    const remove = el("button", {
      type: "button", class: "remove", "aria-label": `Remove ${title(method.rule)}`, disabled: host.scene.methods.length < 2,
      onclick: () => {
        host.scene.methods.splice(index, 1);
        host.scene.method = Math.min(host.scene.method, host.scene.methods.length - 1);
        host.changed();
        this.build();
      },
    }, "×");
    const again = el("button", {
      type: "button", class: "remove again", "aria-label": `Add another ${title(method.rule)}`, disabled: host.scene.methods.length >= MOST_METHODS,
      onclick: () => {
        host.scene.methods.splice(index + 1, 0, { rule: method.rule, hyper: { ...host.scene.methods[index]!.hyper } });
        host.scene.method = index + 1;
        host.changed();
        this.build();
      },
    }, "+");
    const open = el("details", { class: "method", open: index === host.scene.method || host.scene.methods.length < 3 }, el("summary", {}, swatch, name), ...fields, el("p", { class: "soft source" }, rule.source));
    return el("div", { class: "card" }, open, again, remove);
  }
}
