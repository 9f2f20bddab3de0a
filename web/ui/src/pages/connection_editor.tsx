// One source or target: how it stands, a form from its model's schema, the YAML beside it, and a test before it is saved.

import { useEffect, useRef, useState } from "react";

import { ApiError, post, put, remove, route } from "../api/client";
import { status } from "../api/live";
import type { Applied, Connection, Problem, Schema, TestResult } from "../api/types";
import { sourceHealth, targetHealth } from "../lib/findings";
import { bytes, count, duration, visible } from "../lib/format";
import { draft } from "../lib/draft";
import { made } from "../lib/made";
import { go, href, usePlace } from "../lib/router";
import { useAnswer, useCell, useNow } from "../lib/store";
import { Act, Age, Facts, Field, Page, Panel, tell, Trouble } from "../parts/basics";
import { Mark } from "../parts/marks";
import { ReadingsTable } from "../parts/readings_table";
import { SchemaForm } from "../parts/schema_form";
import { YamlPane } from "../parts/yaml_pane";
import { useMay } from "../who";
import { Browse } from "./browse";
import type { What } from "./connections";

type Fields = Record<string, unknown>;

const TITLES: Record<string, string> = {
  opcua: "OPC UA", mqtt: "MQTT, Sparkplug B", modbus: "Modbus", zerobus: "Databricks ZeroBus", delta: "Delta Lake", kafka: "Kafka", influxdb: "InfluxDB",
  timescaledb: "TimescaleDB", amqp: "AMQP 0-9-1 (RabbitMQ)", aws_iot_core: "AWS IoT Core", azure_iot_hub: "Azure IoT Hub", pubsub: "Google Cloud Pub/Sub", gcp_pubsub: "Google Cloud Pub/Sub", file: "Files", console: "Console",
};

export function ConnectionEditor({ what, name, left }: { what: What; name: string | null; left: () => void }) {
  const place = usePlace();
  const may = useMay("admin");
  const schemas = useAnswer<{ by_type: Record<string, Schema> }>(`/api/schema/${what}s`);
  const stored = useAnswer<Connection>(name === null ? null : route([`${what}s`, name]));
  const key = what === "source" ? "protocol" : "type";
  const type = name === null ? place.query.type : String(stored.data?.config?.[key] ?? stored.data?.[key] ?? "");
  const schema = type ? schemas.data?.by_type[type] : undefined;
  if (name === null && !type) return <ChooseType what={what} schemas={schemas.data?.by_type} error={schemas.error} />;
  const first: Fields | undefined = name === null ? (place.query.draft ? draft()?.source : undefined) ?? (what === "source" ? { name: "", protocol: type } : { type }) : stored.data?.config;
  return (
    <Page
      title={name ?? `New ${TITLES[type ?? ""] ?? type} ${what}`}
      about={
        <a href={href(`${what}s`)}>{what === "source" ? "All sources" : "All targets"}</a>
      }
    >
      <Trouble error={schemas.error ?? stored.error} retry={stored.reload} />
      {name === null && place.query.draft && (
        <Panel title="What was found">
          <ul className="changes">{draft()?.notes.map((note, at) => <li key={at}>{visible(note)}</li>)}</ul>
        </Panel>
      )}
      {name !== null && <Standing what={what} name={name} />}
      {stored.data?.editable === false && <p className="quiet">This {what} is made by another part of the configuration, a template or a section; it is changed there.</p>}
      {schema && first && <Editor key={name ?? type} what={what} name={name} schema={schema} first={first} may={may && stored.data?.editable !== false} left={left} saved={stored.reload} />}
    </Page>
  );
}

function ChooseType({ what, schemas, error }: { what: What; schemas: Record<string, Schema> | undefined; error: Error | null }) {
  return (
    <Page title={`New ${what}`} about={<a href={href(`${what}s`)}>{what === "source" ? "All sources" : "All targets"}</a>}>
      <Trouble error={error} />
      <div className="choices">
        {Object.entries(schemas ?? {}).map(([type, schema]) => (
          <a className="tile" key={type} href={href(`${what}s`, ["new"], { type })}>
            <strong>{TITLES[type] ?? type}</strong>
            <span className="quiet">{schema.description?.split("\n")[0]}</span>
          </a>
        ))}
      </div>
    </Page>
  );
}

function Standing({ what, name }: { what: What; name: string }) {
  const now = useCell(status);
  const time = useNow();
  const source = what === "source" ? now?.sources[name] : undefined;
  const target = what === "target" ? now?.targets[name] : undefined;
  if (source) {
    return (
      <Panel className="standing">
        <Facts
          facts={[
            ["State", <Mark key="state" health={sourceHealth(source, time)}>{source.state}</Mark>],
            ["Last reading", <Age key="age" time={source.last_reading} />],
            ["Received", count(source.received)],
            ["Tags", <a key="tags" href={href("tags", [], { search: name })}>{count(source.tags)}</a>],
            ["Connected again", `${count(source.reconnections)} times`],
            ["Gaps", count(source.gaps)],
          ]}
        />
        {source.detail && <p>{visible(source.detail)}</p>}
      </Panel>
    );
  }
  if (target) {
    return (
      <Panel className="standing">
        <Facts
          facts={[
            ["State", <Mark key="state" health={targetHealth(target)}>{target.connected ? "connected" : "not connected"}</Mark>],
            ["Delivered", count(target.delivered)],
            ["Waiting", <a key="store" href={href("store")}>{count(target.stored)} · {bytes(target.spool_bytes)}</a>],
            ["Oldest unsent", target.stored ? duration(target.oldest_age) : "–"],
            ["A write takes", `${duration(target.response_time.p50)} (99 %: ${duration(target.response_time.p99)})`],
            ["Last success", <Age key="age" time={target.last_success} />],
          ]}
        />
        {target.last_error && <p><Mark health="warn">{visible(target.last_error)}</Mark></p>}
      </Panel>
    );
  }
  return null;
}

function Editor({ what, name, schema, first, may, left, saved }: { what: What; name: string | null; schema: Schema; first: Fields; may: boolean; left: () => void; saved: () => void }) {
  const [value, setValue] = useState<Fields>(first);
  const [version, setVersion] = useState(0);
  const [problems, setProblems] = useState<Problem[]>([]);
  const [error, setError] = useState<Error | null>(null);
  const [test, setTest] = useState<TestResult>();
  const [browsing, setBrowsing] = useState(false);
  const [key, setKey] = useState("");
  const changed = value !== first;
  const seen = useRef(true);
  useEffect(() => {
    seen.current = true;
    return () => {
      seen.current = false;
    };
  }, []);
  const operator = useMay("operator");
  useEffect(() => {
    if (!changed) return;
    const warn = (event: BeforeUnloadEvent): void => event.preventDefault();
    window.addEventListener("beforeunload", warn);
    return () => window.removeEventListener("beforeunload", warn);
  }, [changed]);
  const outside = (next: Fields): void => {
    setValue(next);
    setVersion((n) => n + 1); // fields that keep a text of their own begin anew
  };
  const attempt = async (run: () => Promise<void>): Promise<void> => {
    setError(null);
    setProblems([]);
    try {
      await run();
    } catch (failed) {
      setError(failed as Error);
      if (failed instanceof ApiError) setProblems(failed.problems);
    }
  };
  const save = () =>
    attempt(async () => {
      const body = what === "target" && name === null ? { name: key, config: value } : value;
      const done = name === null ? await post<Applied>(`/api/${what}s`, body) : await put<Applied>(route([`${what}s`, name]), body);
      const called = what === "target" ? (name ?? key) : String(value.name);
      tell(`${called} is saved${made(done)}`);
      saved();
      if (seen.current && called !== name) go(`${what}s`, [called]);
    });
  const tryIt = () =>
    attempt(async () => {
      setTest(undefined);
      setTest(await post<TestResult>(`/api/${what}s/test`, what === "target" ? { name: name ?? (key || "trial"), config: value } : value));
    });
  return (
    <>
      <div className="form-and-yaml">
        <form onSubmit={(event) => event.preventDefault()} autoComplete="off">
          <fieldset className="whole" disabled={!may}>
            {what === "target" && name === null && (
              <Field label={<>Key<abbr title="needed">*</abbr></>} hint="what rules call the target; small letters, digits, - and _">
                <input name="key" required autoComplete="off" spellCheck={false} value={key} onChange={(event) => setKey(event.target.value.trim())} />
              </Field>
            )}
            <SchemaForm key={version} schema={schema} value={value} change={setValue} problems={problems} />
          </fieldset>
        </form>
        <YamlPane value={value} change={outside} />
      </div>
      <Trouble error={error} />
      {test && <Tested result={test} />}
      <div className="save-bar">
        {may && (
          <Act kind="main" run={save} disabled={name !== null && !changed}>
            {name === null ? `Add ${what}` : "Save"}
          </Act>
        )}
        {operator && <Act run={tryIt}>Test connection</Act>}
        {name !== null && value.protocol === "opcua" && operator && <Act run={() => setBrowsing(true)}>Browse nodes</Act>}
        <span className="gap" />
        {name !== null && may && (
          <Act
            kind="danger"
            confirm={`Press again to remove ${name}`}
            run={async () => {
              await remove(route([`${what}s`, name]));
              tell(`${name} is removed. It can be brought back in Config history.`);
              left();
            }}
          >
            Remove
          </Act>
        )}
      </div>
      {browsing && name !== null && (
        <Browse
          source={name}
          have={((value.nodes as Fields[] | undefined) ?? []).map((node) => String(node.id ?? ""))}
          take={(ids) => {
            outside({ ...value, nodes: [...((value.nodes as Fields[] | undefined) ?? []), ...ids.map((id) => ({ id }))] });
            setBrowsing(false);
            tell(`${ids.length} nodes are in the form; save to read them.`);
          }}
          close={() => setBrowsing(false)}
        />
      )}
    </>
  );
}

function Tested({ result }: { result: TestResult }) {
  const readings = [...new Map((result.readings ?? []).map((one) => [`${String(one.device_id)} ${String(one.address ?? one.tag_name)}`, one])).values()]; // the last of each tag
  const end = useRef<HTMLSpanElement>(null);
  useEffect(() => {
    end.current?.scrollIntoView({ block: "end" });
  }, [result]);
  return (
    <Panel title={<Mark health={result.ok ? "ok" : "bad"}>{result.ok ? "The connection works" : "The connection does not work"}</Mark>} className="tested">
      <p className="quiet">
        after {duration(result.took)}; nothing was written{result.count ? `, ${count(result.count)} readings came` : ""}
      </p>
      {result.error && <p>{visible(result.error)}</p>}
      {result.findings.length > 0 && (
        <ul className="changes">
          {result.findings.map((finding, at) => (
            <li key={at}>
              <Mark health={finding.ok ? "ok" : "bad"}>{visible(finding.subject)}</Mark> {visible(finding.detail)}
            </li>
          ))}
        </ul>
      )}
      {readings.length > 0 && <ReadingsTable readings={readings.slice(0, 20)} />}
      <span ref={end} className="end" />
    </Panel>
  );
}
