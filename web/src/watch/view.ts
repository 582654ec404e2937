// What all views share: a view shows a part of the route, follows the list of runs, and asks the server for no more than
// it shows, one request of a kind at a time.

import { waiting } from "../shared/busy";
import { el } from "../shared/dom";
import type { RunLine } from "./data";
import type { Live } from "./live";
import type { Route } from "./route";

export interface View {
  readonly element: HTMLElement;
  /** The route has changed within this view. */
  route(now: Route): void;
  /** The list of runs has changed, or the server has come or gone. */
  live(now: Live, before: Live): void;
  /** Never shown again. */
  end(): void;
}

/** Runs `work` when asked, never twice at once; what was asked meanwhile is done afterwards, once. */
export class Asker {
  private controller: AbortController | null = null;
  private again = false;
  private ended = false;

  constructor(
    private readonly work: (signal: AbortSignal) => Promise<unknown>,
    private readonly failed: (error: unknown) => void,
  ) {}

  /** Ask; `fresh` gives up on what is being answered now. */
  ask(fresh = false): void {
    if (this.ended) return;
    if (this.controller && fresh) this.controller.abort();
    else if (this.controller) {
      this.again = true;
      return;
    }
    const controller = new AbortController();
    this.controller = controller;
    waiting(this.work(controller.signal))
      .catch((error: unknown) => {
        if (!controller.signal.aborted) this.failed(error);
      })
      .finally(() => {
        if (this.controller !== controller) return;
        this.controller = null;
        if (this.again) {
          this.again = false;
          this.ask();
        }
      });
  }

  end(): void {
    this.ended = true;
    this.controller?.abort();
  }
}

const SIGNS: Record<string, string> = { running: "●", finished: "✓", failed: "✕", interrupted: "‖", broken: "!" };

/** A status in a word, a sign and a hue. */
export const badge = (status: string): HTMLElement =>
  el("span", { class: `badge ${status}` }, el("span", { "aria-hidden": "true" }, SIGNS[status] ?? ""), ` ${status}`);

/** The words about a run's last sign of life. */
export function age(line: RunLine, now: number, duration: (seconds: number) => string): string {
  if (!line.changed) return "";
  const seconds = Math.max(0, now - line.changed);
  if (line.status === "running" && seconds > 120) return `no news for ${duration(seconds)}`;
  return line.status === "running" && seconds < 3 ? "now" : `${duration(seconds)} ago`;
}

export const message = (error: unknown): string => (error instanceof Error ? error.message : String(error));
