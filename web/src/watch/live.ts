// The list of runs, asked for twice a second: cheap for the server, and it mends itself when the server comes back.

import { get, Refused } from "../shared/api";
import type { Found } from "./data";

const INTERVAL = 500;
const INTERVAL_HIDDEN = 5000;

export interface Live {
  readonly found: Found | null;
  /** Seconds by which the server's clock is ahead of ours. */
  readonly ahead: number;
  /** Whether the last request was answered. */
  readonly connected: boolean;
}

let state: Live = { found: null, ahead: 0, connected: true };
const listeners = new Set<(now: Live, before: Live) => void>();

export const live = (): Live => state;

/** Calls f whenever the list, or whether the server answers, changes; returns what ends it. */
export function onLive(f: (now: Live, before: Live) => void): () => void {
  listeners.add(f);
  return () => listeners.delete(f);
}

function become(next: Live): void {
  const before = state;
  state = next;
  for (const f of [...listeners]) f(next, before);
}

async function ask(): Promise<void> {
  try {
    const found = await get<Found>("/api/runs", { stamp: state.found?.stamp ?? "" }, AbortSignal.timeout(20_000));
    const ahead = found.now - Date.now() / 1000;
    if (!found.unchanged) become({ found, ahead, connected: true });
    else if (!state.connected) become({ ...state, ahead, connected: true });
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return;
    if (state.connected) become({ ...state, connected: false });
  }
}

/** Begins to ask, and goes on. */
export async function watchRuns(): Promise<never> {
  for (;;) {
    await ask();
    const wait = document.hidden ? INTERVAL_HIDDEN : INTERVAL;
    await new Promise<void>((done) => {
      const timer = setTimeout(done, wait);
      const wake = () => {
        if (document.hidden) return;
        clearTimeout(timer);
        document.removeEventListener("visibilitychange", wake);
        done();
      };
      document.addEventListener("visibilitychange", wake);
    });
  }
}
