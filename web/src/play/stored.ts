// Paths from a file, shown beside those computed here: what `stepscope simulate --out FILE.csv` writes, and this page's
// own CSV.

export interface Stored {
  name: string;
  /** rising */
  steps: Float64Array;
  /** by variable */
  theta: Float64Array[];
  loss: Float64Array;
}

const MOST_BYTES = 200e6;
const MOST_PATHS = 8;

/** The cells of a line; one in quotes may hold commas, and a doubled quote. */
function cells(line: string): string[] {
  if (!line.includes('"')) return line.split(",");
  return [...line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)].map((one) => (one[1] ?? one[2] ?? "").replaceAll('""', '"'));
}

/** The paths of a file, or an error that says what is missing. */
export async function readPaths(file: File, variables: string[]): Promise<Stored[]> {
  if (file.size > MOST_BYTES) throw new Error(`${file.name} has more than ${MOST_BYTES / 1e6} MB: record fewer steps, with --every`);
  const [head, ...lines] = (await file.text()).split(/\r?\n/);
  const columns = cells(head ?? "");
  const wanted = ["step", "loss", ...variables.map((name) => `theta.${name}`)];
  const missing = wanted.filter((name) => !columns.includes(name));
  if (missing.length) throw new Error(`${file.name} has no column ${missing.join(", ")}: open a path that stepscope simulate --out has written, of a landscape in ${variables.join(", ")}`);
  const [step, loss, ...theta] = wanted.map((name) => columns.indexOf(name)) as [number, number, ...number[]];
  const method = columns.indexOf("method");
  const found = new Map<string, number[][]>();
  for (const line of lines) {
    if (!line) continue;
    const row = cells(line);
    const name = method < 0 ? file.name : `${file.name}: ${row[method]}`;
    if (!found.has(name)) {
      if (found.size === MOST_PATHS) throw new Error(`${file.name} has more than ${MOST_PATHS} methods`);
      found.set(name, []);
    }
    found.get(name)!.push([step, loss, ...theta].map((k) => (row[k] ? Number(row[k]) : Number.NaN)));
  }
  const column = (rows: number[][], k: number) => Float64Array.from(rows, (row) => row[k]!);
  return [...found].map(([name, rows]) => {
    rows.sort((a, b) => a[0]! - b[0]!);
    return { name, steps: column(rows, 0), loss: column(rows, 1), theta: variables.map((_, i) => column(rows, 2 + i)) };
  });
}
