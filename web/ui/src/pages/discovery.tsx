import { useState } from "react";

import { post, remove, route } from "../api/client";
import type { Discovery, Found, Health } from "../api/types";
import { visible } from "../lib/format";
import { leaveDraft } from "../lib/draft";
import { go } from "../lib/router";
import { useAnswer } from "../lib/store";
import { Act, Age, Bar, Empty, Page, Trouble } from "../parts/basics";
import { Mark } from "../parts/marks";
import { useMay } from "../who";

interface Draft {
  yaml: string;
  source: Record<string, unknown>;
  notes: string[];
}
const HEALTH: Record<Found["state"], Health> = { new: "idle", known: "ok", changed: "warn", gone: "warn" };

export default function DiscoveryPage() {
  const [running, setRunning] = useState(false);
  const { data, error, reload } = useAnswer<Discovery>("/api/discovery/servers", running ? 700 : 4000);
  if (data && data.running !== running) setRunning(data.running);
  const operator = useMay("operator");
  const progress = data?.progress;
  const share = progress ? progress.asked / Math.max(1, progress.of) : undefined;
  return (
    <Page
      title="Discovery"
      about="Looks for OPC UA servers, MQTT brokers and Modbus devices in the networks that the configuration allows. It only asks who is there: nothing is written."
      actions={
        operator &&
        data?.enabled &&
        (data.running ? (
          <Act run={() => remove("/api/discovery/scan").then(reload)}>Stop</Act>
        ) : (
          <Act
            kind="main"
            run={async () => {
              await post("/api/discovery/scan", {});
              reload();
            }}
          >
            Scan now
          </Act>
        ))
      }
    >
      <Trouble error={error} retry={reload} />
      {data && !data.enabled && (
        <Empty>
          <p>Discovery is off. It is allowed in the configuration file alone, so that nobody scans a plant by accident:</p>
          <pre>{"discovery:\n  enabled: true\n  network:\n    subnets: [10.1.1.0/24]"}</pre>
        </Empty>
      )}
      {data?.enabled && (
        <p className="quiet">
          Networks: {data.subnets.length ? data.subnets.map((one) => <code key={one} className="chip">{one}</code>) : "none; name them in discovery.network.subnets of the configuration file"}
          {data.scanned_time && <> · scanned <Age time={data.scanned_time} /> ago</>}
        </p>
      )}
      {data?.running && (
        <div className="progress" role="status">
          Scanning since <Age time={data.started} />
          {progress && `: ${progress.asked} of ${progress.of} ports asked, ${progress.hits} open`}
          {share !== undefined && <Bar share={share} label={`${Math.round(share * 100)} % done`} />}
        </div>
      )}
      {data?.enabled && data.servers.length === 0 && !data.running && <Empty>Nothing was found yet. Scan to look.</Empty>}
      {data && data.servers.length > 0 && (
        <div className="hits">
          {[...data.servers].sort((a, b) => order(a) - order(b)).map((one) => (
            <Hit key={one.id} one={one} />
          ))}
        </div>
      )}
    </Page>
  );
}

const order = (one: Found): number => ["new", "changed", "known", "gone"].indexOf(one.state);

function Hit({ one }: { one: Found }) {
  const may = useMay("operator");
  const prepare = async (): Promise<void> => {
    const { source, notes } = await post<Draft>(route(["discovery", "servers", one.id, "draft"]));
    leaveDraft(source, notes);
    go("sources", ["new"], { type: String(source.protocol), draft: one.id });
  };
  return (
    <section className="panel hit">
      <header>
        <h2>
          {one.protocol} <code>{`${visible(one.host)}:${one.port}`}</code>
        </h2>
        <Mark health={HEALTH[one.state]}>{one.state}{one.changes.length > 0 && `: ${one.changes.join(", ")}`}</Mark>
        <span className="quiet">
          seen <Age time={one.seen_time} /> ago
        </span>
        <span className="gap" />
        {may && one.draft && one.state !== "gone" && <Act kind={one.state === "new" ? "main" : ""} run={prepare}>Make a source</Act>}
      </header>
      <Tree value={one.detail} />
    </section>
  );
}

/** What a server said of itself, as it said it; text only, no address in it becomes a link. */
function Tree({ value, depth = 0 }: { value: unknown; depth?: number }) {
  if (value === null || value === undefined || value === "") return <span className="quiet">–</span>;
  if (Array.isArray(value)) {
    if (value.every((one) => typeof one !== "object")) return <>{value.map((one) => visible(String(one))).join(", ") || "–"}</>;
    return (
      <ul className="tree-list">
        {value.slice(0, 20).map((one, at) => (
          <li key={at}>
            <Tree value={one} depth={depth + 1} />
          </li>
        ))}
        {value.length > 20 && <li className="quiet">and {value.length - 20} more</li>}
      </ul>
    );
  }
  if (typeof value === "object") {
    const entries = Object.entries(value).filter(([, one]) => one !== null && one !== "" && !(Array.isArray(one) && one.length === 0));
    if (depth) {
      return (
        <span className="pairs">
          {entries.map(([key, one]) => (
            <span key={key}>
              <span className="quiet">{visible(key.replace(/_/g, " "))}</span> <Tree value={one} depth={depth + 1} />
            </span>
          ))}
        </span>
      );
    }
    return (
      <dl className="said">
        {entries.map(([key, one]) => (
          <div key={key}>
            <dt>{visible(key.replace(/_/g, " "))}</dt>
            <dd>
              <Tree value={one} depth={depth + 1} />
            </dd>
          </div>
        ))}
      </dl>
    );
  }
  if (typeof value === "boolean") return <>{value ? "yes" : "no"}</>;
  return <>{visible(String(value))}</>;
}
