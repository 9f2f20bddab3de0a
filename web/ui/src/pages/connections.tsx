// Sources and targets: the list of them, and the way to one or to a new one.

import { rateOf, rates, status } from "../api/live";
import type { Connection, Health } from "../api/types";
import { sourceHealth, targetHealth, worst } from "../lib/findings";
import { count, rate, visible } from "../lib/format";
import { go, href, usePlace } from "../lib/router";
import { useAnswer, useCell, useNow } from "../lib/store";
import { Age, Empty, Page, Trouble } from "../parts/basics";
import { Icon, Mark } from "../parts/marks";
import { useMay } from "../who";
import { ConnectionEditor } from "./connection_editor";
import { Table } from "../parts/table";

export type What = "source" | "target";

export function Connections({ what }: { what: What }) {
  const place = usePlace();
  const name = place.rest[0];
  const list = useAnswer<Record<string, Connection[]>>(`/api/${what}s`, name ? 0 : 3000);
  if (name !== undefined) {
    return (
      <ConnectionEditor
        key={name}
        what={what}
        name={name === "new" ? null : name}
        left={() => {
          list.reload();
          go(`${what}s`);
        }}
      />
    );
  }
  return <Listing what={what} all={list.data?.[`${what}s`]} error={list.error} retry={list.reload} />;
}

function Listing({ what, all, error, retry }: { what: What; all: Connection[] | undefined; error: Error | null; retry: () => void }) {
  const may = useMay("admin");
  const past = useCell(rates);
  const now = useCell(status);
  const time = useNow();
  const rows = (all ?? [])
    .map((one) => ({ one, health: health(what, one, now, time) }))
    .sort((a, b) => worst(a.health, b.health) || a.one.name.localeCompare(b.one.name));
  const title = what === "source" ? "Sources" : "Targets";
  return (
    <Page
      title={title}
      about={what === "source" ? "What is read from the plant." : "Where readings go."}
      actions={
        may && (
          <a className="button main" href={href(`${what}s`, ["new"])}>
            <Icon name="plus" /> Add a {what}
          </a>
        )
      }
    >
      <Trouble error={error} retry={retry} />
      {all?.length === 0 && (
        <Empty>
          <p>No {what} yet.</p>
          {what === "source" && may && (
            <p>
              <a className="button" href={href("discovery")}>Find devices in the network</a>
            </p>
          )}
        </Empty>
      )}
      {rows.length > 0 && (
        <Table heads={["Name", "State", what === "source" ? "Protocol" : "Type", "Endpoint", { right: "Rate" }, { right: what === "source" ? "Tags" : "Waiting" }, ...(what === "source" ? [{ right: "Last reading" }] : [])]}>
          {rows.map(({ one, health: state }) => (
            <tr key={one.name} className="link" onClick={() => go(`${what}s`, [one.name])}>
              <td>
                <a href={href(`${what}s`, [one.name])} onClick={(event) => event.stopPropagation()}>
                  {one.name}
                </a>
              </td>
              <td>
                <Mark health={state}>{one.enabled ? (one.state ?? now?.sources[one.name]?.state ?? (state === "ok" ? "delivering" : "failing")) : "off"}</Mark>
                {one.detail && state !== "ok" && <small className="quiet cut" title={one.detail}>{visible(one.detail)}</small>}
              </td>
              <td>{one.protocol ?? one.type}</td>
              <td className="mono cut">{visible(one.endpoint ?? "–")}</td>
              <td className="figure right">{rate(rateOf(past[`${what}:${one.name}`]) ?? one.rate)}</td>
              <td className="figure right">{count(what === "source" ? one.tags : now?.targets[one.name]?.stored)}</td>
              {what === "source" && (
                <td className="figure right">
                  <Age time={one.last_reading_us} />
                </td>
              )}
            </tr>
          ))}
        </Table>
      )}
    </Page>
  );
}

function health(what: What, one: Connection, now: ReturnType<typeof status.read>, time: number): Health {
  if (!one.enabled) return "idle";
  const known = what === "source" ? now?.sources[one.name] : undefined;
  if (known) return sourceHealth(known, time);
  const target = what === "target" ? now?.targets[one.name] : undefined;
  return target ? targetHealth(target) : "idle";
}
