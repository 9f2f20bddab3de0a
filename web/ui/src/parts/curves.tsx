import { useEffect, useRef } from "react";
import uPlot from "uplot";

import type { Sample } from "../api/types";
import { clock, value } from "../lib/format";
import { useCell } from "../lib/store";
import { theme } from "../lib/theme";

/** A trend as small as a word: no axes, the last value at its right end. */
export function Spark({ points, label }: { points: number[]; label: string }) {
  if (points.length < 2) return <svg className="spark" viewBox="0 0 100 24" aria-hidden="true" />;
  const low = Math.min(...points);
  const high = Math.max(...points);
  const span = high - low || Math.abs(high) || 1;
  const middle = high === low;
  const at = (point: number, index: number): string =>
    `${((index / (points.length - 1)) * 100).toFixed(1)},${(middle ? 12 : 22 - ((point - low) / span) * 20).toFixed(1)}`;
  return (
    <svg className="spark" viewBox="0 0 100 24" preserveAspectRatio="none" role="img" aria-label={`${label}: from ${value(low)} to ${value(high)}`}>
      <polyline points={points.map(at).join(" ")} />
    </svg>
  );
}

const style = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Samples over time; those that are not good stand out by colour and by a mark. */
export function Curve({ samples, unit, label }: { samples: Sample[]; unit: string | null; label: string }) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(undefined);
  const shown = useCell(theme);
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const ink = style("--ink");
    const axis = { stroke: style("--ink-2"), grid: { stroke: style("--line"), width: 1 }, ticks: { stroke: style("--line"), width: 1 }, font: "12px system-ui" };
    plot.current = new uPlot(
      {
        width: element.clientWidth,
        height: 180,
        legend: { show: false },
        cursor: { y: false },
        scales: { x: { time: true } },
        axes: [{ ...axis, values: (_, ticks) => ticks.map((tick) => clock(new Date(tick * 1000))), space: 76 }, { ...axis, size: 64, values: (_, ticks) => ticks.map((tick) => value(tick)) }],
        series: [
          {},
          { stroke: ink, width: 1.5, points: { show: false } },
          { stroke: style("--bad"), width: 0, points: { show: true, size: 8, width: 2, fill: style("--panel") } },
        ],
      },
      [[], [], []],
      element,
    );
    const resized = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: 180 }));
    resized.observe(element);
    return () => {
      resized.disconnect();
      plot.current?.destroy();
    };
  }, [shown]);
  useEffect(() => {
    const numeric = samples.filter((sample) => typeof sample.value === "number" || typeof sample.value === "boolean");
    const y = numeric.map((sample) => Number(sample.value));
    plot.current?.setData([numeric.map((sample) => sample.time_us / 1e6), y, numeric.map((sample, at) => (sample.quality === "GOOD" ? null : (y[at] ?? null)))]);
  }, [samples, shown]);
  return (
    <figure className="curve">
      <figcaption className="quiet">
        {label}
        {unit ? ` in ${unit}` : ""}
      </figcaption>
      <div ref={box} />
    </figure>
  );
}
