import type { Applied } from "../api/types";
import { duration } from "./format";

/** What became of a change, as the end of a sentence. */
export function made(done: Applied): string {
  const number = done.number === null ? "" : ` as configuration ${done.number}`;
  const later = done.next_start.length ? ` From the next start on: ${done.next_start.join(", ")}.` : "";
  return `${number} and in effect after ${duration(done.took)}.${later}`;
}
