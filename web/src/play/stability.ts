// How far a method's step is from the largest that is stable where it stands, with what divides the gradient held fixed:
// the greatest curvature, each coordinate scaled by its own step size, over the limit that theory/orbits.py states.

import { colour } from "../shared/dom";
import type { Path } from "./engine";
import type { Curves, LandscapeFunctions } from "./programs";
import type { Scene } from "./scene";

interface Kind {
  /** the column that the step is a multiple of; null: the rate is that multiple, always */
  source: "g" | "mean" | null;
  /** a state that the source follows and the step size does not depend on */
  ones?: string;
  limit: "buffer_limit" | "average_limit";
  /** the setting that the limit depends on; null: 0, no momentum */
  by: string | null;
}

// Rules that are linear in the gradient once their factor is held fixed. Sign methods have no such limit: they end in a
// cycle at any rate.
const plain = { source: "g", limit: "buffer_limit", by: null } as const;
const averaged = { source: "mean", limit: "average_limit", by: "beta1" } as const;
const KINDS: Record<string, Kind> = {
  sgd: { ...plain, source: null }, heavy_ball: { source: null, limit: "buffer_limit", by: "momentum" }, msgd: { source: null, limit: "average_limit", by: "beta" },
  rmsprop: plain, rmsprop_centered: plain, adagrad: plain, adadelta: plain,
  adam: { ...averaged, ones: "exp_avg" }, adam_amsgrad: { ...averaged, ones: "exp_avg" }, adabelief: averaged, adam_one_beta: { ...averaged, by: "beta" },
};

export const hasLimit = (rule: string): boolean => rule in KINDS;

/**
 * The step of each coordinate for a unit of what it follows, after t steps: the quotient of the two. NaN where the latter
 * is 0, or so small that it has lost its digits. Adam's average may be anything: it is asked with 1 in its place.
 */
export function rates(path: Path, t: number): number[] {
  const { source, ones } = KINDS[path.method.rule]!;
  const { hyper } = path.method;
  if (!source) return Array.from({ length: path.dims }, () => hyper.lr! * (1 - (hyper.dampening ?? 0)));
  const out = path.look(t, ones);
  return Array.from({ length: path.dims }, (_, i) => {
    const followed = Math.abs(out[path.place(`${source}.${i}`)]!);
    return followed > 1e-290 ? Math.abs(out[path.place(`update.${i}`)]!) / followed : Number.NaN;
  });
}

/** The largest eigenvalue of a symmetric matrix, row by row, by Jacobi's rotations; the matrix is overwritten. */
export function largest(a: Float64Array, n: number): number {
  for (let sweep = 0; sweep < 30; sweep++) {
    let off = 0;
    let on = 0;
    for (let p = 0; p < n; p++) for (let q = 0; q < n; q++) p === q ? (on += a[p * n + p]! ** 2) : (off += a[p * n + q]! ** 2);
    if (!(off > 1e-30 * on)) break;
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        const apq = a[p * n + q]!;
        if (apq === 0) continue;
        const tau = (a[q * n + q]! - a[p * n + p]!) / (2 * apq);
        const t = (tau >= 0 ? 1 : -1) / (Math.abs(tau) + Math.sqrt(1 + tau * tau));
        const c = 1 / Math.sqrt(1 + t * t);
        const s = t * c;
        for (let k = 0; k < n; k++) {
          const [x, y] = [a[k * n + p]!, a[k * n + q]!];
          a[k * n + p] = c * x - s * y;
          a[k * n + q] = s * x + c * y;
        }
        for (let k = 0; k < n; k++) {
          const [x, y] = [a[p * n + k]!, a[q * n + k]!];
          a[p * n + k] = c * x - s * y;
          a[q * n + k] = s * x + c * y;
        }
      }
    }
  }
  let most = -Infinity;
  for (let p = 0; p < n; p++) most = Math.max(most, a[p * n + p]!);
  return most;
}

/** The step at a point as a share of the largest stable one; above 1 it is unstable, at most 0 where nothing curves up. */
export function share(path: Path, step: number[], at: ArrayLike<number>, functions: LandscapeFunctions, curves: Curves): number {
  const n = path.dims;
  const h = new Float64Array(n * n);
  functions.curvature(at, h);
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) h[i * n + j]! *= Math.sqrt(step[i]! * step[j]!);
  if (!h.every(Number.isFinite)) return Number.NaN;
  const { limit, by } = KINDS[path.method.rule]!;
  return largest(h, n) / curves[limit](by ? path.method.hyper[by]! : 0);
}

/** The share at the point after t steps. */
export function shareAt(path: Path, t: number, functions: LandscapeFunctions, curves: Curves): number {
  const step = rates(path, t);
  const out = path.look(t);
  return share(path, step, Array.from({ length: path.dims }, (_, i) => out[path.place(`theta.${i}`)]!), functions, curves);
}

/** The shares along the path so far, at most `most` of them. */
export function shares(path: Path, functions: LandscapeFunctions, curves: Curves, most: number): { steps: Float64Array; values: Float64Array } {
  const stride = Math.max(1, Math.ceil(path.count / most));
  const steps = Float64Array.from({ length: Math.floor((path.count - 1) / stride) + 1 }, (_, k) => path.stepOf(k * stride));
  return { steps, values: steps.map((t) => shareAt(path, t, functions, curves)) };
}

const CELLS = 48;

/** Tints the part of the map where the step that the method takes now would be unstable. Returns the part's size. */
export function paintUnstable(
  c: CanvasRenderingContext2D, f: { X(x: number): number; Y(y: number): number }, scene: Scene, path: Path, functions: LandscapeFunctions, curves: Curves,
): number {
  const step = rates(path, scene.at);
  const [[x0, x1], [y0, y1]] = scene.view as [[number, number], [number, number]];
  const [i, j] = scene.plane;
  const at = Float64Array.from(scene.start);
  const [dx, dy] = [(x1 - x0) / CELLS, (y1 - y0) / CELLS];
  c.fillStyle = colour("--bad");
  c.globalAlpha = 0.22;
  let cells = 0;
  for (let row = 0; row < CELLS; row++) {
    for (let column = 0; column < CELLS; column++) {
      at[i] = x0 + (column + 0.5) * dx;
      at[j] = y0 + (row + 0.5) * dy;
      if (!(share(path, step, at, functions, curves) > 1)) continue;
      const [left, top] = [f.X(x0 + column * dx), f.Y(y0 + (row + 1) * dy)];
      c.fillRect(left, top, f.X(x0 + (column + 1) * dx) - left, f.Y(y0 + row * dy) - top);
      cells++;
    }
  }
  c.globalAlpha = 1;
  return cells / CELLS ** 2;
}
