// For benchmarks: how long a chart takes to redraw, painting included.

import { Chart } from "./chart";
import type { Series } from "./data";

/** Milliseconds of each of `times` redraws of `lines` noisy lines with `points` points each, most of them off any grid. */
export function redraws(lines: number, points: number, times: number): number[] {
  const chart = new Chart("trial");
  document.querySelector("main")?.append(chart.element);
  const series = (k: number): Series => {
    const step = Float64Array.from({ length: points }, (_, i) => i);
    const mean = Float64Array.from(step, (i) => Math.exp(Math.sin(i / 5000 + k) + 0.3 * Math.sin(i * (17.3 + k))));
    const none = new Float64Array(points);
    return { step, low: mean, mean, high: mean, end: mean, finite: none, broken: none };
  };
  chart.set({ lines: Array.from({ length: lines }, (_, k) => ({ name: `line ${k}`, look: k, series: series(k) })) });
  const canvas = chart.element.querySelector("canvas")!;
  const found = Array.from({ length: times }, () => {
    const begun = performance.now();
    chart.draw();
    canvas.getContext("2d")?.getImageData(0, 0, 1, 1); // waits for the painting
    return performance.now() - begun;
  });
  chart.element.remove();
  return found;
}
