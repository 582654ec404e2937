// Runs the programs: every method of the scene from the same start. Short paths are done at once; long ones go on in
// slices, all methods at the same pace, and are shown as they grow.

import { type Key, type PathProgram, pathProgram, readyPath, runtime } from "./programs";
import type { Method, Scene } from "./scene";

const MOST_ROWS = 20_000;
const FIRST_SLICE = 40; // ms
const SLICE = 25;
const REDRAW = 160; // ms between two pictures of a path that grows

/** The values of a step scalar, computed as far as somebody has come: those of a million steps would take a moment. */
class Table {
  private values = new Float64Array();
  private asked = 0;

  constructor(
    private readonly value: (t: number, ...settings: number[]) => number,
    private readonly settings: number[],
  ) {}

  /** Those of the samples up to `t` at least, and no fewer than where they stop to change. */
  upTo(t: number): Float64Array {
    const settled = this.values.length < this.asked;
    if (t > this.asked && !settled) {
      this.asked = Math.max(t, 4 * this.asked, 1024);
      this.values = runtime.table(this.value, this.settings, this.asked, this.values) as Float64Array<ArrayBuffer>;
    }
    return this.values;
  }
}

const tables = new Map<string, Table>();

function tableOf(program: PathProgram, index: number, rule: string, hyper: Record<string, number>): Table {
  const one = program.scalars[index]!;
  const settings = one.needs.map((name) => hyper[name]!);
  const key = `${rule} ${one.name} ${settings.join(" ")}`;
  const known = tables.get(key) ?? new Table(one.value, settings);
  if (tables.size > 400) tables.clear();
  tables.set(key, known);
  return known;
}

/** One method's way: rows [carried..., loss] at each `every`-th step and at the last one. */
export class Path {
  readonly width: number;
  readonly every: number;
  readonly rows: Float64Array;
  readonly dims: number;
  t = 0;
  /** milliseconds of script so far */
  spent = 0;
  private readonly S: Float64Array;
  private readonly C: number[];
  private readonly tables: Table[];
  private T: Float64Array[] = [];
  private readonly out: Float64Array;
  private readonly scratch: Float64Array;
  private readonly places: Map<string, number>;

  constructor(
    readonly program: PathProgram,
    readonly method: Method,
    readonly steps: number,
    start: number[],
    constants: Record<string, number>,
    private readonly key: Key,
  ) {
    this.width = program.carried.length + 1;
    this.dims = start.length;
    this.every = Math.max(1, Math.ceil(steps / MOST_ROWS));
    this.rows = new Float64Array((Math.ceil(steps / this.every) + 1) * this.width);
    this.S = new Float64Array(program.carried.length);
    start.forEach((x, i) => (this.S[i] = x));
    this.C = program.constants.map((name) => constants[name] ?? method.hyper[name.slice(6)]!);
    this.tables = program.scalars.map((_, i) => tableOf(program, i, method.rule, method.hyper));
    this.out = new Float64Array(program.columns.length);
    this.scratch = new Float64Array(program.carried.length);
    this.places = new Map(program.columns.map((name, i) => [name, i]));
    this.run(0);
  }

  /** Go on to step `end`. */
  run(end: number): void {
    const begun = performance.now();
    this.T = this.tables.map((one) => one.upTo(end + 1)); // the point after t steps looks ahead at sample t + 1
    this.program.advance(this.S, this.t, end, this.every, this.steps, this.C, this.T, this.key, this.rows);
    this.t = end;
    this.spent += performance.now() - begun;
  }

  get done(): boolean {
    return this.t >= this.steps;
  }

  /** Rows that are there so far. */
  get count(): number {
    return this.done ? Math.ceil(this.steps / this.every) + 1 : Math.floor(this.t / this.every) + 1;
  }

  /** The step of a row. */
  stepOf(row: number): number {
    return Math.min(row * this.every, this.steps);
  }

  loss(row: number): number {
    return this.rows[(row + 1) * this.width - 1]!;
  }

  theta(row: number, i: number): number {
    return this.rows[row * this.width + i]!;
  }

  /**
   * All columns of the step taken from the point after t steps; valid until the next call.
   * ones: a state that is taken for 1 in every coordinate, whatever it is.
   */
  look(t: number, ones?: string): Float64Array {
    const at = Math.min(t, this.t);
    const row = Math.min(Math.floor(at / this.every), this.count - 1);
    const first = row * this.width;
    this.scratch.set(this.rows.subarray(first, first + this.width - 1));
    const from = this.stepOf(row);
    if (at > from) this.program.advance(this.scratch, from, at, 2 ** 40, -1, this.C, this.T, this.key, this.out);
    if (ones) this.program.carried.forEach((name, i) => name.startsWith(`state.${ones}.`) && (this.scratch[i] = 1));
    this.program.look(this.scratch, 0, at, this.C, this.T, this.key, this.out);
    return this.out;
  }

  /** Where a column is in what `look` gives, or -1. */
  place(name: string): number {
    return this.places.get(name) ?? -1;
  }

  /** Some columns at every row that is there: out[k][row]. */
  columns(names: string[], most = 4000): { steps: Float64Array; values: Float64Array[] } {
    const count = this.count;
    const stride = Math.max(1, Math.ceil(count / most));
    const kept = Math.floor((count - 1) / stride) + 1;
    const steps = new Float64Array(kept);
    const values = names.map(() => new Float64Array(kept));
    const places = names.map((name) => this.place(name));
    for (let k = 0; k < kept; k++) {
      const row = k * stride;
      steps[k] = this.stepOf(row);
      this.program.look(this.rows, row * this.width, steps[k]!, this.C, this.T, this.key, this.out);
      for (const [c, place] of places.entries()) values[c]![k] = place < 0 ? Number.NaN : this.out[place]!;
    }
    return { steps, values };
  }

  /** A step scalar of the rule at sample t >= 1, or NaN. */
  scalar(name: string, t: number): number {
    const i = this.program.scalars.findIndex((one) => one.name === name);
    if (i < 0) return Number.NaN;
    const values = this.T[i]!;
    return values[Math.min(t, values.length) - 1]!;
  }
}

function constantsOf(scene: Scene, method: Method): Record<string, number> {
  const out: Record<string, number> = { sigma: scene.sigma };
  for (const [name, value] of Object.entries(scene.params)) out[`param.${name}`] = value;
  for (const [name, value] of Object.entries(method.hyper)) out[`hyper.${name}`] = value;
  return out;
}

/** All paths of a scene. `changed` is told whenever there is more to draw. */
export class Engine {
  paths: Path[] = [];
  /** milliseconds of script that the last call of `start` took before it returned */
  latency = 0;
  private generation = 0;
  private drawn = 0;
  private keys: string[] = [];

  constructor(private readonly changed: () => void) {}

  /** Whether every program the scene needs has been loaded. */
  prepared(scene: Scene): boolean {
    return scene.methods.every((one) => readyPath(one.rule, scene.landscape, scene.noise));
  }

  /** Load what the scene needs. */
  async prepare(scene: Scene): Promise<void> {
    await Promise.all(scene.methods.map((one) => pathProgram(one.rule, scene.landscape, scene.noise)));
  }

  /** Compute the scene's paths. What did not change since the last time is kept. Everything must be prepared. */
  start(scene: Scene): void {
    const begun = performance.now();
    const mine = ++this.generation;
    const shared = JSON.stringify([scene.landscape, scene.params, scene.start, scene.steps, scene.noise, scene.noise === "none" ? 0 : [scene.sigma, scene.seed]]);
    const old = new Map(this.keys.map((key, i) => [key, this.paths[i]!]));
    const key = runtime.noiseKey(scene.seed) as Key;
    this.keys = scene.methods.map((one) => shared + JSON.stringify(one));
    this.paths = scene.methods.map((one, i) => {
      const known = old.get(this.keys[i]!);
      if (known) return known;
      const program = readyPath(one.rule, scene.landscape, scene.noise)!;
      return new Path(program, { rule: one.rule, hyper: { ...one.hyper } }, scene.steps, scene.start, constantsOf(scene, one), key);
    });
    this.slice(FIRST_SLICE);
    this.latency = performance.now() - begun;
    this.changed();
    if (!this.done) this.continue(mine);
  }

  get done(): boolean {
    return this.paths.every((one) => one.done);
  }

  private slice(budget: number): void {
    const end = performance.now() + budget;
    for (;;) {
      let slowest: Path | undefined;
      for (const one of this.paths) if (!one.done && (!slowest || one.t < slowest.t)) slowest = one;
      if (!slowest) return;
      slowest.run(Math.min(slowest.steps, slowest.t + 2000));
      if (performance.now() > end) return;
    }
  }

  private continue(mine: number): void {
    setTimeout(() => {
      if (mine !== this.generation) return;
      this.slice(SLICE);
      const now = performance.now();
      if (this.done || now - this.drawn > REDRAW) {
        this.drawn = now;
        this.changed();
      }
      if (!this.done) this.continue(mine);
    }, 0);
  }
}
