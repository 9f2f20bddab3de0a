// Figures as people read them: short, with their unit, never wider than they must be.

import type { Value } from "../api/types";

export const NONE = "–";
const GROUPED = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });

export function count(n: number | null | undefined): string {
  if (n === null || n === undefined) return NONE;
  if (Math.abs(n) >= 10_000_000) return `${short(n / 1_000_000)} M`;
  return GROUPED.format(n);
}

function short(n: number): string {
  const size = Math.abs(n);
  return size >= 100 ? n.toFixed(0) : size >= 10 ? n.toFixed(1) : n.toFixed(2);
}

export function rate(perSecond: number | null | undefined): string {
  if (perSecond === null || perSecond === undefined) return NONE;
  if (perSecond === 0) return "0/s";
  if (perSecond < 0.05) return `${short(perSecond * 60)}/min`;
  return `${perSecond >= 1000 ? GROUPED.format(perSecond) : perSecond.toFixed(perSecond >= 100 ? 0 : 1)}/s`;
}

export function bytes(n: number | null | undefined): string {
  if (n === null || n === undefined) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) {
    n /= 1024;
    at += 1;
  }
  return `${at === 0 ? n : short(n)} ${units[at]}`;
}

export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NONE;
  const s = Math.max(0, seconds);
  if (s < 0.001) return "0 s";
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172_800) return `${(s / 3600).toFixed(s < 36_000 ? 1 : 0)} h`;
  return `${Math.round(s / 86_400)} d`;
}

export function value(v: Value | object | undefined): string {
  if (v === null || v === undefined) return NONE;
  if (typeof v === "object") return visible(JSON.stringify(v));
  if (typeof v === "boolean") return v ? "true" : "false";
  if (typeof v === "number") {
    if (Number.isInteger(v)) return String(v);
    const size = Math.abs(v);
    if (size !== 0 && (size < 0.001 || size >= 1e9)) return v.toExponential(3);
    return String(Number(v.toPrecision(6)));
  }
  return visible(v);
}

/** Characters that would change how the text around them reads (controls, direction marks) as their code. */
export function visible(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, (c) => {
    if (c === "\n") return "⏎";
    return `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
}

/** A time that the API gives: ISO 8601, or seconds, or µs since the epoch. */
export function when(time: string | number | null | undefined): Date | null {
  if (time === null || time === undefined || time === "") return null;
  if (typeof time === "string") {
    const parsed = new Date(time);
    return Number.isNaN(parsed.getTime()) ? null : parsed;
  }
  return new Date(time > 1e14 ? time / 1000 : time > 1e11 ? time : time * 1000);
}

const two = (n: number): string => String(n).padStart(2, "0");

export function clock(date: Date | null, fraction = false): string {
  if (!date) return NONE;
  const text = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return fraction ? `${text}.${String(date.getMilliseconds()).padStart(3, "0")}` : text;
}

export function stamp(date: Date | null): string {
  if (!date) return NONE;
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(date)}`;
}

export function age(date: Date | null, now: number): string {
  if (!date) return NONE;
  const seconds = Math.max(0, (now - date.getTime()) / 1000);
  return seconds < 1 ? "<1 s" : duration(seconds < 10 ? Math.floor(seconds) : seconds).replace(".0", "");
}

export function plural(n: number, one: string, many = `${one}s`): string {
  return `${count(n)} ${n === 1 ? one : many}`;
}

/** An object on one line, for the clipboard. */
export function copyable(record: object): string {
  return JSON.stringify(record);
}
