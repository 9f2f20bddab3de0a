import { useEffect, useLayoutEffect, useRef, useState, type ReactNode } from "react";

/** A list of which only the rows in sight are in the page, so that ten thousand are as light as fifty. */
export function VirtualList({
  count,
  height,
  row,
  seen,
  selected,
  choose,
  label,
}: {
  count: number;
  height: number;
  row: (index: number) => ReactNode;
  seen: (first: number, last: number) => void;
  selected?: number;
  choose: (index: number) => void;
  label: string;
}) {
  const box = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, size: 600 });
  useLayoutEffect(() => {
    const element = box.current;
    if (!element) return;
    const measure = (): void => setView({ top: element.scrollTop, size: element.clientHeight });
    const watched = new ResizeObserver(measure);
    watched.observe(element);
    element.addEventListener("scroll", measure, { passive: true });
    return () => {
      watched.disconnect();
      element.removeEventListener("scroll", measure);
    };
  }, []);
  const first = Math.max(0, Math.floor(view.top / height) - 6);
  const last = Math.min(count, Math.ceil((view.top + view.size) / height) + 6);
  useEffect(() => seen(first, last), [first, last, count, seen]);
  const move = (event: React.KeyboardEvent): void => {
    const page = Math.floor(view.size / height) - 1;
    const steps: Record<string, number> = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -count, End: count };
    const step = steps[event.key];
    if (step === undefined || !count) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(count - 1, (selected ?? (step > 0 ? -1 : 0)) + step));
    choose(next);
    const element = box.current;
    if (!element) return;
    if (next * height < element.scrollTop) element.scrollTop = next * height;
    else if ((next + 1) * height > element.scrollTop + element.clientHeight) element.scrollTop = (next + 1) * height - element.clientHeight;
  };
  return (
    <div ref={box} className="virtual" role="listbox" tabIndex={0} aria-label={label} onKeyDown={move}>
      <div style={{ height: count * height, position: "relative" }}>
        {Array.from({ length: Math.max(0, last - first) }, (_, at) => first + at).map((index) => (
          <div
            key={index}
            role="option"
            aria-selected={index === selected}
            aria-posinset={index + 1}
            aria-setsize={count}
            className="virtual-row"
            style={{ position: "absolute", top: index * height, height, left: 0, right: 0 }}
            onClick={() => choose(index)}
          >
            {row(index)}
          </div>
        ))}
      </div>
    </div>
  );
}
