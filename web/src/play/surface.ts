// The landscape as a surface of log loss, with the paths on it, in WebGL2. Each path is drawn twice: faintly where the
// surface hides it, and over that where it does not. Without a graphics card the processor draws it: coarser, and no
// more often than leaves time for everything else.

import { begin } from "../shared/busy";
import { colour, el, rgb } from "../shared/dom";
import { onTheme } from "../shared/theme";
import type { Path } from "./engine";
import { type Field, shade } from "./field";
import { look } from "./look";
import type { LandscapeFunctions } from "./programs";
import type { Scene } from "./scene";

const SURFACE = {
  vertex: `#version 300 es
in vec3 p; in vec3 n; in vec3 c; uniform mat4 m; out vec3 colour; out float light; out float h;
void main() { gl_Position = m * vec4(p, 1.0); colour = c; h = p.z; light = 0.72 + 0.28 * abs(dot(normalize(n), normalize(vec3(-0.5, 0.4, 1.0)))); }`,
  fragment: `#version 300 es
precision mediump float; in vec3 colour; in float light; in float h; uniform vec3 ink; out vec4 o;
void main() { float s = h * 16.0; float w = fwidth(s); float line = 1.0 - smoothstep(0.0, 1.4 * w, abs(fract(s) - 0.5)); o = vec4(mix(colour * light, ink, 0.38 * line), 1.0); }`,
};
const PATH = {
  vertex: `#version 300 es
in vec3 a; in vec3 b; in vec2 side; uniform mat4 m; uniform vec2 size; uniform float width;
void main() {
  vec4 p = m * vec4(a, 1.0), q = m * vec4(b, 1.0);
  vec2 d = (q.xy / q.w - p.xy / p.w) * size; float l = length(d); d = l > 1e-6 ? d / l : vec2(1.0, 0.0);
  vec4 at = side.x < 0.5 ? p : q; at.xy += vec2(-d.y, d.x) * side.y * width / size * at.w; at.xy += d * (side.x - 0.5) * width / size * at.w;
  at.z -= 0.0025 * at.w; gl_Position = at; }`,
  fragment: `#version 300 es
precision mediump float; uniform vec4 c; out vec4 o; void main() { o = vec4(c.rgb * c.a, c.a); }`,
};

const HEIGHT = 0.62;

function shaders(gl: WebGL2RenderingContext, source: { vertex: string; fragment: string }): WebGLProgram {
  const program = gl.createProgram()!;
  for (const [kind, text] of [[gl.VERTEX_SHADER, source.vertex], [gl.FRAGMENT_SHADER, source.fragment]] as const) {
    const one = gl.createShader(kind)!;
    gl.shaderSource(one, text);
    gl.compileShader(one);
    gl.attachShader(program, one);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(gl.getProgramInfoLog(program) ?? "shader");
  return program;
}

function light(css: string): [number, number, number] {
  return rgb(css).map((v) => v / 255) as [number, number, number];
}

interface Ribbon {
  buffer: WebGLBuffer;
  segments: number;
  /** of each point */
  steps: number[];
  path: Path;
  count: number;
  field: Field;
}

export class Surface {
  readonly root: HTMLElement;
  readonly canvas: HTMLCanvasElement;
  private gl: WebGL2RenderingContext | null = null;
  private asked = false;
  private readonly note = el("p", { class: "soft surface-note" });
  private surface: WebGLProgram | null = null;
  private path: WebGLProgram | null = null;
  private mesh: { buffer: WebGLBuffer; index: WebGLBuffer; count: number; of: Field } | null = null;
  private ribbons: Ribbon[] = [];
  private slow = false;
  private rest = 0; // milliseconds between two pictures
  private last = 0;
  private turn = { azimuth: -0.7, height: 0.75, distance: 2.55 };
  private wanted = false;
  private input: { field: Field; scene: Scene; paths: Path[]; functions: LandscapeFunctions } | null = null;

  constructor() {
    this.canvas = el("canvas", {
      id: "surface", class: "surface", tabindex: 0, role: "application",
      "aria-label": "The landscape as a surface. Arrow keys turn it; plus and minus zoom.",
    });
    this.root = el("div", { class: "surface-box" }, this.canvas, this.note);
    this.canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    this.canvas.addEventListener("webglcontextrestored", () => {
      this.mesh = null;
      this.ribbons = [];
      this.start();
      this.draw();
    });
    onTheme(() => {
      this.mesh = null;
      this.draw();
    });
    this.controls();
  }

  private start(): void {
    const gl = this.gl!;
    this.surface = shaders(gl, SURFACE);
    this.path = shaders(gl, PATH);
    gl.enable(gl.DEPTH_TEST);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  show(input: Surface["input"]): void {
    this.input = input;
    this.draw();
  }

  /** At most once a frame. The first time later: starting 3-D takes a while, and the map is there already. */
  draw(): void {
    if (this.wanted) return;
    this.wanted = true;
    const shown = begin();
    const go = () =>
      requestAnimationFrame(() => {
        this.wanted = false;
        this.render();
        shown();
      });
    const wait = this.last + this.rest - performance.now();
    if (this.asked && wait > 0) setTimeout(go, wait);
    else if (this.asked) go();
    else {
      setTimeout(() => {
        this.asked = true;
        const wish = { alpha: false, preserveDrawingBuffer: true };
        this.gl = this.canvas.getContext("webgl2", { ...wish, antialias: true, failIfMajorPerformanceCaveat: true });
        if (!this.gl) {
          this.gl = this.canvas.getContext("webgl2", { ...wish, antialias: false });
          this.slow = this.gl !== null;
        }
        if (this.gl) this.start();
        else {
          this.note.textContent = "This browser shows no 3-D graphics (WebGL 2); the map shows the same.";
          this.root.classList.add("none");
        }
        go();
      }, 30);
    }
  }

  private build(): void {
    const gl = this.gl!;
    const { field: f } = this.input!;
    if (this.mesh?.of === f) return;
    const n = f.n;
    const data = new Float32Array(n * n * 9);
    const colours = shade(f.height, 3);
    const z = (i: number, j: number) => {
      const h = f.height[Math.min(n - 1, Math.max(0, j)) * n + Math.min(n - 1, Math.max(0, i))]!;
      return Number.isNaN(h) ? HEIGHT : h * HEIGHT;
    };
    for (let j = 0; j < n; j++) {
      for (let i = 0; i < n; i++) {
        const k = 3 * (j * n + i);
        const slope = [(z(i - 1, j) - z(i + 1, j)) * (n / 4), (z(i, j - 1) - z(i, j + 1)) * (n / 4)];
        data.set([(2 * i) / (n - 1) - 1, (2 * j) / (n - 1) - 1, z(i, j), slope[0]!, slope[1]!, 1, colours[k]! / 255, colours[k + 1]! / 255, colours[k + 2]! / 255], 9 * (j * n + i));
      }
    }
    const index = new Uint32Array(6 * (n - 1) * (n - 1));
    let k = 0;
    for (let j = 0; j < n - 1; j++) {
      for (let i = 0; i < n - 1; i++) {
        const a = j * n + i;
        index.set([a, a + 1, a + n, a + 1, a + n + 1, a + n], k);
        k += 6;
      }
    }
    if (this.mesh) {
      gl.deleteBuffer(this.mesh.buffer);
      gl.deleteBuffer(this.mesh.index);
    }
    this.mesh = { buffer: gl.createBuffer()!, index: gl.createBuffer()!, count: index.length, of: f };
    gl.bindBuffer(gl.ARRAY_BUFFER, this.mesh.buffer);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.mesh.index);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, index, gl.STATIC_DRAW);
  }

  /** The path's points in the box of the surface, thinned where they coincide, and the steps they are reached at. */
  private points(path: Path): { points: number[]; steps: number[] } {
    const { field: f, scene } = this.input!;
    const [[x0, x1], [y0, y1]] = f.box as [[number, number], [number, number]];
    const [i, j] = scene.plane;
    const points: number[] = [];
    const steps: number[] = [];
    let last = [9, 9];
    for (let row = 0; row < path.count; row++) {
      const x = (2 * (path.theta(row, i) - x0)) / (x1 - x0) - 1;
      const y = (2 * (path.theta(row, j) - y0)) / (y1 - y0) - 1;
      if (!(Math.abs(x) < 4 && Math.abs(y) < 4)) break;
      if (Math.hypot(x - last[0]!, y - last[1]!) > 0.004) {
        const out = Math.abs(x) > 1 || Math.abs(y) > 1;
        const h = out ? Number.NaN : f.level(path.loss(row)) * HEIGHT + 0.004;
        points.push(x, y, h);
        steps.push(path.stepOf(row));
        last = [x, y];
      }
    }
    return { points, steps };
  }

  /** Two triangles a segment; made again only where the path or the map has changed. */
  private ribbon(path: Path, before: Ribbon | undefined): Ribbon {
    const gl = this.gl!;
    const { field } = this.input!;
    if (before && before.path === path && before.count === path.count && before.field === field) return before;
    if (before) gl.deleteBuffer(before.buffer);
    const { points, steps } = this.points(path);
    const segments = Math.max(0, points.length / 3 - 1);
    const data = new Float32Array(segments * 6 * 8);
    const sides = [[0, -1], [1, -1], [1, 1], [0, -1], [1, 1], [0, 1]];
    for (let s = 0; s < segments; s++) {
      for (let v = 0; v < 6; v++) {
        const to = 8 * (6 * s + v);
        for (let c = 0; c < 6; c++) data[to + c] = points[3 * s + c]!;
        data.set(sides[v]!, to + 6);
      }
    }
    const buffer = gl.createBuffer()!;
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
    return { buffer, segments, steps, path, count: path.count, field };
  }

  private matrix(aspect: number): Float32Array {
    const { azimuth, height, distance } = this.turn;
    const eye = [distance * Math.cos(height) * Math.sin(azimuth), -distance * Math.cos(height) * Math.cos(azimuth), distance * Math.sin(height) + 0.2];
    const target = [0, 0, 0.2];
    const unit = (v: number[]) => v.map((c) => c / Math.hypot(...v));
    const cross = (a: number[], b: number[]) => [a[1]! * b[2]! - a[2]! * b[1]!, a[2]! * b[0]! - a[0]! * b[2]!, a[0]! * b[1]! - a[1]! * b[0]!];
    const dot = (a: number[], b: number[]) => a[0]! * b[0]! + a[1]! * b[1]! + a[2]! * b[2]!;
    const z = unit(eye.map((e, k) => e - target[k]!));
    const x = unit(cross([0, 0, 1], z));
    const y = cross(z, x);
    const f = 1.55;
    const [near, far] = [0.1, 20];
    const view = [x, y, z];
    const shift = view.map((axis) => -dot(axis, eye));
    const a = (far + near) / (near - far);
    const b = (2 * far * near) / (near - far);
    const sx = f / Math.max(1, aspect);
    const sy = f * Math.min(1, aspect);
    const out = new Float32Array(16);
    for (let c = 0; c < 3; c++) {
      out[4 * c] = sx * x[c]!;
      out[4 * c + 1] = sy * y[c]!;
      out[4 * c + 2] = a * z[c]!;
      out[4 * c + 3] = -z[c]!;
    }
    out[12] = sx * shift[0]!;
    out[13] = sy * shift[1]!;
    out[14] = a * shift[2]! + b;
    out[15] = -shift[2]!;
    return out;
  }

  render(): void {
    const gl = this.gl;
    if (!gl || gl.isContextLost() || !this.input || !this.surface || !this.path || !this.canvas.clientWidth) return;
    const begun = performance.now();
    const scale = this.slow ? 0.6 : Math.min(2, window.devicePixelRatio || 1);
    const width = Math.round(this.canvas.clientWidth * scale);
    const height = Math.round(this.canvas.clientHeight * scale);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    this.build();
    const { paths, scene } = this.input;
    for (const one of this.ribbons.splice(paths.length)) gl.deleteBuffer(one.buffer);
    this.ribbons = paths.map((path, k) => this.ribbon(path, this.ribbons[k]));
    gl.viewport(0, 0, width, height);
    const [r, g, b] = light(colour("--surface"));
    gl.clearColor(r, g, b, 1);
    gl.depthMask(true);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const m = this.matrix(width / height);
    gl.useProgram(this.surface);
    gl.disable(gl.BLEND);
    gl.depthFunc(gl.LESS);
    gl.uniformMatrix4fv(gl.getUniformLocation(this.surface, "m"), false, m);
    gl.uniform3fv(gl.getUniformLocation(this.surface, "ink"), light(colour("--soft")));
    gl.bindBuffer(gl.ARRAY_BUFFER, this.mesh!.buffer);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.mesh!.index);
    this.attributes(this.surface, [["p", 3, 0], ["n", 3, 12], ["c", 3, 24]], 36);
    gl.drawElements(gl.TRIANGLES, this.mesh!.count, gl.UNSIGNED_INT, 0);
    gl.useProgram(this.path);
    gl.enable(gl.BLEND);
    gl.depthMask(false);
    gl.uniformMatrix4fv(gl.getUniformLocation(this.path, "m"), false, m);
    gl.uniform2f(gl.getUniformLocation(this.path, "size"), width, height);
    for (const hidden of [true, false]) {
      gl.depthFunc(hidden ? gl.GREATER : gl.LEQUAL);
      for (const [k, one] of this.ribbons.entries()) {
        gl.bindBuffer(gl.ARRAY_BUFFER, one.buffer);
        this.attributes(this.path, [["a", 3, 0], ["b", 3, 12], ["side", 2, 24]], 32);
        gl.uniform1f(gl.getUniformLocation(this.path, "width"), (hidden ? 2.6 : 3.6) * scale);
        gl.uniform4f(gl.getUniformLocation(this.path, "c"), ...light(look(k).colour), hidden ? 0.35 : 1);
        const later = one.steps.findIndex((step) => step > scene.at);
        const shown = later < 0 ? one.segments : Math.max(0, later - 1);
        if (shown) gl.drawArrays(gl.TRIANGLES, 0, shown * 6);
        gl.uniform4f(gl.getUniformLocation(this.path, "c"), ...light(look(k).colour), hidden ? 0.12 : 0.25);
        if (one.segments > shown) gl.drawArrays(gl.TRIANGLES, shown * 6, (one.segments - shown) * 6);
      }
    }
    if (!this.slow) return;
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4)); // waits until it is drawn
    this.last = performance.now();
    this.rest = Math.min(2000, 3 * (this.last - begun));
  }

  private attributes(program: WebGLProgram, list: [string, number, number][], stride: number): void {
    const gl = this.gl!;
    for (let k = 0; k < 4; k++) gl.disableVertexAttribArray(k);
    for (const [name, size, offset] of list) {
      const at = gl.getAttribLocation(program, name);
      if (at < 0) continue;
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, size, gl.FLOAT, false, stride, offset);
    }
  }

  private rotate(dx: number, dy: number): void {
    this.turn.azimuth -= dx;
    this.turn.height = Math.min(1.5, Math.max(0.05, this.turn.height + dy));
    this.canvas.dataset.turn = `${this.turn.azimuth.toFixed(3)} ${this.turn.height.toFixed(3)} ${this.turn.distance.toFixed(3)}`;
    this.draw();
  }

  private zoom(factor: number): void {
    this.turn.distance = Math.min(6, Math.max(1.2, this.turn.distance * factor));
    this.rotate(0, 0);
  }

  private controls(): void {
    const touches = new Map<number, [number, number]>();
    this.canvas.style.touchAction = "none";
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      touches.set(event.pointerId, [event.clientX, event.clientY]);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const before = touches.get(event.pointerId);
      if (!before) return;
      if (touches.size === 2) {
        const [a, b] = [...touches.values()] as [[number, number], [number, number]];
        const gap = Math.hypot(a[0] - b[0], a[1] - b[1]);
        touches.set(event.pointerId, [event.clientX, event.clientY]);
        const [u, v] = [...touches.values()] as [[number, number], [number, number]];
        const now = Math.hypot(u[0] - v[0], u[1] - v[1]);
        if (gap > 5 && now > 5) this.zoom(gap / now);
        return;
      }
      touches.set(event.pointerId, [event.clientX, event.clientY]);
      this.rotate((event.clientX - before[0]) * 0.008, (event.clientY - before[1]) * 0.006);
    });
    for (const kind of ["pointerup", "pointercancel"] as const) this.canvas.addEventListener(kind, (event) => touches.delete(event.pointerId));
    this.canvas.addEventListener(
      "wheel",
      (event) => {
        if (!(event.ctrlKey || event.metaKey || document.activeElement === this.canvas)) return;
        event.preventDefault();
        this.zoom(Math.exp(Math.sign(event.deltaY) * 0.12));
      },
      { passive: false },
    );
    this.canvas.addEventListener("keydown", (event) => {
      const does: Record<string, () => void> = {
        ArrowLeft: () => this.rotate(-0.12, 0), ArrowRight: () => this.rotate(0.12, 0), ArrowUp: () => this.rotate(0, 0.08), ArrowDown: () => this.rotate(0, -0.08),
        "+": () => this.zoom(0.85), "=": () => this.zoom(0.85), "-": () => this.zoom(1 / 0.85),
      };
      const f = does[event.key];
      if (!f || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      f();
    });
  }
}
