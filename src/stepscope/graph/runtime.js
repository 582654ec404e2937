// What printed programs (graph/javascript.py) need beside + - * / and Math.sqrt. Every function is exact or rounds once,
// so that a program gives the bits of its compiled twin.

const number = new Float64Array(1);
const words = new Uint32Array(number.buffer); // little-endian, as on every machine with a browser
const LOW = 0;
const HIGH = 1;

const SPLIT = 134217729; // 2^27 + 1
const PLAIN_LOW = 1e-250; // products between these, and of factors below 1e150, have exact parts
const PLAIN_HIGH = 1e250;
const FACTOR = 1e150;

/** x + y rounded to odd: exact, or the neighbour of the exact sum whose last bit is 1. */
function oddSum(x, y) {
  const s = x + y;
  const back = s - x;
  const rest = x - (s - back) + (y - back);
  if (rest === 0) return s;
  number[0] = s;
  if ((words[LOW] & 1) === 0) {
    if (rest > 0 === s > 0) {
      words[LOW] |= 1;
    } else if (words[LOW] === 0) {
      words[LOW] = 0xffffffff;
      words[HIGH] -= 1;
    } else {
      words[LOW] -= 1;
    }
  }
  return number[0];
}

/** a b + c for numbers whose parts neither overflow nor underflow. [Boldo and Melquiond 2008] */
function fmaPlain(a, b, p, c) {
  let t = SPLIT * a;
  const a1 = t - (t - a);
  const a2 = a - a1;
  t = SPLIT * b;
  const b1 = t - (t - b);
  const b2 = b - b1;
  const low = a2 * b2 - (p - a1 * b1 - a2 * b1 - a1 * b2);
  const s = p + c;
  const back = s - p;
  const rest = p - (s - back) + (c - back);
  return s + oddSum(rest, low);
}

/** a x 2^e as a whole number and a power of two. */
function parts(x) {
  number[0] = x;
  const field = (words[HIGH] >>> 20) & 0x7ff;
  let m = (BigInt(words[HIGH] & 0xfffff) << 32n) | BigInt(words[LOW]);
  if (field) m |= 1n << 52n;
  return { m: words[HIGH] >>> 31 ? -m : m, e: Math.max(field, 1) - 1075 };
}

/** m 2^e rounded to the nearest number, of two the even one. */
function rounded(m, e) {
  const negative = m < 0n;
  let size = negative ? -m : m;
  const bits = size.toString(2).length;
  let shift = Math.max(bits - 53, -1074 - e);
  if (shift > 0) {
    const half = 1n << BigInt(shift - 1);
    const rest = size & ((half << 1n) - 1n);
    size >>= BigInt(shift);
    if (rest > half || (rest === half && size & 1n)) size += 1n;
  } else {
    shift = 0;
  }
  let power = e + shift;
  let value = Number(size);
  for (; power > 900; power -= 900) value *= 2 ** 900;
  for (; power < -900; power += 900) {
    // size has so few bits here that no digit is lost
    value *= 2 ** -900;
  }
  value *= 2 ** power;
  return negative ? -value : value;
}

function fmaExact(a, b, c) {
  const x = parts(a);
  const y = parts(b);
  const z = parts(c);
  const m = x.m * y.m;
  const e = x.e + y.e;
  const low = Math.min(e, z.e);
  const sum = (m << BigInt(e - low)) + (z.m << BigInt(z.e - low));
  return sum === 0n ? a * b + c : rounded(sum, low);
}

function fmaRare(a, b, c) {
  const p = a * b;
  if (a === 0 || b === 0 || !Number.isFinite(a) || !Number.isFinite(b) || !Number.isFinite(c)) return p + c;
  const A = Math.abs(a);
  const B = Math.abs(b);
  if (A < 1e-60 && B < 1e60 && Math.abs(c) < 1e60) {
    // 2^300 and 2^600 lift everything out of the depths, if the result does not have to go back there
    const r = fmaLifted(a * 2 ** 300, b * 2 ** 300, c * 2 ** 600);
    if (r !== undefined) return r;
  } else if (B < 1e-60 && A < 1e60 && Math.abs(c) < 1e60) {
    const r = fmaLifted(a * 2 ** 300, b * 2 ** 300, c * 2 ** 600);
    if (r !== undefined) return r;
  }
  return fmaExact(a, b, c);
}

function fmaLifted(a, b, c) {
  const p = a * b;
  const size = Math.abs(p);
  if (!(size > PLAIN_LOW && size < PLAIN_HIGH && Math.abs(a) < FACTOR && Math.abs(b) < FACTOR)) return undefined;
  if (c !== 0 && !(Math.abs(c) > PLAIN_LOW && Math.abs(c) < PLAIN_HIGH)) return undefined;
  const r = fmaPlain(a, b, p, c) * 2 ** -600;
  return Math.abs(r) > 2.3e-308 ? r : undefined;
}

/** a b + c, rounded once. */
export function fma(a, b, c) {
  const p = a * b;
  const size = Math.abs(p);
  if (size > PLAIN_LOW && size < PLAIN_HIGH && Math.abs(a) < FACTOR && Math.abs(b) < FACTOR) {
    const other = Math.abs(c);
    if (other < PLAIN_HIGH && (other > PLAIN_LOW || c === 0)) return fmaPlain(a, b, p, c);
  }
  return fmaRare(a, b, c);
}

/** -1, 0 or 1; 0 keeps its sign, and nan stays. */
export function sign(x) {
  return x > 0 ? 1 : x < 0 ? -1 : x;
}

/** The smaller one; nan if either is. */
export function min(a, b) {
  return b !== b ? b : a < b || a !== a ? a : b;
}

/** The larger one; nan if either is. */
export function max(a, b) {
  return b !== b ? b : a > b || a !== a ? a : b;
}

const WHOLE = 4503599627370496; // 2^52: from there on every number is whole

/** The nearest whole number, of two the even one. */
export function rint(x) {
  if (x > 0) return x < WHOLE ? x + WHOLE - WHOLE : x;
  if (x < 0) return x > -WHOLE ? -(-x + WHOLE - WHOLE) : x;
  return x;
}

/** e of x = m 2^e, m in [1, 2), for a normal x > 0. */
export function exponent(x) {
  number[0] = x;
  return (words[HIGH] >>> 20) - 1023;
}

/** m of x = m 2^e, m in [1, 2), for a normal x > 0. */
export function mantissa(x) {
  number[0] = x;
  words[HIGH] = (words[HIGH] & 0xfffff) | 0x3ff00000;
  return number[0];
}

/** 2^n for a whole n in [-1022, 1023]. */
export function pow2(n) {
  words[LOW] = 0;
  words[HIGH] = (n + 1023) << 20;
  return number[0];
}

/** base^n for a whole n >= 0, in twice the digits and rounded at the end. */
export function power(base, n) {
  if (n === 0) return 1;
  let high = 1;
  let low = 0;
  let x = base;
  let y = 0;
  for (let k = n; ; ) {
    if (k % 2 === 1) {
      const p = high * x;
      const e = p - p === 0 && Math.abs(p) > 1e-280 ? fmaPlain(high, x, p, -p) + (high * y + low * x) : 0;
      high = p + e;
      low = e - (high - p);
    }
    k = Math.floor(k / 2);
    if (k === 0) return high;
    const p = x * x;
    const e = Math.abs(p) > 1e-280 && Math.abs(p) < 1e280 ? fmaPlain(x, x, p, -p) + 2 * (x * y) : 0;
    x = p + e;
    y = e - (x - p);
  }
}

/**
 * The values of a step scalar at t = 1, 2, ... `steps`, as far as they change; the last one holds from there on.
 * known: the first ones, if they have been computed before.
 * @param {Float64Array | null} known
 */
export function table(value, settings, steps, known = null) {
  const final = value(2 ** 53, ...settings);
  const out = [];
  for (let t = 1; t <= steps; t++) {
    const v = known && t <= known.length ? known[t - 1] : value(t, ...settings);
    out.push(v);
    if (Object.is(v, final)) break;
  }
  return Float64Array.from(out);
}

// ---- standard normals: simulate/noise.py says what and why -----------------------------------------------------------

const LOG = [-0.50000703, 0.33334726, -0.24956773, 0.19902954, -0.17389093, 0.16239445, -0.097314648].map(Math.fround);
const SIN = [];
const COS = [];
for (let n = 0, factorial = 1; n < 7; n++) {
  if (n > 0) factorial *= (2 * n - 1) * 2 * n;
  COS.push(Math.fround(((n % 2 ? -1 : 1) * Math.PI ** (2 * n)) / factorial));
  if (n < 6) SIN.push(Math.fround(((n % 2 ? -1 : 1) * Math.PI ** (2 * n + 1)) / (factorial * (2 * n + 1))));
}
const LN2 = Math.fround(Math.log(2));
const ROOT_HALF = Math.fround(Math.sqrt(0.5));
const single = new Float32Array(1);
const singleWord = new Uint32Array(single.buffer);

function polynomial(coefficients, z) {
  let total = coefficients[coefficients.length - 1];
  for (let i = coefficients.length - 2; i >= 0; i--) total = Math.fround(Math.fround(total * z) + coefficients[i]);
  return total;
}

// 64-bit whole numbers as two halves. Results go here: numbers in an array need no memory of their own.
const wide = new Uint32Array(2);

function times64(ah, al, bh, bl) {
  const a0 = al & 0xffff;
  const a1 = al >>> 16;
  const b0 = bl & 0xffff;
  const b1 = bl >>> 16;
  const cross = a1 * b0 + ((a0 * b0) >>> 16);
  const other = a0 * b1 + (cross & 0xffff);
  wide[LOW] = Math.imul(al, bl);
  wide[HIGH] = a1 * b1 + (cross >>> 16) + (other >>> 16) + Math.imul(ah, bl) + Math.imul(al, bh);
}

function plus64(ah, al, bh, bl) {
  const low = (al >>> 0) + (bl >>> 0);
  wide[LOW] = low;
  wide[HIGH] = (ah + bh + (low > 0xffffffff ? 1 : 0)) | 0;
}

/** x^2 + (yh, yl). */
function squarePlus(xh, xl, yh, yl) {
  times64(xh, xl, xh, xl);
  plus64(wide[HIGH] | 0, wide[LOW] | 0, yh, yl);
}

/** The generator's key of a whole-number seed, as two halves. */
export function noiseKey(seed) {
  const m = (1n << 64n) - 1n;
  let z = ((BigInt(seed) & m) + 1n) * 0x9e3779b97f4a7c15n & m;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & m;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & m;
  z = (z ^ (z >> 31n)) | 1n;
  return [Number(z >> 32n) | 0, Number(z & 0xffffffffn) | 0];
}

/** Fills out with the standard normals of step t (from 0). */
export function normals(key, t, out) {
  const [kh, kl] = key;
  const pairs = (out.length + 1) >> 1;
  for (let pair = 0; pair < pairs; pair++) {
    const counter = t * pairs + pair;
    times64(kh, kl, Math.floor(counter / 4294967296) | 0, counter | 0);
    const yh = wide[HIGH] | 0;
    const yl = wide[LOW] | 0;
    plus64(yh, yl, kh, kl);
    const zh = wide[HIGH] | 0;
    const zl = wide[LOW] | 0;
    squarePlus(yh, yl, yh, yl);
    squarePlus(wide[LOW] | 0, wide[HIGH] | 0, zh, zl); // halves change places
    squarePlus(wide[LOW] | 0, wide[HIGH] | 0, yh, yl);
    squarePlus(wide[LOW] | 0, wide[HIGH] | 0, zh, zl);
    const lastHigh = wide[HIGH] | 0;
    const lastLow = wide[LOW] | 0;
    squarePlus(lastLow, lastHigh, yh, yl);
    const high = Math.fround(lastHigh >>> 0);
    const low = Math.fround(lastLow ^ wide[HIGH]);
    const u = Math.fround(Math.fround(high * 2 ** -32) + 2 ** -33);
    single[0] = u;
    let e = (singleWord[0] >>> 23) - 126;
    singleWord[0] = (singleWord[0] & 0x7fffff) | 0x3f000000;
    let f = single[0]; // in [0.5, 1)
    if (!(f > ROOT_HALF)) {
      f = Math.fround(f * 2);
      e -= 1;
    }
    f = Math.fround(f - 1);
    const tail = Math.fround(Math.fround(Math.fround(f * f) * polynomial(LOG, f)) + f);
    const log = Math.fround(Math.fround(e * LN2) + tail);
    const radius = Math.fround(Math.sqrt(Math.max(Math.fround(log * -2), 0)));
    const a = Math.fround(low * 2 ** -32);
    const aa = Math.fround(a * a);
    const s = Math.fround(a * polynomial(SIN, aa));
    const c = polynomial(COS, aa);
    out[2 * pair] = Math.fround(radius * Math.fround(1 - Math.fround(Math.fround(s * s) * 2)));
    if (2 * pair + 1 < out.length) out[2 * pair + 1] = Math.fround(radius * Math.fround(Math.fround(s * c) * 2));
  }
}
