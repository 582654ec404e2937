// Builds each page into ../src/stepscope/app/static: one HTML, one script, one stylesheet a page, no chunks, so that
// a page can be saved as one file. The playground's page also loads first.js, which Python prints. Writes the fingerprint
// of the sources and of what was built, which a Python test compares.
import { execFileSync } from "node:child_process";
import { rmSync } from "node:fs";
import { resolve } from "node:path";
import { build } from "vite";

const root = import.meta.dirname;
const out = resolve(root, "../src/stepscope/app/static");
const first = {
  name: "first",
  transformIndexHtml: { order: "post", handler: (html) => html.replace("<script ", '<script defer src="/static/first.js"></script>\n    <script ') },
};
rmSync(out, { recursive: true, force: true });
for (const page of ["play", "watch"]) {
  await build({
    root,
    base: "/static/",
    configFile: false,
    logLevel: "warn",
    plugins: page === "play" ? [first] : [],
    build: {
      outDir: out,
      emptyOutDir: false,
      assetsInlineLimit: 0,
      modulePreload: false,
      reportCompressedSize: false,
      target: "es2022",
      rollupOptions: {
        input: resolve(root, `${page}.html`),
        output: { entryFileNames: `${page}.js`, assetFileNames: "[name][extname]", codeSplitting: false },
      },
    },
  });
}
const python = (...what) => execFileSync(process.env.PYTHON ?? "python3", what, { stdio: "inherit" });
python("-m", "stepscope.app.first");
python(resolve(root, "fingerprint.py"), "--write");
