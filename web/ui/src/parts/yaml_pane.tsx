import { useEffect, useRef, useState } from "react";

import { copy } from "./basics";

/** What the form makes as YAML, and the other way round: either side may be written in. */
export function YamlPane({ value, change }: { value: Record<string, unknown>; change: (value: Record<string, unknown>) => void }) {
  const [text, setText] = useState("");
  const [wrong, setWrong] = useState("");
  const written = useRef<Record<string, unknown> | undefined>(undefined);
  const typed = useRef(0);
  useEffect(() => {
    if (written.current === value) return; // it comes from here
    let seen = true;
    const before = typed.current;
    void import("yaml").then(({ stringify }) => {
      if (!seen || typed.current !== before) return; // what is typed here meanwhile counts
      setText(stringify(value, { lineWidth: 100 }));
      setWrong("");
    });
    return () => {
      seen = false;
    };
  }, [value]);
  const write = async (next: string): Promise<void> => {
    typed.current += 1;
    setText(next);
    const { parse } = await import("yaml");
    try {
      const read: unknown = parse(next);
      if (read !== null && (typeof read !== "object" || Array.isArray(read))) throw new Error("keys and values are expected");
      written.current = (read ?? {}) as Record<string, unknown>;
      setWrong("");
      change(written.current);
    } catch (error) {
      setWrong(error instanceof Error ? (error.message.split("\n")[0] ?? "") : String(error));
    }
  };
  return (
    <div className="yaml">
      <header>
        <h3>YAML</h3>
        <button type="button" className="bare" onClick={() => void copy(text, "the YAML")}>
          Copy
        </button>
      </header>
      <textarea aria-label="YAML" spellCheck={false} value={text} onChange={(event) => void write(event.target.value)} />
      {wrong && <small className="error">{wrong}</small>}
    </div>
  );
}
