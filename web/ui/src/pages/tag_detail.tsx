import { useEffect, useState } from "react";

import { get, post, route } from "../api/client";
import { followTags } from "../api/live";
import type { Sample, TagDetail } from "../api/types";
import { clock, stamp, value, visible, when } from "../lib/format";
import { href } from "../lib/router";
import { Act, Age, copy, Facts, Panel, Trouble } from "../parts/basics";
import { Curve } from "../parts/curves";
import { Icon, Mark, QualityMark } from "../parts/marks";
import { Explained, type Explanation } from "./explained";

const KEPT = 300;

export function TagDetailPanel({ id, close }: { id: number; close: () => void }) {
  const [tag, setTag] = useState<TagDetail>();
  const [error, setError] = useState<Error | null>(null);
  const [explained, setExplained] = useState<Explanation>();
  useEffect(() => {
    setTag(undefined);
    setExplained(undefined);
    let seen = true;
    const read = (): void => {
      get<TagDetail>(route(["tags", String(id)])).then(
        (next) => {
          if (!seen) return;
          setTag((before) => (before ? { ...next, samples: joined(before.samples, next.samples) } : next));
          setError(null);
        },
        (failed: Error) => seen && setError(failed),
      );
    };
    read();
    const timer = window.setInterval(read, 2000);
    return () => {
      seen = false;
      clearInterval(timer);
    };
  }, [id]);
  useLive(id, setTag);
  const known = { ...(tag?.metadata ?? {}), ...(tag?.properties && typeof tag.properties === "object" ? tag.properties : {}) };
  return (
    <Panel
      className="detail tag-detail"
      title={tag ? visible(tag.tag_name || tag.path) : "…"}
      actions={
        <button type="button" className="bare" aria-label="close" onClick={close}>
          <Icon name="close" />
        </button>
      }
    >
      <Trouble error={error} />
      {tag && (
        <>
          <p className="now">
            <span className="figure big">{value(tag.value)}</span> <span className="quiet">{tag.unit ? visible(tag.unit) : ""}</span>
            <QualityMark quality={tag.quality} />
            <span className="quiet">
              <Age time={tag.time_us ?? tag.received_us} /> ago
            </span>
          </p>
          {tag.samples.some((sample) => typeof sample.value === "number") && <Curve samples={tag.samples} unit={tag.unit} label="Last samples" />}
          <div className="pair">
            <div>
              <h3>Raw</h3>
              <Facts
                facts={[
                  ["Value", value(tag.raw)],
                  ["Quality", (tag.raw_quality ?? "–").toLowerCase()],
                  ["Address", <code key="address">{visible(tag.address)}</code>],
                  ["Device", tag.device ? visible(tag.device) : "–"],
                  ["Source", <a key="source" href={href("sources", [tag.source])}>{tag.source}</a>],
                ]}
              />
            </div>
            <div>
              <h3>Normalised</h3>
              <Facts
                facts={[
                  ["Value", `${value(tag.value)} ${tag.unit ?? ""}`],
                  ["Path", <code key="path">{visible(tag.path)}</code>],
                  ["Type", tag.type ?? "–"],
                  ["Goes to", tag.targets.length ? tag.targets.map((name) => <a key={name} className="chip" href={href("targets", [name])}>{name}</a>) : "no target"],
                ]}
              />
            </div>
          </div>
          <p className="actions">
            <Act run={async () => setExplained(await explain(tag))}>Explain</Act>
            <Act run={() => copy(tag.path, "the path")}>Copy path</Act>
          </p>
          {tag.reject && <p><Mark health="bad">{visible(tag.reject)}</Mark></p>}
          {explained && <Explained explanation={explained} />}
          <details className="more">
            <summary>
              Samples <span className="quiet">{tag.samples.length}</span>
            </summary>
            <table className="plain">
              <thead>
                <tr>
                  <th>Time</th>
                  <th className="right">Value</th>
                  <th>Quality</th>
                </tr>
              </thead>
              <tbody>
                {[...tag.samples].reverse().slice(0, 100).map((sample, at) => (
                  <tr key={at}>
                    <td title={stamp(when(sample.time_us))}>{clock(when(sample.time_us), true)}</td>
                    <td className="figure right">{value(sample.value)}</td>
                    <td>
                      <QualityMark quality={sample.quality} />
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </details>
          {Object.keys(known).length > 0 && (
            <details className="more">
              <summary>Properties</summary>
              <Facts facts={Object.entries(known).map(([key, one]) => [visible(key), value(one as string)])} />
            </details>
          )}
        </>
      )}
    </Panel>
  );
}

/** The last reading, asked by its address; where several devices have that, with its device. */
async function explain(tag: TagDetail): Promise<Explanation> {
  const asked = { source: tag.source, value: tag.raw, quality: tag.raw_quality ?? "" };
  if (tag.protocol === "api") return post<Explanation>("/api/explain", { ...asked, tag: tag.address, device: tag.device });
  try {
    return await post<Explanation>("/api/explain", { ...asked, tag: tag.address });
  } catch (error) {
    if (!tag.device) throw error;
    return post<Explanation>("/api/explain", { ...asked, tag: `${tag.device}/${tag.address}` });
  }
}

function joined(before: Sample[], next: Sample[]): Sample[] {
  const since = next[0]?.time_us ?? Infinity;
  return [...before.filter((sample) => sample.time_us < since), ...next].slice(-KEPT);
}

/** The list beside follows this tag too while it is in sight; this one is for when it is not. */
function useLive(id: number, set: (update: (before: TagDetail | undefined) => TagDetail | undefined) => void): void {
  useEffect(() => {
    if (document.querySelector(".tag-list .virtual")?.clientHeight) return;
    return followTags([id], (changed) => {
      const said = changed.find((tag) => tag.id === id);
      if (said) set((before) => (before ? { ...before, ...said } : before));
    });
  }, [id, set]);
}
