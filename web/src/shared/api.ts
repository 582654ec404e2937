// Talking to the server: JSON in and out, errors with what the server said, streams that end when they are aborted.

/** What the server refuses, in its own words. `position`: the character of a formula it is about. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly position: number | null = null,
  ) {
    super(message);
  }
}

async function checked(response: Response): Promise<Response> {
  if (response.ok) return response;
  let message = `the server answered ${response.status}`;
  let position: number | null = null;
  try {
    const body = (await response.json()) as { error?: string; position?: number };
    if (body.error) message = body.error;
    if (typeof body.position === "number") position = body.position;
  } catch {
    // not JSON: the status says it
  }
  throw new Refused(response.status, message, position);
}

/** GET with a query; `undefined` values are left out. */
export async function get<T>(path: string, query: Record<string, string | number | undefined> = {}, signal?: AbortSignal): Promise<T> {
  const entries = Object.entries(query).filter(([, value]) => value !== undefined);
  const search = new URLSearchParams(entries.map(([name, value]) => [name, String(value)]));
  const address = search.size ? `${path}?${search}` : path;
  const response = await checked(await fetch(address, { headers: { Accept: "application/json" }, ...(signal ? { signal } : {}) }));
  return (await response.json()) as T;
}

/** POST of JSON; the answer's body as it arrives. Frames are whole: see `frames`. */
export async function post(path: string, body: unknown, signal?: AbortSignal): Promise<ReadableStream<Uint8Array>> {
  const response = await checked(
    await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      ...(signal ? { signal } : {}),
    }),
  );
  if (!response.body) throw new Refused(response.status, "the server sent nothing");
  return response.body;
}

/** Binary frames of a stream: a little-endian uint32 length of a JSON header, the header, then `bytes` bytes of data. */
export async function* frames(stream: ReadableStream<Uint8Array>): AsyncGenerator<{ header: Record<string, unknown>; data: ArrayBuffer }> {
  const reader = stream.getReader();
  let buffer = new Uint8Array(0);
  const have = async (size: number): Promise<boolean> => {
    while (buffer.length < size) {
      const { done, value } = await reader.read();
      if (done) return false;
      const longer = new Uint8Array(buffer.length + value.length);
      longer.set(buffer);
      longer.set(value, buffer.length);
      buffer = longer;
    }
    return true;
  };
  try {
    while (await have(4)) {
      const size = new DataView(buffer.buffer, buffer.byteOffset).getUint32(0, true);
      if (!(await have(4 + size))) return;
      const header = JSON.parse(new TextDecoder().decode(buffer.subarray(4, 4 + size))) as Record<string, unknown>;
      const bytes = Number(header.bytes ?? 0);
      if (!(await have(4 + size + bytes))) return;
      const data = buffer.slice(4 + size, 4 + size + bytes).buffer;
      buffer = buffer.subarray(4 + size + bytes);
      yield { header, data };
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
