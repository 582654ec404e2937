// What a page has begun and not shown yet: frames asked for, answers awaited, typing that is about to be read. Tests
// wait until nothing is left; a picture taken before would be that of a moment ago.

let begun = 0;

/** Something begins; call what is returned, once or more often, when it is shown. */
export function begin(): () => void {
  let open = true;
  begun++;
  return () => {
    if (open) begun--;
    open = false;
  };
}

/** The same promise, counted until it is settled. */
export function waiting<T>(work: Promise<T>): Promise<T> {
  return work.finally(begin());
}

/** Calls f after a pause in the calls. */
export function afterPause(milliseconds: number, f: () => unknown): () => void {
  let timer = 0;
  let end: () => void = () => undefined;
  return () => {
    clearTimeout(timer);
    end();
    const done = begin();
    end = done;
    timer = window.setTimeout(() => void Promise.resolve(f()).finally(done), milliseconds);
  };
}

export const busy = (): boolean => begun > 0;
