// Places are after the `#`: the gateway sees none of them, and a set-up token in one is in no log.

import { Cell, useCell } from "./store";

export interface Place {
  page: string;
  rest: string[];
  query: Record<string, string>;
}

function parse(hash: string): Place {
  const [path = "", asked = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const decode = (part: string): string => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  };
  const [page = "", ...rest] = path.split("/").filter(Boolean).map(decode);
  return { page: page || "overview", rest, query: Object.fromEntries(new URLSearchParams(asked)) };
}

const here = new Cell<Place>(parse(location.hash));
window.addEventListener("hashchange", () => here.write(parse(location.hash)));

export const usePlace = (): Place => useCell(here);

export function href(page: string, rest: string[] = [], query: Record<string, string> = {}): string {
  const asked = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== "")).toString();
  return `#/${[page, ...rest].map(encodeURIComponent).join("/")}${asked ? `?${asked}` : ""}`;
}

export function go(page: string, rest: string[] = [], query: Record<string, string> = {}): void {
  location.hash = href(page, rest, query);
}

/** Change what stands after `?` without a step in the browser's history. */
export function amend(query: Record<string, string>): void {
  const place = here.read();
  const address = href(place.page, place.rest, { ...place.query, ...query });
  if (address === location.hash) return;
  history.replaceState(null, "", address);
  here.write(parse(address));
}
