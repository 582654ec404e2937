// Making elements without a framework: el("button", { class: "primary", onclick: f }, "text", child).

import { begin } from "./busy";

type Attributes = Record<string, unknown>;

/** An element with attributes, properties and listeners ("onclick": a function), and its children in order. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: (Node | string | null | undefined)[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on") && typeof value === "function") {
      node.addEventListener(name.slice(2), value as EventListener);
    } else if (name === "value" || name === "checked" || name === "disabled") {
      (node as unknown as Attributes)[name] = value;
    } else {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  for (const child of children) if (child !== null && child !== undefined) node.append(child);
  return node;
}

/** The element with this id, which the page is known to have. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const node = document.getElementById(id);
  if (!node) throw new Error(`no element #${id}`);
  return node as T;
}

/** Calls f at most once a frame, however often the result is called. */
export function everyFrame(f: () => void): () => void {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    const done = begin();
    requestAnimationFrame(() => {
      asked = false;
      f();
      done();
    });
  };
}

const colours = new Map<string, string>();

/** A colour variable of the theme, as it is now. */
export function colour(name: string): string {
  let value = colours.get(name);
  if (value === undefined) {
    value = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    if (value) colours.set(name, value);
  }
  return value;
}

/** The theme is another one. */
export const forgetColours = (): void => colours.clear();

/** The red, green and blue of "#rgb" or "#rrggbb", each from 0 to 255. */
export function rgb(css: string): [number, number, number] {
  const short = css.length < 7;
  const part = (k: number) => (short ? 17 * parseInt(css.charAt(k + 1), 16) : parseInt(css.slice(2 * k + 1, 2 * k + 3), 16));
  return [part(0), part(1), part(2)];
}

/** Sizes a canvas to its box in device pixels; returns its size in CSS pixels. */
export function fit(canvas: HTMLCanvasElement): { width: number; height: number; scale: number } {
  const width = Math.max(1, canvas.clientWidth);
  const height = Math.max(1, canvas.clientHeight);
  const scale = Math.min(3, window.devicePixelRatio || 1);
  const w = Math.round(width * scale);
  const h = Math.round(height * scale);
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  return { width, height, scale };
}

/** Hands the reader a file. */
export function download(name: string, content: Blob | string, type = "text/plain"): void {
  const blob = typeof content === "string" ? new Blob([content], { type }) : content;
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
