// A number with a slider and an exact field; both always show the same value.

import { el } from "../shared/dom";
import type { HyperInfo } from "./scene";

export interface Scale {
  to: (value: number) => number;
  from: (position: number) => number;
}

const clamp = (v: number) => Math.min(1, Math.max(0, v));

/** Even factors between two positive numbers; 0 at the lower end if `zero`. */
export function logScale(low: number, high: number, zero = false): Scale {
  const span = Math.log(high / low);
  return {
    to: (v) => (v <= 0 ? 0 : clamp(Math.log(v / low) / span)),
    from: (p) => (zero && p <= 0 ? 0 : low * Math.exp(p * span)),
  };
}

export function linearScale(low: number, high: number): Scale {
  return { to: (v) => clamp((v - low) / (high - low)), from: (p) => low + p * (high - low) };
}

/** For decay rates: even factors of 1 - beta, from beta = 0 to 1 - 10^-5. */
export const decayScale: Scale = {
  to: (v) => clamp(-Math.log10(Math.max(1e-5, 1 - v)) / 5),
  from: (p) => 1 - 10 ** (-5 * p),
};

/** The scale that suits a hyper-parameter. */
export function scaleOf(info: HyperInfo): Scale {
  if (info.name === "lr") return logScale(1e-6, 10);
  if (info.name === "eps") return logScale(1e-16, 1, true);
  if (info.name === "dampening") return linearScale(0, 1);
  if (info.high === 1 || info.name === "momentum") return decayScale;
  return logScale(1e-8, 1, true);
}

/** Three digits: what a slider gives. */
function tidy(value: number): number {
  if (value > 0.9 && value < 1) return 1 - Number((1 - value).toPrecision(2));
  return Number(value.toPrecision(3));
}

export interface NumberField {
  root: HTMLElement;
  set(value: number): void;
}

let count = 0;

/** `changed` gets each new value; `check` says what is wrong with one, or "". */
export function numberField(
  name: string,
  value: number,
  scale: Scale | null,
  changed: (value: number) => void,
  check: (value: number) => string = () => "",
  extra: Record<string, unknown> = {},
): NumberField {
  const id = String(extra.id ?? `f${++count}`);
  const problem = el("span", { class: "error", id: `${id}-problem`, role: "alert" });
  const text = (v: number) => String(Number(v.toPrecision(15)));
  const exact = el("input", { type: "text", inputmode: "decimal", value: text(value), "aria-describedby": `${id}-problem`, autocomplete: "off", ...extra, id });
  const slider = scale
    ? el("input", { type: "range", min: 0, max: 1000, step: 1, "aria-label": `${name} (slider)`, "aria-valuetext": text(value), tabindex: 0 })
    : null;
  const show = (v: number) => {
    if (slider && scale) {
      slider.value = String(Math.round(1000 * scale.to(v)));
      slider.setAttribute("aria-valuetext", text(v));
    }
  };
  if (slider && scale) {
    slider.addEventListener("input", () => {
      const v = tidy(scale.from(Number(slider.value) / 1000));
      exact.value = text(v);
      slider.setAttribute("aria-valuetext", text(v));
      problem.textContent = check(v);
      if (!problem.textContent) changed(v);
    });
  }
  exact.addEventListener("input", () => {
    const v = Number(exact.value.replace(",", "."));
    const wrong = exact.value.trim() === "" || !Number.isFinite(v) ? "a number is needed" : check(v);
    problem.textContent = wrong;
    exact.setAttribute("aria-invalid", wrong ? "true" : "false");
    if (wrong) return;
    show(v);
    changed(v);
  });
  show(value);
  const root = el("div", { class: slider ? "field" : "field narrow" }, el("label", { for: id }, name), slider, exact, problem);
  return {
    root,
    set(v) {
      if (document.activeElement !== exact) exact.value = text(v);
      show(v);
    },
  };
}
