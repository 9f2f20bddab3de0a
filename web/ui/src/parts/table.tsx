import { useEffect, useRef, type ReactNode } from "react";

type Head = string | { right: string };

/** Rows below their heads; it scrolls sideways where it is too wide, and on a narrow screen each row is a card that tells its columns itself. */
export function Table({ heads, className = "", children }: { heads: Head[]; className?: string; children: ReactNode }) {
  const box = useRef<HTMLDivElement>(null);
  const words = heads.map((head) => (typeof head === "string" ? head : head.right));
  useEffect(() => {
    for (const row of box.current?.querySelectorAll("tbody tr") ?? []) {
      [...row.children].forEach((cell, at) => {
        if (cell instanceof HTMLElement && cell.dataset.label !== words[at]) cell.dataset.label = words[at] ?? "";
      });
    }
  });
  return (
    <div className="scroll" ref={box}>
      <table className={`rows-table ${className}`}>
        <thead>
          <tr>
            {heads.map((head, at) => (
              <th key={at} className={typeof head === "string" ? undefined : "right"}>
                {words[at]}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}
