import { Handle, MarkerType, Position, ReactFlow, Controls, type Edge, type Node, type NodeProps } from "@xyflow/react";
import { useMemo, useState, useSyncExternalStore } from "react";
import "@xyflow/react/dist/style.css";

import type { Pipeline, PipelineNode } from "../api/types";
import { worst } from "../lib/findings";
import { rate } from "../lib/format";
import { href } from "../lib/router";
import { useAnswer, useCell } from "../lib/store";
import { theme } from "../lib/theme";
import { Empty, Facts, Page, Panel, Trouble } from "../parts/basics";
import { Mark } from "../parts/marks";

type Step = Node<{ node: PipelineNode; narrow: boolean }, "step">;

function StepNode({ data: { node, narrow }, selected }: NodeProps<Step>) {
  return (
    <div className={`step ${node.health} ${selected ? "chosen" : ""}`}>
      {node.kind !== "source" && <Handle type="target" position={narrow ? Position.Top : Position.Left} isConnectable={false} />}
      <strong title={node.name}>{node.name}</strong>
      <Mark health={node.health} />
      <span className="figure">{rate(node.rate)}</span>
      {node.kind !== "target" && <Handle type="source" position={narrow ? Position.Bottom : Position.Right} isConnectable={false} />}
    </div>
  );
}
const nodeTypes = { step: StepNode };
const WIDTH = 232;
const HEIGHT = 100;

/** Columns from left to right: each node one further than the furthest of those that feed it. */
function columns(pipeline: Pipeline): Map<string, number> {
  const column = new Map(pipeline.nodes.map((node) => [node.id, 0]));
  for (let round = 0; round < pipeline.nodes.length; round += 1) {
    let moved = false;
    for (const edge of pipeline.edges) {
      const next = (column.get(edge.from) ?? 0) + 1;
      if (next > (column.get(edge.to) ?? 0) && next < 20) {
        column.set(edge.to, next);
        moved = true;
      }
    }
    if (!moved) break;
  }
  const last = Math.max(0, ...column.values());
  for (const node of pipeline.nodes) if (node.kind === "target") column.set(node.id, Math.max(last, 1));
  return column;
}

function placed(pipeline: Pipeline, narrow: boolean): Step[] {
  const column = columns(pipeline);
  const tall = new Map<number, number>();
  for (const at of column.values()) tall.set(at, (tall.get(at) ?? 0) + 1);
  const most = Math.max(1, ...tall.values());
  const above = (x: number): number => [...tall].reduce((sum, [at, n]) => (at < x ? sum + Math.ceil(n / 2) : sum), 0);
  const used = new Map<number, number>();
  return [...pipeline.nodes]
    .sort((a, b) => worst(a.health, b.health) || a.name.localeCompare(b.name))
    .map((node) => {
      const x = column.get(node.id) ?? 0;
      const row = used.get(x) ?? 0;
      used.set(x, row + 1);
      if (narrow) {
        const alone = (tall.get(x) ?? 1) === 1;
        const position = { x: alone ? 91 : (row % 2) * 182, y: (above(x) + Math.floor(row / 2)) * 118 };
        return { id: node.id, type: "step", position, data: { node, narrow }, draggable: false };
      }
      return { id: node.id, type: "step", position: { x: x * WIDTH, y: (row + (most - (tall.get(x) ?? 1)) / 2) * HEIGHT }, data: { node, narrow }, draggable: false };
    });
}

const NARROW = window.matchMedia("(max-width: 860px)");

function useNarrow(): boolean {
  return useSyncExternalStore(
    (told) => {
      NARROW.addEventListener("change", told);
      return () => NARROW.removeEventListener("change", told);
    },
    () => NARROW.matches,
  );
}

export default function PipelinePage() {
  const { data, error, reload } = useAnswer<Pipeline>("/api/pipeline", 2000);
  const [chosen, setChosen] = useState<string>();
  const shown = useCell(theme);
  const narrow = useNarrow();
  const nodes = useMemo(() => (data ? placed(data, narrow).map((node) => ({ ...node, selected: node.id === chosen })) : []), [data, chosen, narrow]);
  const edges = useMemo<Edge[]>(
    () =>
      (data?.edges ?? []).map((edge) => ({
        id: `${edge.from}>${edge.to}`,
        source: edge.from,
        target: edge.to,
        label: rate(edge.rate),
        className: edge.rate ? "flows" : "still",
        markerEnd: { type: MarkerType.ArrowClosed },
      })),
    [data],
  );
  const node = data?.nodes.find((one) => one.id === chosen);
  return (
    <Page title="Pipeline" about="Every step from the plant to the targets, with readings per second.">
      <Trouble error={error} retry={reload} />
      {data && data.nodes.length === 0 && <Empty>Nothing is configured yet.</Empty>}
      {data && data.nodes.length > 0 && (
        <div className="graph-and-detail">
          <div className="graph">
            <ReactFlow
              key={String(narrow)}
              nodes={nodes}
              edges={edges}
              nodeTypes={nodeTypes}
              colorMode={shown}
              fitView
              fitViewOptions={{ padding: 0.06, maxZoom: 1.3 }}
              minZoom={0.15}
              nodesConnectable={false}
              nodesDraggable={false}
              onNodeClick={(_, clicked) => setChosen(clicked.id)}
              onSelectionChange={(selection) => selection.nodes[0] && setChosen(selection.nodes[0].id)}
              onPaneClick={() => setChosen(undefined)}
              proOptions={{ hideAttribution: true }}
            >
              <Controls showInteractive={false} position="top-right" />
            </ReactFlow>
          </div>
          {node && data && <Detail node={node} pipeline={data} />}
        </div>
      )}
    </Page>
  );
}

function Detail({ node, pipeline }: { node: PipelineNode; pipeline: Pipeline }) {
  const name = (id: string): string => pipeline.nodes.find((one) => one.id === id)?.name ?? id;
  const from = pipeline.edges.filter((edge) => edge.to === node.id);
  const to = pipeline.edges.filter((edge) => edge.from === node.id);
  const list = (ends: { id: string; rate: number | null }[]) =>
    ends.length ? (
      <ul>
        {ends.map((end) => (
          <li key={end.id}>
            {name(end.id)} <span className="figure">{rate(end.rate)}</span>
          </li>
        ))}
      </ul>
    ) : (
      "–"
    );
  return (
    <Panel title={node.name} className="detail">
      <Facts
        facts={[
          ["Health", <Mark key="mark" health={node.health} />],
          ["Kind", node.kind],
          ["Rate", rate(node.rate)],
          ["State", node.detail || "–"],
          ["From", list(from.map((edge) => ({ id: edge.from, rate: edge.rate })))],
          ["To", list(to.map((edge) => ({ id: edge.to, rate: edge.rate })))],
        ]}
      />
      {node.kind !== "step" && (
        <p>
          <a className="button" href={href(`${node.kind}s`, [node.name])}>
            Open the {node.kind}
          </a>
        </p>
      )}
    </Panel>
  );
}
