import { useEffect, useRef, useState } from "react";

import { get, route } from "../api/client";
import { ownStream } from "../api/live";
import type { Reading } from "../api/types";
import { clock, count, value, visible, when } from "../lib/format";
import { amend, usePlace } from "../lib/router";
import { Act, copy, Empty, Page, Trouble } from "../parts/basics";
import { QualityMark } from "../parts/marks";
import { Table } from "../parts/table";

const KEPT = 500;
const TRIES = ["quality != 'GOOD'", "tag_name = 'temperature'", "value > 80", "source = 'plc1'"];

interface Frame {
  readings?: Reading[];
  left_out?: number;
  not_looked_at?: number;
}

export default function TailPage() {
  const place = usePlace();
  const filter = place.query.filter ?? "";
  const [text, setText] = useState(filter);
  const [rows, setRows] = useState<{ key: number; reading: Reading }[]>([]);
  const [left, setLeft] = useState(0);
  const [paused, setPaused] = useState(false);
  const [error, setError] = useState<Error | null>(null);
  const number = useRef(0);
  const held = useRef(paused);
  held.current = paused;
  useEffect(() => {
    setRows([]);
    setLeft(0);
    setError(null);
    const path = route(["tail"], { filter });
    return ownStream(
      path,
      { tail: frame },
      (state) => {
        if (state === "open") setError(null);
        // an event stream does not say why it was refused: a plain request does
        else get(path, AbortSignal.timeout(1500)).catch((failed: Error) => failed.name === "ApiError" || "status" in failed ? setError(failed) : undefined);
      },
    );
    function frame(data: unknown): void {
      if (held.current) return;
      const said = data as Frame;
      const readings = said.readings ?? [];
      setLeft((n) => n + (said.left_out ?? 0) + (said.not_looked_at ?? 0));
      if (!readings.length) return;
      const next = readings.map((reading) => ({ key: ++number.current, reading })).reverse();
      setRows((before) => [...next, ...before].slice(0, KEPT));
    }
  }, [filter]);
  return (
    <Page
      title="Live tail"
      about="Readings as they come, the newest first."
      actions={
        <>
          <button type="button" aria-pressed={paused} onClick={() => setPaused(!paused)}>
            {paused ? "Go on" : "Pause"}
          </button>
          <Act run={() => copy(rows.map((row) => JSON.stringify(row.reading)).join("\n"), `${rows.length} readings as JSON lines`)} disabled={!rows.length}>
            Copy
          </Act>
        </>
      }
    >
      <form
        className="filters"
        onSubmit={(event) => {
          event.preventDefault();
          amend({ filter: text.trim() });
        }}
      >
        <input data-search className="mono" aria-label="Filter" placeholder="a condition as in routing rules, e.g. value > 80 and source = 'plc1'" spellCheck={false} value={text} onChange={(event) => setText(event.target.value)} />
        <button type="submit">Filter</button>
      </form>
      {!filter && (
        <p className="quiet tries">
          Try{" "}
          {TRIES.map((one) => (
            <button type="button" className="chip mono" key={one} onClick={() => { setText(one); amend({ filter: one }); }}>
              {one}
            </button>
          ))}
        </p>
      )}
      <Trouble error={error} />
      {left > 0 && <p className="quiet">{count(left)} readings more came than are shown; filter for fewer.</p>}
      {rows.length === 0 && !error && <Empty>{filter ? "Nothing that came matches yet." : "Nothing came yet."}</Empty>}
      {rows.length > 0 && (
        <Table heads={["Time", "Path", { right: "Value" }, "Quality", "Source"]} className="tail">
          {rows.map(({ key, reading }) => (
            <tr key={key}>
              <td className="figure">{clock(when(reading.time_us ?? reading.received_us), true)}</td>
              <td className="path">{visible(String(reading.path ?? reading.tag_name ?? ""))}</td>
              <td className="figure right">
                {value(reading.value)} <small className="quiet unit">{reading.unit ? visible(reading.unit) : ""}</small>
              </td>
              <td>
                <QualityMark quality={reading.quality} />
              </td>
              <td>{reading.source}</td>
            </tr>
          ))}
        </Table>
      )}
    </Page>
  );
}
