// Programs that the server prints from its rules and landscapes, loaded as modules of this origin. A saved page carries
// its programs along and asks nobody.

import * as runtime from "../../../src/stepscope/graph/runtime.js";
import { get } from "../shared/api";
import type { Catalogue, LandscapeInfo, Noise } from "./scene";

export interface Scalar {
  name: string;
  needs: string[];
  value: (t: number, ...numbers: number[]) => number;
}

export type Key = [number, number];

export interface PathProgram {
  carried: string[];
  columns: string[];
  constants: string[];
  normals: number;
  scalars: Scalar[];
  advance(S: Float64Array, t: number, end: number, every: number, last: number, C: number[], T: Float64Array[], key: Key, rows: Float64Array): void;
  look(S: Float64Array, at: number, t: number, C: number[], T: Float64Array[], key: Key, out: Float64Array): void;
}

export interface LandscapeFunctions {
  loss(x: ArrayLike<number>): number;
  gradient(x: ArrayLike<number>, out: Float64Array): void;
  /** second derivatives, row by row */
  curvature(x: ArrayLike<number>, out: Float64Array): void;
}

export interface LandscapeProgram {
  params: string[];
  of(C: number[]): LandscapeFunctions;
}

/** Factors of a spread, and limits of step times curvature of a decay or a momentum. */
export type Curves = Record<"adam_factor" | "svag_factor" | "exact_factor" | "average_limit" | "buffer_limit", (x: number) => number>;

type Maker = (runtime: object) => unknown;

/** What a saved page holds in the place of a server. */
export interface Saved {
  programs: Record<string, Maker>;
  catalogue: Catalogue;
  landscapes: Record<string, LandscapeInfo>;
  scene: unknown;
}

declare global {
  interface Window {
    stepscopeSaved?: Saved;
    stepscopeFirst?: Pick<Saved, "programs" | "catalogue">;
  }
}

export const saved: Saved | undefined = window.stepscopeSaved;

/** What the page brings along for its first scene: its server is still loading then. */
const first = window.stepscopeFirst;

const loaded = new Map<string, Promise<unknown>>();
const ready = new Map<string, unknown>();

async function program<T>(address: string): Promise<T> {
  if (!loaded.has(address)) {
    const work = (async () => {
      if (saved) {
        const maker = saved.programs[address];
        if (!maker) throw new Error("this page was saved without that; `stepscope play` has everything");
        return maker(runtime);
      }
      const maker = first?.programs[address];
      if (maker) return maker(runtime);
      const module = (await import(/* @vite-ignore */ address)) as { default: Maker };
      return module.default(runtime);
    })();
    loaded.set(address, work);
    work.then((made) => ready.set(address, made), () => loaded.delete(address));
  }
  return (await loaded.get(address)) as T;
}

function query(values: Record<string, string>): string {
  return new URLSearchParams(values).toString();
}

export function pathAddress(rule: string, landscape: string, noise: Noise): string {
  return `/api/path.js?${query({ rule, landscape, noise })}`;
}

export function landscapeAddress(landscape: string): string {
  return `/api/landscape.js?${query({ landscape })}`;
}

export const CURVES = "/api/curves.js";

export const pathProgram = (rule: string, landscape: string, noise: Noise) => program<PathProgram>(pathAddress(rule, landscape, noise));
export const landscapeProgram = (landscape: string) => program<LandscapeProgram>(landscapeAddress(landscape));
export const curves = () => program<Curves>(CURVES);

/** What has been loaded before, or undefined. */
export function readyPath(rule: string, landscape: string, noise: Noise): PathProgram | undefined {
  return ready.get(pathAddress(rule, landscape, noise)) as PathProgram | undefined;
}

export async function catalogue(): Promise<Catalogue> {
  return saved?.catalogue ?? first?.catalogue ?? get<Catalogue>("/api/catalogue");
}

/** About a landscape by name or formula. Throws Refused with the position of the mistake. */
export async function landscapeInfo(text: string, known: Catalogue): Promise<LandscapeInfo> {
  const named = known.landscapes.find((one) => one.name === text);
  if (named) return named;
  if (saved) {
    const info = saved.landscapes[text];
    if (!info) throw new Error("a saved page knows its own landscape only; `stepscope play` takes any formula");
    return info;
  }
  return get<LandscapeInfo>("/api/landscape", { landscape: text });
}

export { runtime };
