// The landscape on a grid: log loss as a height in [0, 1], its contours, and the colours of heights.

import { dark } from "../shared/theme";

export interface Field {
  n: number;
  /** low and high of both axes */
  box: number[][];
  /** loss, row by row from the lowest y */
  loss: Float64Array;
  /** log10(loss - lowest + floor) scaled to [0, 1]; nan where the loss is not a number */
  height: Float32Array;
  lowest: number;
  /** height of a loss */
  level: (loss: number) => number;
}

const DECADES = 7; // shown below the highest loss

/** The losses at n x n points of a box; `known`: the loss of known minima. */
export function field(loss: (x: number, y: number) => number, box: number[][], n: number, known: number[]): Field {
  const values = new Float64Array(n * n);
  const [[x0, x1], [y0, y1]] = box as [[number, number], [number, number]];
  let lowest = Math.min(Infinity, ...known.filter(Number.isFinite));
  const finite: number[] = [];
  for (let j = 0; j < n; j++) {
    const y = y0 + ((y1 - y0) * j) / (n - 1);
    for (let i = 0; i < n; i++) {
      const v = loss(x0 + ((x1 - x0) * i) / (n - 1), y);
      values[j * n + i] = v;
      if (Number.isFinite(v)) {
        if (v < lowest) lowest = v;
        if ((i + j) % 3 === 0) finite.push(v);
      }
    }
  }
  if (!Number.isFinite(lowest)) lowest = 0;
  finite.sort((a, b) => a - b);
  const highest = finite[finite.length - 1] ?? lowest + 1;
  const span = highest - lowest || 1;
  // From a hundredth part of the grid's lowest rises on: what lies below is one colour.
  const near = Math.max((finite[Math.floor(finite.length * 0.004)] ?? lowest) - lowest, span * 10 ** -DECADES, Number.MIN_VALUE);
  const low = Math.log10(near);
  const high = Math.log10(span + near);
  const level = (v: number) => Math.min(1, Math.max(0, (Math.log10(Math.max(v - lowest, 0) + near) - low) / (high - low || 1)));
  const height = new Float32Array(n * n);
  for (let k = 0; k < height.length; k++) height[k] = Number.isFinite(values[k]!) ? level(values[k]!) : Number.NaN;
  return { n, box, loss: values, height, lowest, level };
}

// Quiet scales, so that paths stand out: light paper to slate, and the other way round at night.
const LIGHT: [number, number, number][] = [[88, 112, 140], [150, 172, 190], [198, 210, 217], [229, 233, 233], [250, 249, 246]];
const DARK: [number, number, number][] = [[12, 16, 24], [25, 36, 52], [39, 55, 76], [58, 77, 98], [86, 104, 122]];

/** The colours of all heights, row by row as in `heights`: red, green and blue in [0, 255], `stride` numbers apart. */
export function shade(heights: Float32Array, stride: number): Uint8ClampedArray<ArrayBuffer> {
  const scale = dark() ? DARK : LIGHT;
  const none = dark() ? [60, 30, 50] : [240, 215, 226];
  const out = new Uint8ClampedArray(stride * heights.length).fill(255);
  for (let k = 0; k < heights.length; k++) {
    const h = heights[k]!;
    const at = Math.min(0.99999, Math.max(0, h)) * (scale.length - 1);
    const i = Math.floor(at);
    const [a, b] = h === h ? [scale[i]!, scale[i + 1]!] : [none, none];
    for (let c = 0; c < 3; c++) out[stride * k + c] = h === h ? a[c]! + (at - i) * (b[c]! - a[c]!) : none[c]!;
  }
  return out;
}

/** Segments [x0, y0, x1, y1, ...] in the box's own numbers where the height crosses a level, by level: marching squares. */
export function contours(f: Field, levels: number[]): Float64Array[] {
  const { n, height } = f;
  const [[x0, x1], [y0, y1]] = f.box as [[number, number], [number, number]];
  const out: number[][] = levels.map(() => []);
  const dx = (x1 - x0) / (n - 1);
  const dy = (y1 - y0) / (n - 1);
  for (let j = 0; j < n - 1; j++) {
    for (let i = 0; i < n - 1; i++) {
      const k = j * n + i;
      const A = height[k]!;
      const B = height[k + 1]!;
      const C = height[k + n + 1]!;
      const D = height[k + n]!;
      const low = Math.min(A, B, C, D);
      const high = Math.max(A, B, C, D); // both nan where one of them is: no level lies between
      const x = x0 + i * dx;
      const y = y0 + j * dy;
      for (let l = 0; l < levels.length; l++) {
        const at = levels[l]!;
        if (!(low <= at && at < high)) continue;
        const [a, b, c, d] = [A - at, B - at, C - at, D - at];
        const kind = (a > 0 ? 1 : 0) | (b > 0 ? 2 : 0) | (c > 0 ? 4 : 0) | (d > 0 ? 8 : 0);
        const bottom = [x + (a / (a - b)) * dx, y] as const;
        const right = [x + dx, y + (b / (b - c)) * dy] as const;
        const top = [x + (d / (d - c)) * dx, y + dy] as const;
        const left = [x, y + (a / (a - d)) * dy] as const;
        const to = out[l]!;
        if (kind === 1 || kind === 14) to.push(...left, ...bottom);
        else if (kind === 2 || kind === 13) to.push(...bottom, ...right);
        else if (kind === 4 || kind === 11) to.push(...right, ...top);
        else if (kind === 8 || kind === 7) to.push(...top, ...left);
        else if (kind === 3 || kind === 12) to.push(...left, ...right);
        else if (kind === 6 || kind === 9) to.push(...bottom, ...top);
        else if ((a + b + c + d > 0) === (kind === 5)) to.push(...left, ...top, ...bottom, ...right);
        else to.push(...left, ...bottom, ...right, ...top);
      }
    }
  }
  return out.map((one) => Float64Array.from(one));
}
