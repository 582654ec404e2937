// Everything a shared link holds. What comes from an address is checked like any input from outside.

export interface Method {
  rule: string;
  hyper: Record<string, number>;
}

export interface Axis {
  name: string;
  low: number;
  high: number;
  log: boolean;
}

export type Noise = "none" | "additive" | "relative" | "shift";
export type Quantity = "loss" | "min_loss" | "first_inside" | "diverged_at" | "period" | "basin" | "winner";
export const NOISES: Noise[] = ["none", "additive", "relative", "shift"];
export const QUANTITIES: Quantity[] = ["loss", "min_loss", "first_inside", "diverged_at", "period", "basin", "winner"];

export interface Scene {
  landscape: string;
  params: Record<string, number>;
  start: number[];
  steps: number;
  noise: Noise;
  sigma: number;
  seed: number;
  methods: Method[];
  /** whether one learning rate is set for all methods */
  shared: boolean;
  /** the step that is shown */
  at: number;
  /** which coordinate and method the inner state is shown of */
  coordinate: number;
  method: number;
  /** the box of the map: low and high of the two shown coordinates */
  view: number[][];
  /** the two shown coordinates, where there are more */
  plane: [number, number];
  preset: string;
  tab: "player" | "maps";
  map: { x: Axis; y: Axis; quantity: Quantity; size: number; steps: number };
}

export interface HyperInfo {
  name: string;
  default: number;
  low: number;
  high: number | null;
  open_end: boolean;
}

export interface RuleInfo {
  name: string;
  source: string;
  hyper: HyperInfo[];
  state: string[];
}

export interface LandscapeInfo {
  name: string;
  source: string;
  variables: string[];
  params: Record<string, number>;
  start: number[];
  minima: number[][];
  view: number[][];
}

export interface Catalogue {
  rules: RuleInfo[];
  landscapes: LandscapeInfo[];
}

export const MOST_STEPS = 1_000_000;
export const MOST_METHODS = 8;
export const VERSION = 1;

const NAMES: Record<string, string> = {
  sgd: "SGD", heavy_ball: "Momentum", nesterov: "Nesterov", adam: "Adam", adamw: "AdamW", rmsprop: "RMSProp", adagrad: "AdaGrad",
  adadelta: "Adadelta", msgd: "M-SGD", ssd: "SSD", mssd: "M-SSD", svag: "SVAG", msvag: "M-SVAG", adam_erf: "AdamErf",
  adam_erf_uncorrected: "AdamErf (uncorrected)", adam_one_beta: "Adam (one beta)",
};

/** What a rule is called in the page. */
export function title(rule: string): string {
  return NAMES[rule] ?? rule;
}

/** The method's name, with what tells it from others of the same rule. */
export function label(methods: Method[], index: number): string {
  const one = methods[index]!;
  const alike = methods.filter((other) => other.rule === one.rule);
  if (alike.length < 2) return title(one.rule);
  const differing = Object.keys(one.hyper).filter((name) => alike.some((other) => other.hyper[name] !== one.hyper[name]));
  const said = differing.slice(0, 2).map((name) => `${name} ${short(one.hyper[name]!)}`);
  return `${title(one.rule)} ${said.join(", ") || `#${alike.indexOf(one) + 1}`}`;
}

/** A number in few digits. */
export function short(value: number, digits = 4): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(Math.max(0, digits - 2)) : String(Number(value.toPrecision(digits)));
  return text.replace(/\.?0+e/, "e").replace("e+", "e").replaceAll("-", "−");
}

const finite = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);

function numbers(value: unknown, known: Record<string, number>): Record<string, number> {
  const out = { ...known };
  if (value && typeof value === "object") {
    for (const name of Object.keys(known)) {
      const one = (value as Record<string, unknown>)[name];
      if (finite(one)) out[name] = one;
    }
  }
  return out;
}

/** The number inside a hyper-parameter's range. */
export function inside(info: HyperInfo, value: number): number {
  let v = Math.max(info.low, value);
  if (info.high !== null) {
    if (info.open_end && v >= info.high) v = info.high - 1e-6 * Math.max(1, Math.abs(info.high));
    else v = Math.min(v, info.high);
  }
  return v;
}

/** The rule's method with the given numbers, as far as they are known and in range. */
export function methodOf(rule: RuleInfo, hyper: unknown = {}): Method {
  const kept = numbers(hyper, Object.fromEntries(rule.hyper.map((h) => [h.name, h.default])));
  for (const info of rule.hyper) kept[info.name] = inside(info, kept[info.name]!);
  return { rule: rule.name, hyper: kept };
}

function axis(value: unknown, fallback: Axis): Axis {
  const one = (value ?? {}) as Partial<Axis>;
  const name = typeof one.name === "string" && one.name.length <= 80 ? one.name : fallback.name;
  const ok = finite(one.low) && finite(one.high) && one.low < one.high && (!one.log || one.low > 0);
  return ok ? { name, low: one.low!, high: one.high!, log: Boolean(one.log) } : { ...fallback };
}

/** The axes a new map starts with: step size and the first coordinate of the start. */
export function firstMap(place: LandscapeInfo): Scene["map"] {
  const [low, high] = place.view[0]!;
  return {
    x: { name: `start.${place.variables[0]}`, low: low!, high: high!, log: false },
    y: { name: "lr", low: 1e-4, high: 1, log: true },
    quantity: "loss", size: 256, steps: 1000,
  };
}

/** A scene from anything: every part that is not as it should be is replaced by the landscape's or the page's own. */
export function accept(value: unknown, catalogue: Catalogue, place: LandscapeInfo): Scene {
  const given = (value ?? {}) as Record<string, unknown>;
  const d = place.variables.length;
  const count = (name: string, low: number, high: number, fallback: number): number => {
    const one = given[name];
    return finite(one) ? Math.min(high, Math.max(low, Math.round(one))) : fallback;
  };
  const list = Array.isArray(given.methods) ? (given.methods as unknown[]).slice(0, MOST_METHODS) : [];
  const methods = list.flatMap((one) => {
    const { rule, hyper } = (one ?? {}) as Partial<Method>;
    const info = catalogue.rules.find((r) => r.name === rule);
    return info ? [methodOf(info, hyper)] : [];
  });
  if (!methods.length) {
    const lr = { sgd: 0.05, heavy_ball: 0.05, rmsprop: 0.05, adam: 0.05 };
    for (const [name, rate] of Object.entries(lr)) {
      const info = catalogue.rules.find((r) => r.name === name);
      if (info) methods.push(methodOf(info, { lr: rate }));
    }
  }
  const point = given.start;
  const start = Array.isArray(point) && point.length === d && point.every(finite) ? (point as number[]) : [...place.start];
  const boxes = given.view;
  const good = (box: unknown) => Array.isArray(box) && box.length === 2 && box.every(finite) && (box[0] as number) < (box[1] as number);
  const view = Array.isArray(boxes) && boxes.length === Math.min(2, d) && boxes.every(good) ? (boxes as number[][]) : place.view.slice(0, 2);
  const steps = count("steps", 1, MOST_STEPS, 500);
  const map = (given.map ?? {}) as Partial<Scene["map"]>;
  const fallback = firstMap(place);
  const plane = Array.isArray(given.plane) ? (given.plane as number[]) : [0, 1];
  const [i, j] = plane;
  return {
    landscape: place.name,
    params: numbers(given.params, place.params),
    start: start.slice(),
    steps,
    noise: NOISES.includes(given.noise as Noise) ? (given.noise as Noise) : "none",
    sigma: finite(given.sigma) ? Math.min(1e6, Math.max(0, given.sigma)) : 0.1,
    seed: count("seed", 0, 2 ** 31 - 1, 0),
    methods,
    shared: Boolean(given.shared),
    at: count("at", 0, steps, steps),
    coordinate: count("coordinate", 0, d - 1, 0),
    method: count("method", 0, methods.length - 1, Math.max(0, methods.findIndex((one) => one.rule === "adam"))),
    view: view.map((box) => [...box]),
    plane: Number.isInteger(i) && Number.isInteger(j) && i !== j && i! >= 0 && j! >= 0 && i! < d && j! < d ? [i!, j!] : [0, Math.min(1, d - 1)],
    preset: typeof given.preset === "string" ? given.preset.slice(0, 40) : "",
    tab: given.tab === "maps" ? "maps" : "player",
    map: {
      x: axis(map.x, fallback.x), y: axis(map.y, fallback.y),
      quantity: QUANTITIES.includes(map.quantity as Quantity) ? map.quantity! : "loss",
      size: finite(map.size) ? Math.min(512, Math.max(8, Math.round(map.size))) : 256,
      steps: finite(map.steps) ? Math.min(MOST_STEPS, Math.max(1, Math.round(map.steps))) : 1000,
    },
  };
}
