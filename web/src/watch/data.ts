// What the server says about runs, typed, and the arrays of a series or a matrix out of its frames.

import { frames, get, post } from "../shared/api";

export interface RunLine {
  id: string;
  status: "running" | "finished" | "failed" | "interrupted" | "broken";
  created: string;
  last: number | null;
  changed: number;
  problem: string;
  alarms: number;
  optimizer: string;
  tensors: number;
  dissection: string;
  stamp: string;
}

/** The trials of a dissection are told apart by their settings; their ids are numbers. */
export const called = (line: RunLine): string => (line.optimizer ? `${line.optimizer} · ${line.id}` : line.id);

export interface DissectionLine {
  id: string;
  status: "running" | "finished" | "interrupted";
  problem: string;
  done: number;
  stamp: string;
}

export interface Found {
  folder: string;
  stamp: string;
  now: number;
  unchanged: boolean;
  truncated: boolean;
  runs: RunLine[];
  dissections: DissectionLine[];
}

export interface Column {
  name: string;
  unit: string;
  formula: string;
  estimator: string;
  source: string;
}

export interface Layer {
  name: string;
  shape: number[];
  weight: boolean;
}

export interface RunEvent {
  kind: string;
  time: string;
  [name: string]: unknown;
}

export interface Detail {
  line: RunLine;
  first: number | null;
  last: number | null;
  columns: Column[];
  layers: Layer[];
  events: RunEvent[];
  config: Record<string, unknown>;
  provenance: Record<string, unknown>;
  problems: string[];
}

export interface Curves {
  spread: number[];
  adam: number[];
  svag: number[];
  exact: number[];
}

/** Buckets of one column of one layer, in order of their steps: the mean step of each, and what lies in it. */
export interface Series {
  step: Float64Array;
  low: Float64Array;
  mean: Float64Array;
  high: Float64Array;
  /** The last value. */
  end: Float64Array;
  finite: Float64Array;
  broken: Float64Array;
}

/** [row][bucket] in one array; NaN where there is nothing. */
export interface Matrix {
  first: number;
  last: number;
  size: number;
  rows: number;
  values: Float64Array;
  read: number;
}

export interface Range {
  first: number | undefined;
  last: number | undefined;
}

export const key = (run: string, column: string, layer: string): string => JSON.stringify([run, column, layer]);

/** Series by `key`, and the least share of the rows that was read: below 1, asking again gives more. */
export async function series(
  query: { runs: string[]; columns: string[]; layers: string[]; buckets: number } & Partial<Range>,
  signal?: AbortSignal,
): Promise<{ found: Map<string, Series>; read: number }> {
  const found = new Map<string, Series>();
  let read = 1;
  for await (const { header, data } of frames(await post("/api/series", query, signal))) {
    if (typeof header.read === "number") read = Math.min(read, header.read);
    const shape = header.shape as number[] | undefined;
    if (!shape) continue;
    const n = shape[1] ?? 0;
    const row = (i: number) => new Float64Array(data, i * n * 8, n);
    found.set(key(String(header.run), String(header.column), String(header.layer)), {
      step: row(0),
      low: row(1),
      mean: row(2),
      high: row(3),
      end: row(4),
      finite: row(5),
      broken: row(6),
    });
  }
  return { found, read };
}

/** Matrices by column. */
export async function matrices(
  query: { run: string; columns: string[]; histogram?: string; layers: string[]; buckets: number; value: string } & Partial<Range>,
  signal?: AbortSignal,
): Promise<Map<string, Matrix>> {
  const found = new Map<string, Matrix>();
  for await (const { header, data } of frames(await post("/api/matrix", query, signal))) {
    const shape = header.shape as number[] | undefined;
    const scale = header.scale as number[] | null;
    if (!shape || !scale) continue;
    found.set(String(header.column), {
      first: scale[0] ?? 0,
      last: scale[1] ?? 0,
      size: scale[2] ?? 0,
      rows: shape[0] ?? 0,
      values: new Float64Array(data),
      read: Number(header.read),
    });
  }
  return found;
}

export const detail = (id: string, signal?: AbortSignal): Promise<Detail> => get<Detail>("/api/run", { id }, signal);

let kept: Promise<Curves> | undefined;
export const curves = (): Promise<Curves> => (kept ??= get<Curves>("/api/curves"));
