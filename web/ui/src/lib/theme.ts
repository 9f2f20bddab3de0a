import { Cell } from "./store";

export type Theme = "system" | "light" | "dark";
const KEY = "bifrost-theme";

function stored(): Theme {
  try {
    const kept = localStorage.getItem(KEY);
    return kept === "light" || kept === "dark" ? kept : "system";
  } catch {
    return "system";
  }
}

export const theme = new Cell<Theme>(stored());

export function setTheme(next: Theme): void {
  theme.write(next);
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // a browser without storage keeps it for this page
  }
  apply();
}

export function apply(): void {
  const now = theme.read();
  if (now === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = now;
}
