// Health and quality: a shape and a word, and a colour only where something is not as it should be.

import type { Health, Quality } from "../api/types";

const WORD: Record<Health, string> = { ok: "ok", warn: "warning", bad: "fault", idle: "idle" };

export function Shape({ health }: { health: Health }) {
  return (
    <svg className={`shape ${health}`} viewBox="0 0 16 16" aria-hidden="true">
      {health === "bad" && (
        <>
          <rect x="1" y="1" width="14" height="14" rx="1.5" className="solid" />
          <path d="M8 3.8v5M8 11.4v.9" className="sign" />
        </>
      )}
      {health === "warn" && (
        <>
          <path d="M8 1.2 15.2 14.6H.8Z" className="solid" />
          <path d="M8 6v4M8 12v.7" className="sign" />
        </>
      )}
      {health === "ok" && <circle cx="8" cy="8" r="4.6" className="line" />}
      {health === "idle" && <path d="M3 8h10" className="line" />}
    </svg>
  );
}

export function Mark({ health, children }: { health: Health; children?: React.ReactNode }) {
  return (
    <span className={`mark ${health}`}>
      <Shape health={health} />
      <span>{children ?? WORD[health]}</span>
    </span>
  );
}

export function qualityHealth(quality: Quality | null | undefined): Health {
  if (quality === "GOOD") return "ok";
  if (quality === "BAD" || quality === "ALARM") return "bad";
  return quality ? "warn" : "idle";
}

export function QualityMark({ quality }: { quality: Quality | null | undefined }) {
  return <Mark health={qualityHealth(quality)}>{quality ? quality.toLowerCase() : "no value"}</Mark>;
}

const ICONS: Record<string, string> = {
  overview: "M2 2h5v5H2zM9 2h5v5H9zM2 9h5v5H2zM9 9h5v5H9z",
  pipeline: "M1 4h4v3H1zM1 10h4v3H1zM11 7h4v3h-4zM5 5.5h2.5v6H5M7.500 8.500H11",
  tags: "M2 2h6l6 6-6 6-6-6zM5 5h.01",
  tail: "M2 3h12M2 6.500h9M2 10h12M2 13.500h6",
  sources: "M2 8h8M7 5l3 3-3 3M12 2v12",
  targets: "M6 8h8M11 5l3 3-3 3M3 2v12",
  rules: "M2 8h4l4-5h4M6 8l4 5h4",
  discovery: "M7 2a5 5 0 1 0 0 10A5 5 0 0 0 7 2zM10.600 10.600 14 14",
  store: "M2 4c0-2.700 12-2.700 12 0s-12 2.700-12 0v8c0 2.700 12 2.700 12 0V4M2 8c0 2.700 12 2.700 12 0",
  certificates: "M8 1.500 13.500 4v4c0 3.500-2.500 5.500-5.500 6.500C5 13.500 2.500 11.500 2.500 8V4zM5.500 8l2 2 3.500-4",
  history: "M8 2a6 6 0 1 1-5.600 4M2 2.500V6h3.500M8 5v3.500l2.500 1.500",
  diagnostics: "M1 8h3l2-5 3.500 10 2-5H15",
  users: "M8 8a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM2.500 14c0-3 2.500-4.500 5.500-4.500s5.500 1.500 5.500 4.500",
  menu: "M2 4h12M2 8h12M2 12h12",
  close: "M3 3l10 10M13 3 3 13",
  up: "M8 13V3M4 7l4-4 4 4",
  down: "M8 3v10M4 9l4 4 4-4",
  right: "M6 3l5 5-5 5",
  plus: "M8 2.500v11M2.500 8h11",
};

export function Icon({ name }: { name: string }) {
  return (
    <svg className="icon" viewBox="0 0 16 16" aria-hidden="true">
      <path d={ICONS[name] ?? ""} />
    </svg>
  );
}
