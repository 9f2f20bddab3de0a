// The keyboard: `/` to search, `g` and a letter to go to a page, `?` for what there is.

import { go } from "./router";

export const PLACES: Record<string, string> = {
  o: "overview",
  p: "pipeline",
  t: "tags",
  l: "tail",
  s: "sources",
  r: "rules",
  d: "discovery",
  b: "store",
  c: "certificates",
  h: "history",
  x: "diagnostics",
  u: "users",
  y: "targets",
};

const typing = (target: EventTarget | null): boolean =>
  target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));

export function listen(help: () => void): () => void {
  let armed = 0;
  const pressed = (event: KeyboardEvent): void => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && typing(event.target)) {
      (event.target as HTMLElement).blur();
      return;
    }
    if (typing(event.target) || document.querySelector("dialog[open]")) return;
    if (event.key === "/") {
      const search = document.querySelector<HTMLElement>("[data-search]");
      if (search) {
        event.preventDefault();
        search.focus();
      } else go("tags", [], { focus: "search" });
    } else if (event.key === "?") help();
    else if (event.key === "g") armed = Date.now();
    else if (Date.now() - armed < 1200) {
      const page = PLACES[event.key];
      armed = 0;
      if (page) go(page);
    }
  };
  document.addEventListener("keydown", pressed);
  return () => document.removeEventListener("keydown", pressed);
}
