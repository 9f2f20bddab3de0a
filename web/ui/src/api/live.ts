// What the gateway tells by itself: one event stream for the page that is seen, with the topics that it shows.

import type { Status, Tag } from "./types";
import { Cell } from "../lib/store";
import { address, get } from "./client";

export interface Point {
  at: number; // ms
  rate: number;
}
export type Link = "live" | "waiting" | "polling";

export const status = new Cell<Status | undefined>(undefined);
export const link = new Cell<Link>("waiting");
/** When something came from the gateway last, ms. */
export const heard = new Cell<number>(0);

const KEPT = 120;
/** Readings per second of each source and target over the last minutes, by `source:name` and `target:name`. */
export const rates = new Cell<Record<string, Point[]>>({});
let before: { at: number; counts: Record<string, number> } | undefined;

function counts(now: Status): Record<string, number> {
  return Object.fromEntries([
    ...Object.entries(now.sources).map(([name, source]) => [`source:${name}`, source.received]),
    ...Object.entries(now.targets).map(([name, target]) => [`target:${name}`, target.delivered]),
  ]) as Record<string, number>;
}

export function take(now: Status): void {
  const at = Date.now();
  status.write(now);
  heard.write(at);
  if (before && at - before.at < 900) return;
  const counted = counts(now);
  if (now.rates) {
    // the gateway's own figures are over its own clock
    const next: Record<string, Point[]> = {};
    for (const [kind, byName] of Object.entries(now.rates)) {
      for (const [name, one] of Object.entries(byName)) {
        if (one !== null) next[`${kind}:${name}`] = [...(rates.read()[`${kind}:${name}`] ?? []).slice(1 - KEPT), { at, rate: one }];
      }
    }
    rates.write(next);
    before = { at, counts: counted };
    return;
  }
  if (before) {
    const seconds = (at - before.at) / 1000;
    const next: Record<string, Point[]> = {};
    for (const [key, n] of Object.entries(counted)) {
      const was = before.counts[key];
      const past = rates.read()[key] ?? [];
      next[key] = was === undefined || n < was ? past : [...past.slice(1 - KEPT), { at, rate: (n - was) / seconds }];
    }
    rates.write(next);
  }
  before = { at, counts: counted };
}

/** The mean rate of the last seconds. */
export function rateOf(points: Point[] | undefined, seconds = 10): number | null {
  const last = points?.at(-1);
  if (!points || !last) return null;
  const near = points.filter((point) => point.at > last.at - seconds * 1000);
  return near.reduce((sum, point) => sum + point.rate, 0) / near.length;
}

type Tags = (tags: Partial<Tag>[]) => void;
let wanted: { ids: number[]; listener: Tags } | undefined;
let stream: EventSource | undefined;
let asked = "";
let timer = 0;
let poll = 0;
let exclusive = 0;
let running = false;

/** Follow the values of tags until the function that is given back is called. */
export function followTags(ids: number[], listener: Tags): () => void {
  const mine = { ids, listener };
  wanted = mine;
  settle();
  return () => {
    if (wanted === mine) {
      wanted = undefined;
      settle();
    }
  };
}

/** A stream of the page's own takes the place of the common one; how things stand is asked for meanwhile. */
export function ownStream(
  path: string,
  events: Record<string, (data: unknown) => void>,
  told: (state: "open" | "lost") => void = () => undefined,
): () => void {
  exclusive += 1;
  settle();
  const own = new EventSource(address(path), { withCredentials: true });
  own.onopen = () => told("open");
  own.onerror = () => told("lost");
  for (const [name, listener] of Object.entries(events)) {
    own.addEventListener(name, (event) => listener(JSON.parse((event as MessageEvent<string>).data)));
  }
  return () => {
    own.close();
    exclusive -= 1;
    settle();
  };
}

function settle(): void {
  clearTimeout(timer);
  timer = window.setTimeout(connect, 60);
}

function connect(): void {
  if (!running) return;
  const ids = wanted ? [...wanted.ids].sort((a, b) => a - b).slice(0, 500) : [];
  const topics = ["status", ...(ids.length ? [`tags:${ids.join(",")}`] : [])];
  const path = exclusive ? "" : `/api/events?topics=${encodeURIComponent(topics.join(",")).replace(/%2C/g, ",").replace(/%3A/g, ":")}`;
  if (path === asked && stream?.readyState !== EventSource.CLOSED) return;
  stream?.close();
  stream = undefined;
  asked = path;
  clearInterval(poll);
  if (!path) {
    link.write("polling");
    poll = window.setInterval(askStatus, 3000);
    askStatus();
    return;
  }
  const opened = new EventSource(address(path), { withCredentials: true });
  stream = opened;
  opened.onopen = () => link.write("live");
  opened.onerror = () => {
    link.write("waiting");
    if (opened.readyState === EventSource.CLOSED && stream === opened) {
      askStatus(); // tells whether it is the session or the gateway
      asked = "";
      timer = window.setTimeout(connect, 3000);
    }
  };
  opened.addEventListener("status", (event) => take(merged(JSON.parse((event as MessageEvent<string>).data))));
  opened.addEventListener("tags", (event) => {
    heard.write(Date.now());
    const said = JSON.parse((event as MessageEvent<string>).data) as { tags?: Partial<Tag>[] } | Partial<Tag>[];
    wanted?.listener(Array.isArray(said) ? said : (said.tags ?? []));
  });
}

type Said = Partial<Omit<Status, "sources" | "targets" | "kept">> & { whole?: boolean } & Partial<Record<Named, Record<string, unknown>>>;
type Named = "sources" | "targets" | "kept";

/** The first status event says everything, later ones what changed; a source or target that is gone is null. */
function merged(said: Said): Status {
  const known = status.read();
  if (said.whole || !known) return said as Status;
  const next = { ...known, ...said } as Status;
  for (const part of ["sources", "targets", "kept"] as const) {
    const all = { ...known[part], ...said[part] };
    (next as unknown as Record<Named, unknown>)[part] = Object.fromEntries(Object.entries(all).filter(([, one]) => one !== null));
  }
  return next;
}

function askStatus(): void {
  get<Status>("/api/status").then((now) => take({ ...now, rates: undefined }), () => link.write("waiting"));
}

export function start(): void {
  running = true;
  askStatus();
  connect();
}

export function stop(): void {
  running = false;
  stream?.close();
  stream = undefined;
  asked = "";
  clearInterval(poll);
  clearTimeout(timer);
  before = undefined;
  status.write(undefined);
  rates.write({});
}
