import { useState } from "react";

import { route } from "../api/client";
import type { BrowseNode } from "../api/types";
import { value, visible } from "../lib/format";
import { useAnswer } from "../lib/store";
import { Dialog, Trouble } from "../parts/basics";
import { Icon } from "../parts/marks";

/** The address space of an OPC UA server, opened level by level; what is ticked is read. */
export function Browse({ source, have, take, close }: { source: string; have: string[]; take: (ids: string[]) => void; close: () => void }) {
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const turn = (ids: string[], on: boolean): void => {
    const next = new Set(chosen);
    for (const id of ids) if (on) next.add(id); else next.delete(id);
    setChosen(next);
  };
  return (
    <Dialog title={`Nodes of ${source}`} close={close} wide>
      <div className="browse">
        <Level source={source} node="" have={new Set(have)} chosen={chosen} turn={turn} />
      </div>
      <div className="save-bar">
        <button type="button" className="main" disabled={!chosen.size} onClick={() => take([...chosen])}>
          Read {chosen.size || ""} chosen
        </button>
        <button type="button" onClick={close}>
          Cancel
        </button>
      </div>
    </Dialog>
  );
}

interface Choosing {
  source: string;
  have: ReadonlySet<string>;
  chosen: ReadonlySet<string>;
  turn: (ids: string[], on: boolean) => void;
}

function Level({ node, ...choosing }: { node: string } & Choosing) {
  const { data, error, reload } = useAnswer<{ nodes: BrowseNode[]; truncated: boolean }>(route(["sources", "browse"], { source: choosing.source, node }));
  const variables = (data?.nodes ?? []).filter((one) => one.kind === "variable").map((one) => one.node_id);
  if (error) return <Trouble error={error} retry={reload} />;
  if (!data) return <p className="quiet">…</p>;
  if (!data.nodes.length) return <p className="quiet">nothing below</p>;
  const all = variables.length > 1 && variables.every((id) => choosing.chosen.has(id) || choosing.have.has(id));
  return (
    <>
      {variables.length > 1 && (
        <label className="all">
          <input type="checkbox" checked={all} onChange={(event) => choosing.turn(variables, event.target.checked)} /> all {variables.length} variables here
        </label>
      )}
      <ul>
        {data.nodes.map((one) => (
          <Twig key={one.node_id} one={one} {...choosing} />
        ))}
      </ul>
      {data.truncated && <p className="quiet">There is more here than is listed; “browse” in the form reads all of it.</p>}
    </>
  );
}

function Twig({ one, ...choosing }: { one: BrowseNode } & Choosing) {
  const [open, setOpen] = useState(false);
  const variable = one.kind === "variable";
  const had = choosing.have.has(one.node_id);
  return (
    <li>
      <div className="twig">
        {one.has_children ? (
          <button type="button" className={`bare turn ${open ? "open" : ""}`} aria-label={`${open ? "close" : "open"} ${one.name}`} aria-expanded={open} onClick={() => setOpen(!open)}>
            <Icon name="right" />
          </button>
        ) : (
          <span className="turn" />
        )}
        {variable ? (
          <label>
            <input type="checkbox" disabled={had} checked={had || choosing.chosen.has(one.node_id)} onChange={(event) => choosing.turn([one.node_id], event.target.checked)} />
            <span>{visible(one.name)}</span>
          </label>
        ) : (
          <button type="button" className="bare" onClick={() => setOpen(!open)}>
            {visible(one.name)}
          </button>
        )}
        <span className="figure">{variable ? value(one.value) : ""}</span>
        <span className="quiet">{one.unit ? `${visible(one.unit)} · ` : ""}{one.type || one.kind}</span>
        <code className="quiet">{visible(one.node_id)}</code>
      </div>
      {open && <Level node={one.node_id} {...choosing} />}
    </li>
  );
}
