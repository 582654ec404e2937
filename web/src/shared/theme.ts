// Light, dark, or what the system prefers: remembered per browser, told to whoever draws on a canvas.

import { el, forgetColours } from "./dom";

type Theme = "system" | "light" | "dark";
const KEY = "stepscope-theme";
const listeners = new Set<() => void>();

function stored(): Theme {
  try {
    const value = localStorage.getItem(KEY);
    return value === "light" || value === "dark" ? value : "system";
  } catch {
    return "system"; // a page opened from a file may have no storage
  }
}

function apply(theme: Theme): void {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  forgetColours();
  for (const f of listeners) f();
}

const night = matchMedia("(prefers-color-scheme: dark)");

/** Whether the page is dark now. */
export function dark(): boolean {
  const forced = document.documentElement.dataset.theme;
  return forced ? forced === "dark" : night.matches;
}

/** Calls f whenever the colours change. */
export function onTheme(f: () => void): void {
  listeners.add(f);
}

/** A button that goes round system, light, dark. */
export function themeButton(): HTMLButtonElement {
  let theme = stored();
  apply(theme);
  night.addEventListener("change", () => apply(theme));
  const button = el("button", { id: "theme", type: "button" });
  const show = () => {
    button.textContent = { system: "◐ auto", light: "☀ light", dark: "☾ dark" }[theme];
    button.setAttribute("aria-label", `Colours: ${theme}`);
  };
  button.addEventListener("click", () => {
    theme = theme === "system" ? "light" : theme === "light" ? "dark" : "system";
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // not remembered
    }
    apply(theme);
    show();
  });
  show();
  return button;
}
