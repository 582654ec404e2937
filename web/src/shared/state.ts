// The whole state of a page in the fragment of its address: plain JSON, compressed, in base64url. A fragment never
// reaches a server. It is read like anything else from outside: `accept` decides what is kept.

import { afterPause } from "./busy";

function toBase64(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  const raw = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(raw, (c) => c.charCodeAt(0));
}

async function through(bytes: Uint8Array<ArrayBuffer>, stream: GenericTransformStream, most = Infinity): Promise<Uint8Array> {
  const reader = new Blob([bytes]).stream().pipeThrough(stream as ReadableWritablePair<Uint8Array, BufferSource>).getReader();
  const parts: Uint8Array[] = [];
  let size = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    size += value.length;
    if (size > most) throw new Error("the state in the address is too long");
    parts.push(value);
  }
  const whole = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

const MOST = 1 << 16;

/** A text, compressed, in plain base64. */
export async function deflated(text: string): Promise<string> {
  const bytes = await through(new TextEncoder().encode(text), new CompressionStream("deflate-raw"));
  let out = "";
  for (let i = 0; i < bytes.length; i += 8192) out += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return btoa(out);
}

/** The state as a fragment without its "#". */
export async function encode(state: unknown): Promise<string> {
  const bytes = new TextEncoder().encode(JSON.stringify(state));
  return toBase64(await through(bytes, new CompressionStream("deflate-raw"), MOST));
}

/** What a fragment holds, or null for anything that `encode` did not make. */
export async function decode(fragment: string): Promise<unknown> {
  try {
    const bytes = await through(fromBase64(fragment.replace(/^#/, "")), new DecompressionStream("deflate-raw"), MOST);
    return JSON.parse(new TextDecoder().decode(bytes)) as unknown;
  } catch {
    return null;
  }
}

/** Writes the state into the address, a moment after the last change, without a step in the history. */
export function keepInAddress(read: () => unknown): () => void {
  return afterPause(250, async () => {
    try {
      history.replaceState(null, "", `#${await encode(read())}`);
    } catch {
      // a page inside a frame of another origin may not change its address
    }
  });
}
