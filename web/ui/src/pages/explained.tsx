import type { Health } from "../api/types";
import { value, visible } from "../lib/format";
import { Facts } from "../parts/basics";
import { Mark } from "../parts/marks";

interface Verdict {
  rule: string;
  condition: string;
  matched: boolean;
  values: Record<string, unknown>;
  connectors: string[];
  priority: number;
}
interface Goes {
  name: string;
  type: string;
  because: string[];
  written: Record<string, unknown>[];
  refused: string;
}
interface ReadingExplained {
  raw: Record<string, unknown>;
  path: { path: string; template: string; template_of: string; pattern: string | null };
  normalized: Record<string, unknown>;
  conversions: Record<string, unknown>;
  dead_letter: string;
  report: { passes: boolean; reason: string };
  rules: Verdict[];
  targets: Goes[];
  left_out: string;
}
export interface Explanation {
  source?: string;
  captured?: Record<string, unknown>;
  readings?: ReadingExplained[];
  explanations?: Explanation[];
}

const shown = (one: unknown): string => (one !== null && typeof one === "object" ? visible(JSON.stringify(one)) : value(one as string));

/** Every step of one reading: what came, what was made of it, which rules matched, what is written. */
export function Explained({ explanation }: { explanation: Explanation }) {
  const readings = explanation.readings ?? explanation.explanations?.flatMap((one) => one.readings ?? []) ?? [];
  if (!readings.length) return <p className="quiet">Nothing was captured of this tag yet.</p>;
  return (
    <>
      {readings.slice(0, 3).map((reading, at) => (
        <ol className="explained" key={at}>
          <li>
            <h4>Read</h4>
            <p>
              {shown(reading.raw.value)} <code>{shown(reading.raw.address ?? reading.raw.tag_name)}</code>
            </p>
          </li>
          <li>
            <h4>Path</h4>
            <p>
              <code>{visible(reading.path.path)}</code> by <code>{reading.path.template}</code>
              {reading.path.pattern ? ` and the mapping ${visible(reading.path.pattern)}` : ""}
            </p>
          </li>
          <li>
            <h4>Normalised</h4>
            <p>
              {shown(reading.normalized.value)} {shown(reading.normalized.unit ?? "")}
              {Object.keys(reading.conversions).length > 0 && <span className="quiet"> {shown(reading.conversions)}</span>}
            </p>
          </li>
          {reading.dead_letter && <Step health="bad" title="Dead letter" text={reading.dead_letter} />}
          {!reading.report.passes && <Step health="idle" title="Held back" text={reading.report.reason} />}
          {reading.rules.map((rule) => (
            <li key={rule.rule}>
              <h4>
                Rule {rule.rule} <span className="quiet">{rule.matched ? "matches" : "does not match"}</span>
              </h4>
              <p>
                <code>{rule.condition}</code> <span className="quiet">{shown(rule.values)}</span>
              </p>
            </li>
          ))}
          {reading.left_out && <Step health="warn" title="Goes nowhere" text={reading.left_out} />}
          {reading.targets.map((target) => (
            <li key={target.name}>
              <h4>To {target.name}</h4>
              {target.refused ? (
                <Mark health="bad">{visible(target.refused)}</Mark>
              ) : (
                <details>
                  <summary className="quiet">because of {target.because.join(", ")}</summary>
                  {target.written.map((one, index) => (
                    <Facts key={index} facts={Object.entries(one).map(([key, part]) => [key, <code key={key}>{shown(part)}</code>])} />
                  ))}
                </details>
              )}
            </li>
          ))}
        </ol>
      ))}
    </>
  );
}

function Step({ health, title, text }: { health: Health; title: string; text: string }) {
  return (
    <li>
      <h4>{title}</h4>
      <Mark health={health}>{visible(text)}</Mark>
    </li>
  );
}
