// What is wrong, how bad it is, and what to do next: the worst first.

import type { Health, SourceStatus, Status, TargetStatus } from "../api/types";
import { bytes, count, duration, plural } from "./format";

export interface Finding {
  key: string;
  health: Health;
  subject: string;
  says: string;
  next: string;
  place: [page: string, ...rest: string[]];
}

const RANK: Record<Health, number> = { bad: 0, warn: 1, idle: 2, ok: 3 };
export const worst = (a: Health, b: Health): number => RANK[a] - RANK[b];
const NEXT: Record<string, string> = {
  transient: "Check that it is up and reached from here; the gateway tries again by itself.",
  auth: "Correct its credentials; what waits is sent by itself then.",
  config: "Correct its settings, or what they name at the target; what waits is sent by itself then.",
  capacity: "The target takes no more at the moment; the gateway waits and tries again by itself.",
};
const QUIET = 60; // seconds without a reading that are worth a word

export function sourceHealth(source: SourceStatus, now: number): Health {
  if (source.state === "down") return "bad";
  if (source.state === "connecting") return "warn";
  if (source.state === "stopped") return "idle";
  if (source.protocol === "api") return "ok"; // programs post when they have something
  if (source.last_reading !== null && now / 1000 - source.last_reading > QUIET) return "warn";
  return "ok";
}

export function targetHealth(target: TargetStatus): Health {
  if (target.alarm || target.breaker === "open" || (target.full_in !== null && target.full_in < 3600)) return "bad";
  if (target.last_error || target.breaker === "half_open" || !target.connected) return "warn";
  return "ok";
}

export function fill(target: TargetStatus): number {
  return target.quota_bytes ? target.spool_bytes / target.quota_bytes : 0;
}

export function findings(status: Status, now: number): Finding[] {
  const found: Finding[] = [];
  for (const [name, source] of Object.entries(status.sources)) {
    const health = sourceHealth(source, now);
    if (health === "ok" || health === "idle") continue;
    const quiet = source.last_reading === null ? null : now / 1000 - source.last_reading;
    found.push({
      key: `source:${name}`,
      health,
      subject: name,
      says:
        source.state === "connected"
          ? `connected, but no reading for ${duration(quiet)}`
          : `${source.state === "down" ? "does not answer" : "is connecting"}${source.detail ? `: ${source.detail}` : ""}`,
      next:
        source.state === "connected"
          ? "See whether the device still changes its values, and what is subscribed to."
          : "Check the device, the network and the endpoint; “Test connection” tells which step fails.",
      place: ["sources", name],
    });
  }
  for (const [name, target] of Object.entries(status.targets)) {
    const health = targetHealth(target);
    const waiting = target.stored
      ? ` ${plural(target.stored, "reading")} (${bytes(target.spool_bytes)}) wait on disk${
          target.full_in !== null ? `, full in ${duration(target.full_in)}` : ""
        }; none is lost.`
      : "";
    if (health !== "ok" && (target.last_error || target.alarm)) {
      found.push({
        key: `target:${name}`,
        health,
        subject: name,
        says: `${target.last_error || target.alarm}.${waiting}`.replace(/\.\./g, "."),
        next: NEXT[target.error_class ?? ""] ?? "Give its buffer more room, or bring the target back sooner.",
        place: ["targets", name],
      });
    }
    const discarded = Object.values(target.discarded).reduce((sum, n) => sum + n, 0);
    if (discarded) {
      found.push({
        key: `discarded:${name}`,
        health: "bad",
        subject: name,
        says: `${plural(discarded, "reading")} discarded: ${Object.entries(target.discarded).map(([reason, n]) => `${count(n)} ${reason}`).join(", ")}`,
        next: "Give its buffer more room, or bring the target back sooner.",
        place: ["store"],
      });
    }
  }
  if (status.dead_letters.stored) {
    found.push({
      key: "letters",
      health: status.dead_letters.alarm ? "bad" : "warn",
      subject: "dead letters",
      says: `${plural(status.dead_letters.stored, "reading")} no target could take`,
      next: "Look at the reasons, mend them, then send the readings again.",
      place: ["store"],
    });
  }
  for (const [name, kept] of Object.entries(status.kept ?? {})) {
    found.push({
      key: `kept:${name}`,
      health: "warn",
      subject: name,
      says: `${count(kept.readings)} readings wait for a target that is not configured any more`,
      next: "Add the target again, export them, or purge them.",
      place: ["store"],
    });
  }
  return found.sort((a, b) => worst(a.health, b.health));
}
