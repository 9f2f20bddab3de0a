import { useState } from "react";

import { address, post, route } from "../api/client";
import { status } from "../api/live";
import type { LetterGroup, LetterGroups, Spool } from "../api/types";
import { bytes, count, duration, plural, stamp, value, visible, when } from "../lib/format";
import { useAnswer, useCell } from "../lib/store";
import { Act, Bar, Dialog, Empty, Page, Panel, tell, Trouble } from "../parts/basics";
import { Mark } from "../parts/marks";
import { ReadingsTable } from "../parts/readings_table";
import { useMay } from "../who";
import { Table } from "../parts/table";

interface Spools {
  gateway: string;
  spools: Record<string, Spool>;
}

export default function StorePage() {
  const spools = useAnswer<Spools>("/api/spools", 2000);
  const letters = useAnswer<LetterGroups>("/api/dead-letters?limit=100", 4000);
  const [peeked, setPeeked] = useState<string>();
  return (
    <Page title="Store and forward" about="What waits on disk for each target, and what no target could take.">
      <Trouble error={spools.error} retry={spools.reload} />
      {spools.data && <Backlogs all={spools.data} reload={spools.reload} peek={setPeeked} />}
      <Trouble error={letters.error} retry={letters.reload} />
      {letters.data && <Letters all={letters.data} reload={letters.reload} />}
      {peeked !== undefined && <Peek target={peeked} close={() => setPeeked(undefined)} />}
    </Page>
  );
}

function Backlogs({ all, reload, peek }: { all: Spools; reload: () => void; peek: (target: string) => void }) {
  const operator = useMay("operator");
  const now = useCell(status);
  const rows = Object.entries(all.spools).sort((a, b) => b[1].readings - a[1].readings);
  return (
    <Panel title="Backlog per target">
      {rows.length === 0 && <Empty>No target stores anything.</Empty>}
      {rows.length > 0 && (
        <Table heads={["Target", "State", { right: "Waiting" }, { right: "On disk" }, "Full", { right: "Full in" }, { right: "Oldest" }, ""]}>
          {rows.map(([name, spool]) => {
            const share = spool.quota_bytes ? spool.bytes / spool.quota_bytes : 0;
            const health = spool.alarm || share > 0.8 ? "bad" : spool.state === "kept" && spool.readings ? "warn" : "ok";
            return (
              <tr key={name}>
                <td>{name}</td>
                <td>
                  <Mark health={health}>{spool.alarm ? spool.alarm : spool.state === "kept" ? "target not configured" : "ok"}</Mark>
                </td>
                <td className="figure right" title={lanes(spool)}>
                  {count(spool.readings)}
                  {Object.keys(spool.lanes).length > 1 && <small className="quiet">{lanes(spool)}</small>}
                </td>
                <td className="figure right">{bytes(spool.bytes)}</td>
                <td className="bar-cell">
                  {spool.quota_bytes ? (
                    <>
                      <Bar share={share} health={share > 0.8 ? "bad" : "ok"} label={`${Math.round(share * 100)} % of ${bytes(spool.quota_bytes)}`} />
                      <small className="quiet">
                        {(share * 100).toFixed(share < 0.1 ? 1 : 0)} % of {bytes(spool.quota_bytes)}
                      </small>
                    </>
                  ) : (
                    "–"
                  )}
                </td>
                <td className="figure right">{duration(now?.targets[name]?.full_in)}</td>
                <td className="figure right">{spool.readings ? duration(spool.oldest_age) : "–"}</td>
                <td className="actions">
                  <button type="button" onClick={() => peek(name)} disabled={!spool.readings}>
                    Look
                  </button>
                  <a className="button" href={address(route(["spools", "export"], { target: name }))} download>
                    Export
                  </a>
                  {operator && (
                    <Act
                      kind="danger"
                      disabled={!spool.readings}
                      confirm={`Press again: discards ${count(spool.readings)}`}
                      run={async () => {
                        const done = await post<{ purged?: number; error?: string }>("/api/spools/purge", { target: name, gateway: all.gateway });
                        if (done.error) throw new Error(done.error);
                        tell(`${plural(done.purged ?? spool.readings, "reading")} for ${name} discarded.`);
                        reload();
                      }}
                    >
                      Purge
                    </Act>
                  )}
                </td>
              </tr>
            );
          })}
        </Table>
      )}
    </Panel>
  );
}

const lanes = (spool: Spool): string => Object.entries(spool.lanes).map(([priority, n]) => `priority ${priority}: ${count(n)}`).join(", ");

function Peek({ target, close }: { target: string; close: () => void }) {
  const { data, error } = useAnswer<{ readings?: Record<string, unknown>[]; error?: string }>(route(["spools", "peek"], { target, limit: 50 }));
  return (
    <Dialog title={`Next for ${target}`} close={close} wide>
      <Trouble error={error ?? (data?.error ? new Error(data.error) : null)} />
      {data?.readings && <ReadingsTable readings={data.readings} />}
    </Dialog>
  );
}

function Letters({ all, reload }: { all: LetterGroups; reload: () => void }) {
  const [opened, setOpened] = useState<LetterGroup>();
  return (
    <Panel
      title="Dead letters"
      actions={
        <a className="button" href={address("/api/dead-letters/export")} download>
          Export all
        </a>
      }
    >
      <p className="quiet">
        {plural(all.stored, "reading")}, {bytes(all.bytes)} on disk{all.discarded ? `; ${count(all.discarded)} discarded for want of room` : ""}. They stay until they are sent again or purged.
      </p>
      {all.groups.length === 0 ? (
        <Empty>Every reading could be taken.</Empty>
      ) : (
        <Table heads={[{ right: "Readings" }, "Target", "Reason", "When", ""]}>
          {all.groups.map((group, at) => (
            <tr key={at}>
              <td className="figure right">{count(group.count)}</td>
              <td>{group.target === "@flow" || !group.target ? "the gateway itself" : group.target}</td>
              <td className="wrap">
                <Mark health="warn">{visible(group.reason)}</Mark> <small className="quiet">{group.error_class}</small>
              </td>
              <td>
                {stamp(when(group.last))}
                {group.count > 1 && <small className="quiet">since {stamp(when(group.first))}</small>}
              </td>
              <td className="actions">
                <button type="button" onClick={() => setOpened(group)}>
                  Look
                </button>
                <LetterActs gateway={all.gateway} group={group} done={reload} />
              </td>
            </tr>
          ))}
        </Table>
      )}
      {all.more_groups > 0 && <p className="quiet">and {count(all.more_groups)} more groups</p>}
      {opened && <LettersOf group={opened} close={() => setOpened(undefined)} />}
    </Panel>
  );
}

function LetterActs({ gateway, group, done }: { gateway: string; group: LetterGroup; done: () => void }) {
  const operator = useMay("operator");
  if (!operator) return null;
  const order = { gateway, target: group.target, reason: group.reason };
  return (
    <>
      <Act
        run={async () => {
          const answer = await post<{ replay: Record<string, unknown> }>("/api/dead-letters/replay", order);
          const said = Object.entries(answer.replay).filter(([, n]) => typeof n === "number" && n > 0).map(([what, n]) => `${count(n as number)} ${what.replace(/_/g, " ")}`);
          tell(`Sent again: ${said.join(", ") || "nothing"}.`);
          done();
        }}
      >
        Send again
      </Act>
      <Act
        kind="danger"
        confirm={`Press again: deletes ${count(group.count)}`}
        run={async () => {
          const answer = await post<{ purged: number }>("/api/dead-letters/purge", order);
          tell(`${plural(answer.purged, "dead letter")} deleted.`);
          done();
        }}
      >
        Purge
      </Act>
    </>
  );
}

interface Letter {
  dead_letter: { number: number; reason: string };
  [key: string]: unknown;
}

function LettersOf({ group, close }: { group: LetterGroup; close: () => void }) {
  const { data, error } = useAnswer<{ letters: Letter[] }>(route(["dead-letters", "each"], { target: group.target, reason: group.reason, limit: 50 }));
  return (
    <Dialog title={`Dead letters of ${group.target === "@flow" ? "the gateway itself" : group.target}`} close={close} wide>
      <Trouble error={error} />
      <p>
        <Mark health="warn">{visible(group.reason)}</Mark>
      </p>
      <Table heads={["Number", "Tag", "Source", { right: "Value" }]}>
        {(data?.letters ?? []).map((letter) => (
          <tr key={letter.dead_letter.number}>
            <td className="figure">{letter.dead_letter.number}</td>
            <td className="path">{visible(String(letter.path || letter.tag_name || letter.address || "–"))}</td>
            <td>{visible(String(letter.source ?? "–"))}</td>
            <td className="figure right">{letter.value !== null && typeof letter.value === "object" ? visible(JSON.stringify(letter.value)) : value((letter.value ?? letter.value_text ?? null) as string)}</td>
          </tr>
        ))}
      </Table>
      {!data && !error && <p className="quiet">…</p>}
    </Dialog>
  );
}
