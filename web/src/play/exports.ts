// Taking a scene along: its address, Python that computes the same, pictures, a table, a film, and the page itself.

import { download, el } from "../shared/dom";
import { deflated } from "../shared/state";
import { type Chart, escaped } from "./chart";
import type { Engine } from "./engine";
import type { MapView } from "./mapview";
import { CURVES, landscapeAddress, pathAddress, saved } from "./programs";
import type { Stored } from "./stored";
import { type Catalogue, label, type LandscapeInfo, type Scene } from "./scene";

export interface ExportHost {
  scene: Scene;
  place: LandscapeInfo;
  catalogue: Catalogue;
  engine: Engine;
  map: MapView;
  loss: Chart;
  address(): Promise<string>;
  /** show a step and draw at once */
  show(step: number): void;
  say(words: string): void;
  /** show the paths of a file, or none */
  open(file: File | null): Promise<Stored[]>;
}

function literal(value: number): string {
  return Number.isFinite(value) ? String(value) : `float("${value > 0 ? "inf" : Number.isNaN(value) ? "nan" : "-inf"}")`;
}

/** Python that computes the scene's paths with the same engine. */
export function python(scene: Scene, catalogue: Catalogue, place: LandscapeInfo): string {
  const lines = ["from stepscope import simulate", "", "paths = {"];
  const start = `(${scene.start.map(literal).join(", ")}${scene.start.length === 1 ? "," : ""})`;
  scene.methods.forEach((method, k) => {
    const rule = catalogue.rules.find((r) => r.name === method.rule)!;
    const numbers = rule.hyper.filter((h) => method.hyper[h.name] !== h.default).map((h) => `${h.name}=${literal(method.hyper[h.name]!)}`);
    const params = Object.entries(place.params).filter(([name, first]) => (scene.params[name] ?? first) !== first).map(([name]) => `${name}=${literal(scene.params[name]!)}`);
    const noise = scene.noise === "none" ? [] : [`noise="${scene.noise}"`, `sigma=${literal(scene.sigma)}`, `seed=${scene.seed}`];
    const every = Math.max(1, Math.ceil(scene.steps / 20000));
    const more = [`start=${start}`, `steps=${scene.steps}`, ...(every > 1 ? [`every=${every}`] : []), ...noise, ...params, ...numbers];
    lines.push(`    ${JSON.stringify(label(scene.methods, k))}: simulate.run(${JSON.stringify(method.rule)}, ${JSON.stringify(scene.landscape)}, ${more.join(", ")}),`);
  });
  lines.push("}", "for name, path in paths.items():", '    print(f"{name}: loss {path.loss[-1]:.6g} at {path.theta[-1]}")', "");
  return lines.join("\n");
}

/** Every recorded step of every method with all its columns. */
export function table(host: ExportHost): string {
  const { scene, place, engine } = host;
  const columns = [...new Set(engine.paths.flatMap((path) => path.program.columns))];
  const named = columns.map((c) => c.replace(/\.(\d+)$/, (_, i: string) => `.${place.variables[Number(i)]}`));
  const lines = [["method", "step", ...named].join(",")];
  engine.paths.forEach((path, k) => {
    const { steps, values } = path.columns(columns, Number.POSITIVE_INFINITY);
    const name = `"${label(scene.methods, k).replaceAll('"', '""')}"`;
    for (let row = 0; row < steps.length; row++) lines.push([name, steps[row], ...values.map((v) => (Number.isNaN(v[row]!) ? "" : v[row]))].join(","));
  });
  return `${lines.join("\n")}\n`;
}

/** A picture of the map with the loss chart below it, twice as fine as on the screen. */
export function picture(host: ExportHost): HTMLCanvasElement {
  const width = 900;
  const height = 640;
  const out = el("canvas", { width: 2 * width, height: 2 * height });
  const c = out.getContext("2d")!;
  c.scale(2, 2);
  c.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--surface");
  c.fillRect(0, 0, width, height);
  host.map.paint(c, width, height);
  return out;
}

/** A film of the map from the first step to the last, as the browser can record it. */
export async function film(host: ExportHost, seconds = 6): Promise<Blob> {
  const kind = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm", "video/mp4"].find((one) => MediaRecorder.isTypeSupported(one));
  if (!kind) throw new Error("this browser records no film");
  const canvas = host.map.canvas;
  const recorder = new MediaRecorder(canvas.captureStream(30), { mimeType: kind, videoBitsPerSecond: 4_000_000 });
  const parts: Blob[] = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  const ended = new Promise<void>((done) => (recorder.onstop = () => done()));
  const before = host.scene.at;
  recorder.start();
  const begun = performance.now();
  for (;;) {
    const f = Math.min(1, (performance.now() - begun) / (1000 * seconds));
    host.show(Math.round(host.scene.steps * f ** 1.5));
    await new Promise((next) => requestAnimationFrame(next));
    if (f >= 1) break;
  }
  recorder.stop();
  await ended;
  host.show(before);
  return new Blob(parts, { type: kind.split(";")[0]! });
}

// Unpacks the page that is packed into a saved file, and starts it.
const UNPACK = `
(async () => {
  const say = (words) => (document.getElementById("app").textContent = words);
  if (!window.DecompressionStream) return say("This page needs a browser of 2023 or later.");
  const bytes = Uint8Array.from(atob(document.getElementById("packed").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const parts = JSON.parse(await new Response(stream).text());
  for (const [tag, type, text] of parts) {
    const one = document.createElement(tag);
    if (type) one.type = type;
    one.textContent = text;
    document.head.append(one);
  }
})();
`;

/** This page with this scene and its programs, as one file that asks nobody. */
export async function standalone(scene: Scene, place: LandscapeInfo, catalogue: Catalogue): Promise<string> {
  const text = async (address: string) => {
    const response = await fetch(address);
    if (!response.ok) throw new Error(`${address}: ${response.status}`);
    return response.text();
  };
  const addresses = [...new Set([CURVES, landscapeAddress(scene.landscape), ...scene.methods.map((one) => pathAddress(one.rule, scene.landscape, scene.noise))])];
  const [script, style, ...programs] = await Promise.all(["/static/play.js", "/static/play.css", ...addresses].map(text));
  const data = JSON.stringify;
  const makers = addresses.map((address, k) => `${data(address)}: ${programs[k]!.replace(/^export default /, "").trim().replace(/;$/, "")}`);
  const kept = { rules: catalogue.rules.filter((rule) => scene.methods.some((one) => one.rule === rule.name)), landscapes: catalogue.landscapes.filter((one) => one.name === scene.landscape) };
  const held = `window.stepscopeSaved = { scene: ${data(scene)}, catalogue: ${data(kept)}, landscapes: ${data({ [scene.landscape]: place })}, programs: {\n${makers.join(",\n")}\n} };`;
  const packed = await deflated(data([["style", "", style], ["script", "", held], ["script", "module", script]]));
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; media-src blob:">
<meta name="color-scheme" content="light dark"><title>stepscope: ${escaped(scene.landscape)}</title></head>
<body><noscript>This page computes in the browser and needs JavaScript.</noscript><div id="app"></div>
<script type="text/plain" id="packed">${packed}</script>
<script>${UNPACK}</script>
</body></html>
`;
}

/** The buttons, and a box for what a browser does not let a page copy. */
export function exportsPanel(host: ExportHost): HTMLElement {
  const box = el("textarea", { id: "copied", class: "copied hidden", rows: 8, readonly: true, "aria-label": "Copied text" });
  const copy = async (text: string, what: string) => {
    box.classList.remove("hidden");
    box.value = text;
    try {
      await navigator.clipboard.writeText(text);
      host.say(`${what} copied`);
    } catch {
      box.select();
      host.say(`${what}: copy it from the box`);
    }
  };
  const button = (id: string, words: string, does: () => unknown) =>
    el("button", {
      type: "button", id,
      onclick: async () => {
        try {
          await does();
        } catch (error) {
          host.say(error instanceof Error ? error.message : String(error));
        }
      },
    }, words);
  const file = el("input", { type: "file", id: "open-csv", accept: ".csv,text/csv", "aria-label": "Show the paths of a CSV file" });
  const none = button("close-csv", "Hide the file's paths", async () => {
    await host.open(null);
    none.classList.add("hidden");
    host.say("");
  });
  none.classList.add("hidden");
  file.addEventListener("change", () => {
    const chosen = file.files?.[0];
    if (!chosen) return;
    host.open(chosen).then(
      (found) => {
        host.say(`shown beside: ${found.map((one) => one.name).join(", ")}`);
        none.classList.remove("hidden");
      },
      (error: unknown) => host.say(error instanceof Error ? error.message : String(error)),
    );
    file.value = ""; // the same file may be opened again
  });
  return el(
    "section",
    { class: "panel exports", "aria-labelledby": "exports-title" },
    el("h2", { id: "exports-title" }, "Share and export"),
    el(
      "div",
      { class: "row" },
      button("copy-link", "Copy link", async () => copy(await host.address(), "link")),
      button("copy-python", "Copy as Python", () => copy(python(host.scene, host.catalogue, host.place), "Python")),
      button("save-png", "PNG", () => picture(host).toBlob((blob) => blob && download("stepscope.png", blob))),
      button("save-svg", "SVG map", () => download("stepscope-map.svg", host.map.svg(), "image/svg+xml")),
      button("save-loss", "SVG losses", () => download("stepscope-loss.svg", host.loss.svg(), "image/svg+xml")),
      button("save-csv", "CSV", () => download("stepscope.csv", table(host), "text/csv")),
      button("save-film", "WebM", async () => {
        host.say("recording …");
        const blob = await film(host);
        download(`stepscope.${blob.type.includes("mp4") ? "mp4" : "webm"}`, blob);
        host.say("recorded");
      }),
      el("label", { class: "button" }, "Open CSV", file),
      none,
      saved ? null : button("save-html", "HTML page", async () => download("stepscope.html", await standalone(host.scene, host.place, host.catalogue), "text/html")),
    ),
    box,
  );
}
