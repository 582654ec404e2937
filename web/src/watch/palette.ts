// A perceptual scale from dark blue over grey to yellow (cividis), which people of any colour vision read in order.

const STOPS: readonly [number, number, number][] = [
  [0, 34, 78],
  [24, 52, 111],
  [64, 77, 107],
  [89, 100, 109],
  [114, 123, 116],
  [141, 147, 118],
  [170, 172, 112],
  [202, 198, 98],
  [235, 225, 80],
  [253, 234, 69],
];

/** Red, green and blue of a place in [0, 1]. */
export function shade(place: number): [number, number, number] {
  const at = Math.min(1, Math.max(0, place)) * (STOPS.length - 1);
  const i = Math.min(STOPS.length - 2, Math.floor(at));
  const a = STOPS[i] as [number, number, number];
  const b = STOPS[i + 1] as [number, number, number];
  const t = at - i;
  return [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t];
}

export const css = (place: number): string => `rgb(${shade(place).map(Math.round).join(" ")})`;
