import { useState } from "react";

import { ApiError, post, route } from "../api/client";
import type { Applied, Change, ConfigState, HistoryEntry, Plan, Problem } from "../api/types";
import { plural, stamp, visible, when } from "../lib/format";
import { made } from "../lib/made";
import { useAnswer } from "../lib/store";
import { Act, Age, Empty, Page, Panel, tell, Trouble } from "../parts/basics";
import { Mark } from "../parts/marks";
import { useMay } from "../who";

/** The configurations that the gateway ran with, what each changed, and the way back. */
export default function HistoryPage() {
  const list = useAnswer<{ configurations: HistoryEntry[] }>("/api/config/history");
  const [chosen, setChosen] = useState<number>();
  const [editing, setEditing] = useState(false);
  const may = useMay("admin");
  const config = useAnswer<ConfigState>(may ? "/api/config" : null);
  const entries = [...(list.data?.configurations ?? [])].sort((a, b) => b.number - a.number);
  const current = config.data?.number;
  const again = (): void => {
    list.reload();
    config.reload();
  };
  return (
    <Page
      title="Config history"
      about="Every configuration this gateway ran with. Each can be looked at, compared and taken back."
      actions={
        may && (
          <button type="button" onClick={() => setEditing(!editing)} aria-pressed={editing}>
            Edit the files
          </button>
        )
      }
    >
      <Trouble error={list.error ?? config.error} retry={again} />
      {editing && config.data && <FilesEditor key={config.data.base} config={config.data} done={() => { setEditing(false); again(); }} />}
      {list.data && entries.length === 0 && <Empty>Nothing was changed yet.</Empty>}
      <div className="history">
        <ol>
          {entries.map((entry) => (
            <li key={entry.number}>
              <button type="button" className={`bare entry ${chosen === entry.number ? "chosen" : ""}`} aria-pressed={chosen === entry.number} onClick={() => setChosen(entry.number)}>
                <strong>{entry.number}</strong>
                <span>{stamp(when(entry.since_time))}</span>
                <span className="quiet">
                  {entry.number === current ? "running" : <><Age time={entry.since_time} /> ago</>}
                </span>
                <span className="quiet">
                  {plural(entry.sources, "source")}, {plural(entry.targets, "target")}, {plural(entry.rules, "rule")}
                </span>
              </button>
            </li>
          ))}
        </ol>
        {chosen !== undefined && may && <Entry number={chosen} current={chosen === current} may={may} done={again} />}
      </div>
    </Page>
  );
}

interface EntryAnswer {
  files: Record<string, string>;
  diff: string;
  changes: Change[];
}

function Entry({ number, current, may, done }: { number: number; current: boolean; may: boolean; done: () => void }) {
  const { data, error } = useAnswer<EntryAnswer>(route(["config", "history", String(number)]));
  const diff = data?.diff;
  return (
    <Panel
      title={`Configuration ${number}`}
      actions={
        may &&
        !current && (
          <Act
            kind="main"
            confirm={`Press again to go back to ${number}`}
            run={async () => {
              const applied = await post<Applied>("/api/config/rollback", { number });
              tell(`Configuration ${number} runs again${made(applied)}`);
              done();
            }}
          >
            Go back to this
          </Act>
        )
      }
    >
      <Trouble error={error} />
      {diff && (
        <>
          <h3>What has changed since</h3>
          {data && data.changes.length > 0 && <Changes changes={data.changes} />}
          <Diff text={diff} />
        </>
      )}
      {data &&
        Object.entries(data.files).map(([name, text]) => (
          <details className="more" key={name} open={!diff}>
            <summary>
              <code>{name}</code>
            </summary>
            <pre>{text}</pre>
          </details>
        ))}
    </Panel>
  );
}

/** A unified diff: signs and weight tell what came and went, so that it can be read without colour. */
function Diff({ text }: { text: string }) {
  return (
    <pre className="diff">
      {text.split("\n").map((line, at) => (
        <span key={at} className={/^(\+\+\+|---|@@)/.test(line) ? "place" : line.startsWith("+") ? "came" : line.startsWith("-") ? "went" : ""}>
          {line}
          {"\n"}
        </span>
      ))}
    </pre>
  );
}

function Changes({ changes }: { changes: Change[] }) {
  return (
    <ul className="changes">
      {changes.map((change, at) => (
        <li key={at}>
          <strong>
            {change.kind} {change.name}
          </strong>{" "}
          {change.what}
          {change.place && <code className="quiet"> {change.place}</code>}
          {Object.entries(change.keys).slice(0, 12).map(([key, values]) => (
            <div key={key} className="key">
              <code>{key}</code> <span className="quiet">{Object.entries(values).map(([word, one]) => `${word}: ${visible(one)}`).join(" → ")}</span>
            </div>
          ))}
        </li>
      ))}
    </ul>
  );
}

function FilesEditor({ config, done }: { config: ConfigState; done: () => void }) {
  const names = Object.keys(config.files);
  const [files, setFiles] = useState(config.files);
  const [name, setName] = useState(names[0] ?? "");
  const [plan, setPlan] = useState<Plan>();
  const [error, setError] = useState<Error | null>(null);
  const changed = names.some((one) => files[one] !== config.files[one]);
  const edit = (text: string): void => {
    setFiles({ ...files, [name]: text });
    setPlan(undefined);
  };
  const attempt = (run: () => Promise<void>) => async () => {
    setError(null);
    try {
      await run();
    } catch (failed) {
      setError(failed as Error);
      if (failed instanceof ApiError && failed.status === 409) setPlan(undefined);
    }
  };
  return (
    <Panel title="Files" className="files">
      {names.length > 1 && (
        <select aria-label="File" value={name} onChange={(event) => setName(event.target.value)}>
          {names.map((one) => (
            <option key={one}>{one}</option>
          ))}
        </select>
      )}
      <textarea aria-label={name} className="mono" rows={22} spellCheck={false} value={files[name]} onChange={(event) => edit(event.target.value)} />
      <Trouble error={error} />
      {plan && <Planned plan={plan} />}
      <div className="save-bar">
        <Act run={attempt(async () => setPlan(await post<Plan>("/api/config/plan", { files })))} disabled={!changed}>
          Plan
        </Act>
        <Act
          kind="main"
          disabled={!plan || plan.problems.length > 0 || plan.changes.length === 0}
          run={attempt(async () => {
            const applied = await post<Applied>("/api/config/apply", { files, base: config.base });
            tell(`The files are saved${made(applied)}`);
            done();
          })}
        >
          Apply
        </Act>
        <span className="quiet">{plan ? "" : "Plan first: it shows what would change, and changes nothing."}</span>
      </div>
    </Panel>
  );
}

function Planned({ plan }: { plan: Plan }) {
  return (
    <>
      {plan.problems.length > 0 && <Trouble error={new ApiError(422, "This configuration cannot run:", plan.problems as Problem[])} />}
      {plan.warnings.map((warning) => (
        <p key={warning}>
          <Mark health="warn">{visible(warning)}</Mark>
        </p>
      ))}
      {plan.problems.length === 0 && (plan.changes.length ? <Changes changes={plan.changes} /> : <p className="quiet">Nothing would change.</p>)}
    </>
  );
}
