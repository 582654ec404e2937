// Lines with many points in each pixel column, painted column by column into pixels: stroking the thousands of spikes
// as a path takes a browser a hundred times as long. A column is filled from the least to the greatest value in it.

import { rgb } from "./dom";

export interface DenseLine {
  /** rising */
  x: ArrayLike<number>;
  y: ArrayLike<number>;
  colour: string;
  alpha: number;
}

/** Where values lie, in CSS pixels; `back` finds the x of a place. `y` is NaN for what is not shown. */
export interface Places {
  x: (value: number) => number;
  back: (place: number) => number;
  y: (value: number) => number;
}

/** Whether a line over so many CSS pixels is better painted by columns. */
export const isDense = (points: number, pixels: number): boolean => points > 6 * pixels;

/** Paints into the box (CSS pixels) of a canvas whose context is scaled by `scale`. */
export function paintDense(
  context: CanvasRenderingContext2D,
  box: { left: number; top: number; width: number; height: number },
  scale: number,
  lines: DenseLine[],
  places: Places,
): void {
  const width = Math.floor(box.width * scale);
  const height = Math.floor(box.height * scale);
  if (!lines.length || width < 1 || height < 1) return;
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const half = 0.75 * scale;
  for (const { x, y, colour, alpha } of lines) {
    const [r, g, b] = rgb(colour);
    const ink = ((Math.round(255 * alpha) << 24) | (b << 16) | (g << 8) | r) >>> 0; // little-endian, as everywhere
    const row = (value: number) => (places.y(value) - box.top) * scale;
    let before = Number.NaN; // the row of the last value so far, and its column
    let was = Number.NaN;
    const fill = (column: number, from: number, to: number) => {
      if (column < 0 || column >= width) return;
      const first = Math.max(0, Math.round(from - half));
      const stop = Math.min(height, Math.max(first + 1, Math.round(to + half)));
      for (let k = first * width + column; k < stop * width; k += width) pixels[k] = ink;
    };
    for (let i = 0; i < x.length; ) {
      const column = Math.floor((places.x(x[i]!) - box.left) * scale);
      const end = places.back(box.left + (column + 1) / scale);
      const next = row(y[i]!);
      // A logarithmic axis has columns without a point at its beginning: the line goes straight through them.
      if (column > was + 1 && Number.isFinite(before) && Number.isFinite(next)) {
        const at = (k: number) => before + ((next - before) * (k - was)) / (column - was);
        for (let k = Math.max(0, was + 1); k < Math.min(width, column); k++) fill(k, Math.min(at(k), at(k + 1)), Math.max(at(k), at(k + 1)));
        before = next;
      }
      let least = Infinity;
      let most = -Infinity;
      let last = Number.NaN;
      do {
        const value = y[i]!;
        if (value < least) least = value;
        if (value > most) most = value;
        last = value;
        i++;
      } while (i < x.length && x[i]! < end);
      if (!(most >= least)) {
        before = Number.NaN;
        continue;
      }
      const [a, c] = [row(most), row(least)]; // rows count from the top
      let from = Number.isNaN(a) ? 0 : a;
      let to = Number.isNaN(c) ? height : c;
      if (before < from) from = before;
      if (before > to) to = before;
      before = row(last);
      was = column;
      fill(column, from, to);
    }
  }
  const layer = document.createElement("canvas");
  layer.width = width;
  layer.height = height;
  layer.getContext("2d")!.putImageData(image, 0, 0);
  context.drawImage(layer, box.left, box.top, width / scale, height / scale);
}
