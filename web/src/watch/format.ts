// Numbers, times and names as people read them.

/** Four significant digits, powers of ten for what is very small or large. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e6 || size < 1e-3 ? value.toExponential(2).replace("e+", "e") : String(Number(value.toPrecision(4)));
  return text.replace("-", "−").replace("e−", "e−").replace("e-", "e−");
}

/** A count with thin spaces between thousands. */
export const count = (value: number): string => String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, "\u202f");

/** "12 s", "3 min", "2 h 5 min", "4 days". */
export function duration(seconds: number): string {
  if (seconds < 1) return "1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.round(hours / 24)} days`;
}

/** The last part of an id, with what tells it apart in front, small. */
export function split(id: string): { folder: string; name: string } {
  const at = id.lastIndexOf("/");
  return { folder: id.slice(0, at + 1), name: id.slice(at + 1) };
}

/** A column's name in words. */
export const words = (column: string): string => column.replaceAll("_", " ");

const LABELS: Record<string, string> = {
  sgd: "SGD",
  msgd: "M-SGD",
  ssd: "SSD",
  mssd: "M-SSD",
  svag: "SVAG",
  msvag: "M-SVAG",
  adam: "Adam",
  adamw: "AdamW",
  adam_erf: "Adam (exact factor)",
  adam_one_beta: "Adam (one beta)",
  rmsprop: "RMSProp",
  adagrad: "AdaGrad",
  adadelta: "Adadelta",
  signum: "Signum",
  lion: "Lion",
  grams: "Grams",
  adabelief: "AdaBelief",
  nadam: "NAdam",
  radam: "RAdam",
  adamax: "Adamax",
};
/** A method as the report calls it. */
export const method = (name: string): string => LABELS[name] ?? name;
