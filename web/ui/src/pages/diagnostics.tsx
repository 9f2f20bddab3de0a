import { useEffect, useRef, useState } from "react";

import { address, put, route } from "../api/client";
import { ownStream } from "../api/live";
import type { AuditEntry, Health, LogLine } from "../api/types";
import { clock, copyable, stamp, visible, when } from "../lib/format";
import { useAnswer } from "../lib/store";
import { copy, Empty, Facts, Page, Panel, tell, Trouble } from "../parts/basics";
import { Mark } from "../parts/marks";
import { useMay } from "../who";
import { Table } from "../parts/table";

const LEVELS = ["debug", "info", "warning", "error"];
const KEPT = 500;

export default function DiagnosticsPage() {
  const admin = useMay("admin");
  const versions = useAnswer<Record<string, unknown>>("/api/versions");
  const { packages = {}, ...own } = (versions.data ?? {}) as Record<string, unknown> & { packages?: Record<string, string> };
  const said = { ...own, ...packages };
  return (
    <Page
      title="Diagnostics"
      actions={
        admin && (
          <a className="button" href={address("/api/support-bundle")} download>
            Support bundle
          </a>
        )
      }
    >
      <Log />
      {admin && <Audit />}
      <Panel title="Versions">
        <Trouble error={versions.error} retry={versions.reload} />
        <Facts facts={Object.entries(said).map(([name, version]) => [name.replace(/_/g, " "), <code key={name}>{typeof version === "object" ? JSON.stringify(version) : String(version)}</code>])} />
      </Panel>
    </Page>
  );
}

function levelHealth(level: string): Health {
  return /error|critical/i.test(level) ? "bad" : /warn/i.test(level) ? "warn" : "idle";
}

const HIDDEN = new Set(["seq", "timestamp", "level", "event", "logger", "exception", "hash"]);
const rest = (line: LogLine): string =>
  Object.entries(line)
    .filter(([key]) => !HIDDEN.has(key))
    .map(([key, one]) => `${key}=${typeof one === "object" ? JSON.stringify(one) : String(one)}`)
    .join(" ");

function Log() {
  const [level, setLevel] = useState("info");
  const [search, setSearch] = useState("");
  const [paused, setPaused] = useState(false);
  const [lines, setLines] = useState<LogLine[]>([]);
  const held = useRef(paused);
  held.current = paused;
  const past = useAnswer<{ events: LogLine[] }>(route(["logs"], { level, limit: 200 }));
  const admin = useMay("admin");
  useEffect(() => {
    if (past.data) setLines(past.data.events);
  }, [past.data]);
  useEffect(() => {
    const came = (data: unknown): void => {
      if (held.current) return;
      const { events } = data as { events: LogLine[] };
      setLines((before) => {
        const last = before.at(-1)?.seq ?? 0;
        return [...before, ...events.filter((line) => line.seq > last)].slice(-KEPT);
      });
    };
    return ownStream(route(["logs", "follow"], { level }), { logs: came });
  }, [level]);
  const wanted = search.toLowerCase();
  const shown = lines.filter((line) => !wanted || JSON.stringify(line).toLowerCase().includes(wanted)).reverse();
  return (
    <Panel
      title="Log"
      actions={
        <>
          <select aria-label="Shown from level" value={level} onChange={(event) => setLevel(event.target.value)}>
            {LEVELS.map((one) => (
              <option key={one} value={one}>
                {one} and above
              </option>
            ))}
          </select>
          {admin && (
            <select
              aria-label="Level that the gateway logs"
              value=""
              onChange={(event) => {
                const next = event.target.value;
                put("/api/log-level", { level: next }).then(
                  () => tell(`The gateway logs ${next} and above until it starts again.`),
                  (error: Error) => tell(error.message, "bad"),
                );
              }}
            >
              <option value="">Set the gateway's level …</option>
              {LEVELS.map((one) => (
                <option key={one}>{one}</option>
              ))}
            </select>
          )}
          <button type="button" aria-pressed={paused} onClick={() => setPaused(!paused)}>
            {paused ? "Go on" : "Pause"}
          </button>
          <button type="button" onClick={() => void copy(shown.map((line) => copyable(line)).join("\n"), `${shown.length} lines`)}>
            Copy
          </button>
        </>
      }
    >
      <input data-search type="search" aria-label="Search the log" placeholder="Search the log  ( / )" value={search} onChange={(event) => setSearch(event.target.value)} />
      <Trouble error={past.error} retry={past.reload} />
      {shown.length === 0 && !past.error && <Empty>Nothing was logged at this level.</Empty>}
      {shown.length > 0 && (
        <div className="log" role="log">
          {shown.map((line) => (
            <div key={line.seq} className="log-line">
              <span className="figure">{clock(when(line.timestamp))}</span>
              <Mark health={levelHealth(line.level)}>{line.level}</Mark>
              <div>
                {visible(line.event)} <span className="quiet">{visible(rest(line))}</span>
                {typeof line.exception === "string" && (
                  <details>
                    <summary className="quiet">traceback</summary>
                    <pre>{line.exception}</pre>
                  </details>
                )}
              </div>
            </div>
          ))}
        </div>
      )}
    </Panel>
  );
}

function Audit() {
  const [offset, setOffset] = useState(0);
  const { data, error, reload } = useAnswer<{ entries: AuditEntry[]; total?: number }>(route(["audit"], { offset, limit: 50 }));
  const entries = data?.entries ?? [];
  const known = new Set(["time", "user", "who", "action", "what", "result", "at", "number", "hash", "previous"]);
  return (
    <Panel title="Audit">
      <Trouble error={error} retry={reload} />
      {data && entries.length === 0 && <Empty>Nobody changed anything yet.</Empty>}
      {entries.length > 0 && (
        <Table heads={["Time", "Who", "What", "Result", "More"]}>
          {entries.map((entry, at) => (
            <tr key={at}>
              <td>{stamp(when((entry.time ?? entry.at) as string))}</td>
              <td>{visible(String(entry.user ?? entry.who ?? "–"))}</td>
              <td>{visible(String(entry.action ?? entry.what ?? "–"))}</td>
              <td>{visible(String(entry.result ?? "–"))}</td>
              <td className="quiet wrap">
                {visible(Object.entries(entry).filter(([key]) => !known.has(key)).map(([key, one]) => `${key}=${typeof one === "object" ? JSON.stringify(one) : String(one)}`).join(" "))}
              </td>
            </tr>
          ))}
        </Table>
      )}
      <div className="actions">
        <button type="button" disabled={offset === 0} onClick={() => setOffset(Math.max(0, offset - 50))}>
          Newer
        </button>
        <button type="button" disabled={entries.length < 50} onClick={() => setOffset(offset + 50)}>
          Older
        </button>
      </div>
    </Panel>
  );
}
