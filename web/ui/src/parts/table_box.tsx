import { useEffect, useRef, type ReactNode } from "react";

/** A table that scrolls sideways where it is too wide; on a narrow screen each row is a card, and tells its columns itself. */
export function TableBox({ children }: { children: ReactNode }) {
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const heads = [...(box.current?.querySelectorAll("thead th") ?? [])].map((head) => head.textContent ?? "");
    for (const row of box.current?.querySelectorAll("tbody tr") ?? []) {
      [...row.children].forEach((cell, at) => {
        if (cell instanceof HTMLElement && cell.dataset.label !== heads[at]) cell.dataset.label = heads[at] ?? "";
      });
    }
  });
  return (
    <div className="scroll" ref={box}>
      {children}
    </div>
  );
}
