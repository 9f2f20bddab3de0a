import { useEffect, useState } from "react";

import { ApiError, post, put } from "../api/client";
import type { Applied, Connection, Problem, Rule, RuleCounts } from "../api/types";
import { count } from "../lib/format";
import { made } from "../lib/made";
import { useAnswer, useSettled } from "../lib/store";
import { Act, Bar, Empty, Field, Page, tell, Trouble } from "../parts/basics";
import { Icon } from "../parts/marks";
import { useMay } from "../who";

export default function RulesPage() {
  const { data, error, reload } = useAnswer<{ rules: Rule[] }>("/api/rules");
  const targets = useAnswer<{ targets: Connection[] }>("/api/targets");
  const names = (targets.data?.targets ?? []).map((target) => target.name);
  return (
    <Page title="Rules" about="Every rule whose condition holds sends a reading to its targets. The counts are of the last readings.">
      <Trouble error={error ?? targets.error} retry={reload} />
      {data && (targets.data || targets.error) && <Editor key={JSON.stringify(data.rules)} first={data.rules} targets={names} saved={reload} />}
    </Page>
  );
}

function Editor({ first, targets, saved }: { first: Rule[]; targets: string[]; saved: () => void }) {
  const may = useMay("admin");
  const [rules, setRules] = useState<Rule[]>(first);
  const [counts, setCounts] = useState<RuleCounts>();
  const [error, setError] = useState<Error | null>(null);
  const [problems, setProblems] = useState<Problem[]>([]);
  const settled = useSettled(rules, 350);
  useEffect(() => {
    let seen = true;
    const ask = (): void => {
      post<RuleCounts>("/api/rules/test", { rules: settled.filter((rule) => rule.name && rule.condition.trim() && rule.connectors.length) }).then(
        (next) => {
          if (!seen) return;
          setCounts(next);
          setError(null);
          setProblems([]);
        },
        (failed: Error) => {
          if (!seen) return;
          setError(failed);
          if (failed instanceof ApiError) setProblems(failed.problems);
        },
      );
    };
    ask();
    const timer = window.setInterval(ask, 5000);
    return () => {
      seen = false;
      clearInterval(timer);
    };
  }, [settled]);
  const set = (at: number, change: Partial<Rule>): void => setRules(rules.map((rule, index) => (index === at ? { ...rule, ...change } : rule)));
  const move = (at: number, by: number): void => {
    const next = [...rules];
    const [rule] = next.splice(at, 1);
    if (rule) next.splice(at + by, 0, rule);
    setRules(next);
  };
  const changed = JSON.stringify(rules) !== JSON.stringify(first);
  const save = async (): Promise<void> => {
    const done = await put<Applied>("/api/rules", { rules });
    tell(`The rules are saved${made(done)}`);
    saved();
  };
  return (
    <>
      {rules.length === 0 && <Empty>No rule: every reading goes to the default target.</Empty>}
      <ol className="rules">
        {rules.map((rule, at) => {
          const counted = counts?.rules.find((one) => one.name === rule.name);
          const refused = counted?.error;
          const problem = refused ? { message: refused } : problems.find((one) => one.where.includes(`/${at}/`) || one.where.endsWith(`/${at}`) || one.where.includes(`.${at}.`) || one.message.includes(`\`${rule.name}\``));
          return (
            <li key={at} className="panel rule">
              <div className="order">
                <button type="button" className="bare" aria-label={`move ${rule.name} up`} disabled={!may || at === 0} onClick={() => move(at, -1)}>
                  <Icon name="up" />
                </button>
                <button type="button" className="bare" aria-label={`move ${rule.name} down`} disabled={!may || at === rules.length - 1} onClick={() => move(at, 1)}>
                  <Icon name="down" />
                </button>
              </div>
              <div className="rule-fields">
                <Field label="Name">
                  <input value={rule.name} disabled={!may} onChange={(event) => set(at, { name: event.target.value })} />
                </Field>
                <Field label="Condition" error={problem?.message}>
                  <input className="mono" spellCheck={false} value={rule.condition} disabled={!may} placeholder="e.g. value > 80 and unit = '°C'" onChange={(event) => set(at, { condition: event.target.value })} />
                </Field>
                <fieldset className="field picks">
                  <legend className="label">Targets</legend>
                  {[...new Set([...targets, ...rule.connectors])].map((name) => (
                    <label key={name}>
                      <input
                        type="checkbox"
                        disabled={!may}
                        checked={rule.connectors.includes(name)}
                        onChange={(event) => set(at, { connectors: event.target.checked ? [...rule.connectors, name] : rule.connectors.filter((one) => one !== name) })}
                      />
                      {name}
                    </label>
                  ))}
                </fieldset>
                <Field label="Priority">
                  <input inputMode="numeric" value={rule.priority ?? 0} disabled={!may} onChange={(event) => set(at, { priority: Number(event.target.value.replace(/[^-\d]/g, "")) || 0 })} />
                </Field>
              </div>
              <div className="matches">
                {counted ? (
                  <>
                    <span className="figure">{count(counted.matched)}</span> <span className="quiet">of {count(counted.of)}</span>
                    <Bar share={counted.of ? counted.matched / counted.of : 0} label={`${counted.matched} of ${counted.of} readings match`} />
                  </>
                ) : (
                  <span className="quiet">–</span>
                )}
              </div>
              {may && (
                <button type="button" className="bare" aria-label={`remove ${rule.name}`} onClick={() => setRules(rules.filter((_, index) => index !== at))}>
                  <Icon name="close" />
                </button>
              )}
            </li>
          );
        })}
      </ol>
      {counts && rules.length > 0 && <p className="quiet">{count(counts.unmatched)} of {count(counts.of)} readings match no rule; they go to the default target where there is one.</p>}
      <Trouble error={error} />
      {may && (
        <div className="save-bar">
          <Act kind="main" run={save} disabled={!changed || error !== null || counts?.rules.some((one) => one.error)}>
            Save
          </Act>
          <button type="button" onClick={() => setRules([...rules, { name: `rule${rules.length + 1}`, condition: "", connectors: targets.slice(0, 1) }])}>
            <Icon name="plus" /> Add rule
          </button>
          {changed && (
            <button type="button" onClick={() => setRules(first)}>
              Undo changes
            </button>
          )}
        </div>
      )}
    </>
  );
}
