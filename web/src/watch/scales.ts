// Linear and logarithmic axes: ranges that hold the data, ticks at round numbers, and places in pixels.

export interface Scale {
  low: number;
  high: number;
  log: boolean;
}

const TINY = 1e-300;

/** A range around all values that the axis can show, a little wider; [0, 1] (or [1, 10]) for none. */
export function around(values: Iterable<ArrayLike<number>>, log: boolean, margin = 0.05): Scale {
  let low = Infinity;
  let high = -Infinity;
  for (const array of values) {
    for (let i = 0; i < array.length; i++) {
      const value = array[i] as number;
      if (!(Math.abs(value) < Infinity) || (log && !(value > TINY))) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  if (low > high) return log ? { low: 1, high: 10, log } : { low: 0, high: 1, log };
  if (log) {
    const widen = Math.max((high / low) ** margin, 1.05);
    return { low: Math.max(low / widen, TINY), high: Math.min(high * widen, 1e300), log };
  }
  const widen = high > low ? (high - low) * margin : Math.abs(high) * 0.05 || 0.5;
  return { low: low - widen, high: high + widen, log };
}

/** Whether values call for a logarithmic axis: none is negative, and they range over more than a factor of 30. */
export function wantsLog(values: Iterable<ArrayLike<number>>): boolean {
  let low = Infinity;
  let high = 0;
  for (const array of values) {
    for (let i = 0; i < array.length; i++) {
      const value = array[i] as number;
      if (value < 0) return false;
      if (value > 0 && value < low) low = value;
      if (value < Infinity && value > high) high = value;
    }
  }
  return high > 30 * low;
}

/** A value's place; `back` finds the value of a place. */
export interface Placer {
  (value: number): number;
  back: (place: number) => number;
}

/** Maps values to [from, to]; NaN for what the axis cannot show. */
export function placer(scale: Scale, from: number, to: number): Placer {
  if (scale.log) {
    const low = Math.log(scale.low);
    const factor = (to - from) / (Math.log(scale.high) - low || 1);
    const place = (value: number) => (value > TINY ? from + (Math.log(value) - low) * factor : NaN);
    return Object.assign(place, { back: (at: number) => Math.exp(low + (at - from) / factor) });
  }
  const factor = (to - from) / (scale.high - scale.low || 1);
  const place = (value: number) => from + (value - scale.low) * factor;
  return Object.assign(place, { back: (at: number) => scale.low + (at - from) / factor });
}

/** Round numbers on the axis, about `most` of them. */
export function ticks(scale: Scale, most: number): number[] {
  if (scale.log) {
    const first = Math.ceil(Math.log10(scale.low) - 1e-9);
    const last = Math.floor(Math.log10(scale.high) + 1e-9);
    const decades = last - first + 1;
    if (decades >= 2) {
      const step = Math.max(1, Math.ceil(decades / most));
      const begin = Math.ceil(first / step) * step;
      return Array.from({ length: Math.max(0, Math.floor((last - begin) / step) + 1) }, (_, i) => 10 ** (begin + i * step));
    }
    const fine: number[] = [];
    for (let e = first - 1; e <= last; e++) for (const f of [1, 2, 5]) fine.push(f * 10 ** e);
    const inside = fine.filter((value) => value >= scale.low && value <= scale.high);
    if (inside.length >= 2) return inside;
  }
  const raw = (scale.high - scale.low) / Math.max(1, most);
  if (!(raw > 0)) return [];
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * ([1, 2, 5, 10].find((f) => f * unit >= raw * 0.999) ?? 10);
  const found: number[] = [];
  for (let i = Math.ceil(scale.low / step); i * step <= scale.high && found.length < 100; i++) found.push(i * step);
  return found;
}
