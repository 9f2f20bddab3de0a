import { rateOf, rates, status } from "../api/live";
import type { Health, SourceStatus, Status, TargetStatus } from "../api/types";
import { fill, findings, sourceHealth, targetHealth, worst } from "../lib/findings";
import { bytes, count, duration, plural, rate } from "../lib/format";
import { href } from "../lib/router";
import { useCell, useNow } from "../lib/store";
import { Age, Bar, Empty, Page, Panel } from "../parts/basics";
import { Spark } from "../parts/curves";
import { Mark, Shape } from "../parts/marks";

/** In ten seconds: does data flow, and if not, what is wrong and what is the next step. */
export function Overview() {
  const now = useCell(status);
  const time = useNow();
  if (!now) return <Page title="Overview">…</Page>;
  const sources = sorted(now.sources, (source) => sourceHealth(source, time));
  const targets = sorted(now.targets, targetHealth);
  return (
    <Page title="Overview">
      <Sums now={now} />
      <Wrong now={now} time={time} />
      <h2>Sources</h2>
      {sources.length === 0 && (
        <Empty>
          <p>No source yet.</p>
          <p>
            <a className="button main" href={href("discovery")}>Find devices</a> <a className="button" href={href("sources", ["new"])}>Add a source</a>
          </p>
        </Empty>
      )}
      <div className="tiles">
        {sources.map(([name, source, health]) => (
          <SourceTile key={name} name={name} source={source} health={health} />
        ))}
      </div>
      <h2>Targets</h2>
      <div className="tiles">
        {targets.map(([name, target, health]) => (
          <TargetTile key={name} name={name} target={target} health={health} />
        ))}
      </div>
    </Page>
  );
}

function sorted<T>(items: Record<string, T>, healthOf: (item: T) => Health): [string, T, Health][] {
  return Object.entries(items)
    .map(([name, item]): [string, T, Health] => [name, item, healthOf(item)])
    .sort((a, b) => worst(a[2], b[2]) || a[0].localeCompare(b[0]));
}

function Sums({ now }: { now: Status }) {
  const past = useCell(rates);
  const sum = (kind: string): number | null => {
    const known = Object.entries(past).flatMap(([key, points]) => (key.startsWith(kind) ? [rateOf(points)] : []));
    return known.length && known.some((n) => n !== null) ? known.reduce<number>((all, n) => all + (n ?? 0), 0) : null;
  };
  const targets = Object.values(now.targets);
  const stored = targets.reduce((all, target) => all + target.stored, 0);
  const oldest = Math.max(0, ...targets.map((target) => target.oldest_age ?? 0));
  const full = targets.flatMap((target) => (target.full_in === null ? [] : [target.full_in]));
  return (
    <dl className="sums">
      <div><dt>In</dt><dd>{rate(sum("source:"))}</dd></div>
      <div><dt>Out</dt><dd>{rate(sum("target:"))}</dd></div>
      <div><dt>Waiting</dt><dd>{count(stored)}</dd></div>
      <div><dt>Oldest unsent</dt><dd>{stored ? duration(oldest) : "–"}</dd></div>
      <div><dt>Buffer full in</dt><dd>{full.length ? duration(Math.min(...full)) : "–"}</dd></div>
      <div><dt>Up</dt><dd>{duration(now.uptime)}</dd></div>
    </dl>
  );
}

function Wrong({ now, time }: { now: Status; time: number }) {
  const found = findings(now, time);
  if (!found.length) {
    return (
      <p className="calm">
        <Shape health="ok" /> Everything is as it should be.
      </p>
    );
  }
  return (
    <Panel title={plural(found.length, "thing needs attention", "things need attention")} className="findings">
      <ul>
        {found.slice(0, 8).map((one) => (
          <li key={one.key}>
            <Mark health={one.health} />
            <div>
              <a href={href(one.place[0], one.place.slice(1))}>{one.subject}</a> {one.says}
              <p className="quiet">Next: {one.next}</p>
            </div>
          </li>
        ))}
      </ul>
      {found.length > 8 && <p className="quiet">and {found.length - 8} more, in the tiles below</p>}
    </Panel>
  );
}

function SourceTile({ name, source, health }: { name: string; source: SourceStatus; health: Health }) {
  const points = useCell(rates)[`source:${name}`];
  return (
    <a className={`tile ${health}`} href={source.protocol === "api" ? href("tags", [], { search: name }) : href("sources", [name])}>
      <header>
        <strong>{name}</strong>
        <span className="quiet">{source.protocol}</span>
      </header>
      <Mark health={health}>{source.state === "connected" && health === "warn" ? "no readings" : source.state}</Mark>
      <div className="reading">
        <span className="figure">{rate(rateOf(points))}</span>
        <Spark points={(points ?? []).map((point) => point.rate)} label={`readings per second of ${name}`} />
      </div>
      <dl>
        <div><dt>Last reading</dt><dd>{source.last_reading ? <><Age time={source.last_reading} /> ago</> : "none yet"}</dd></div>
        <div><dt>Tags</dt><dd>{count(source.tags)}</dd></div>
      </dl>
    </a>
  );
}

function TargetTile({ name, target, health }: { name: string; target: TargetStatus; health: Health }) {
  const points = useCell(rates)[`target:${name}`];
  const share = fill(target);
  return (
    <a className={`tile ${health}`} href={href("targets", [name])}>
      <header>
        <strong>{name}</strong>
        <span className="quiet">{target.response_time.p50 !== null ? `${duration(target.response_time.p50)} a write` : ""}</span>
      </header>
      <Mark health={health}>{health === "ok" ? "delivering" : target.breaker === "open" ? "held back after failures" : target.connected ? "failing" : "not connected"}</Mark>
      <div className="reading">
        <span className="figure">{rate(rateOf(points))}</span>
        <Spark points={(points ?? []).map((point) => point.rate)} label={`readings per second to ${name}`} />
      </div>
      <Bar share={share} health={share > 0.8 ? "bad" : share > 0.5 ? "warn" : "ok"} label={`buffer ${Math.round(share * 100)} % full`} />
      <dl>
        <div><dt>Waiting</dt><dd>{count(target.stored)} · {bytes(target.spool_bytes)}</dd></div>
        <div><dt>Oldest</dt><dd>{target.stored ? duration(target.oldest_age) : "–"}</dd></div>
        {target.full_in !== null && <div><dt>Full in</dt><dd>{duration(target.full_in)}</dd></div>}
      </dl>
    </a>
  );
}
