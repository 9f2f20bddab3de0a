import { cloneElement, useEffect, useId, useRef, useState, type ReactElement, type ReactNode } from "react";

import { ApiError, remove } from "../api/client";
import { age, stamp, when } from "../lib/format";
import { Cell, useCell, useNow } from "../lib/store";
import { Icon, Shape } from "./marks";
import type { Health } from "../api/types";

export function Page({ title, about, actions, children }: { title: string; about?: ReactNode; actions?: ReactNode; children: ReactNode }) {
  useEffect(() => {
    document.title = `${title} · Bifrost`;
  }, [title]);
  return (
    <div className="page">
      <header className="page-head">
        <div>
          <h1 tabIndex={-1}>{title}</h1>
          {about && <p className="quiet">{about}</p>}
        </div>
        {actions && <div className="actions">{actions}</div>}
      </header>
      {children}
    </div>
  );
}

export function Panel({ title, actions, children, className = "" }: { title?: ReactNode; actions?: ReactNode; children: ReactNode; className?: string }) {
  return (
    <section className={`panel ${className}`}>
      {(title || actions) && (
        <header>
          {title && <h2>{title}</h2>}
          {actions && <div className="actions">{actions}</div>}
        </header>
      )}
      {children}
    </section>
  );
}

/** A button that shows at once that it was pressed, and what went wrong. */
export function Act({
  run,
  children,
  kind = "",
  confirm,
  disabled,
  title,
}: {
  run: () => unknown;
  children: ReactNode;
  kind?: "" | "main" | "danger" | "bare";
  confirm?: string;
  disabled?: boolean;
  title?: string;
}) {
  const [busy, setBusy] = useState(false);
  const [asked, setAsked] = useState(false);
  const seen = useRef(true);
  useEffect(() => {
    seen.current = true;
    return () => {
      seen.current = false;
    };
  }, []);
  const press = async (): Promise<void> => {
    if (confirm && !asked) {
      setAsked(true);
      window.setTimeout(() => seen.current && setAsked(false), 4000);
      return;
    }
    setAsked(false);
    setBusy(true);
    try {
      await run();
    } catch (error) {
      tell(error instanceof Error ? error.message : String(error), "bad");
    } finally {
      if (seen.current) setBusy(false);
    }
  };
  return (
    <button type="button" className={asked ? "danger" : kind} disabled={busy || disabled} aria-busy={busy} title={title} onClick={() => void press()}>
      {asked ? confirm : children}
      {busy && <span className="busy" aria-label="working" />}
    </button>
  );
}

/** A button that removes something, when it is pressed twice. */
export function Remove({ what, path, done, disabled }: { what: "Delete" | "Remove"; path: string; done: () => void; disabled?: boolean }) {
  return (
    <Act kind="danger" disabled={disabled} confirm={`Press again to ${what.toLowerCase()}`} run={() => remove(path).then(done)}>
      {what}
    </Act>
  );
}

// ---------------------------------------------------------------------- messages

interface Message {
  key: number;
  text: string;
  health: Health;
}
const messages = new Cell<Message[]>([]);
let told = 0;

export function tell(text: string, health: Health = "ok"): void {
  const message = { key: ++told, text, health };
  messages.write([...messages.read().slice(-3), message]);
  window.setTimeout(() => dismiss(message.key), health === "bad" ? 15_000 : 5000);
}

const dismiss = (key: number): void => messages.write(messages.read().filter((one) => one.key !== key));

export function Messages() {
  return (
    <div className="messages" role="status" aria-live="polite">
      {useCell(messages).map((one) => (
        <p key={one.key} className={one.health}>
          <Shape health={one.health} />
          <span>{one.text}</span>
          <button type="button" className="bare" aria-label="dismiss" onClick={() => dismiss(one.key)}>
            <Icon name="close" />
          </button>
        </p>
      ))}
    </div>
  );
}

/** What a route did not give, in words; nothing while all is well. */
export function Trouble({ error, retry }: { error: Error | null; retry?: () => void }) {
  if (!error) return null;
  const problems = error instanceof ApiError ? error.problems : [];
  return (
    <div className="trouble" role="alert">
      <Shape health="bad" />
      <div>
        <p>{error.message}</p>
        {problems.length > 0 && (
          <ul>
            {problems.map((problem, at) => (
              <li key={at}>
                {problem.where && <code>{problem.where}</code>} {problem.message}
              </li>
            ))}
          </ul>
        )}
      </div>
      {retry && (
        <button type="button" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}

export function Empty({ children }: { children: ReactNode }) {
  return <div className="empty">{children}</div>;
}

/** How long ago something was, with the time itself beside the pointer. */
export function Age({ time }: { time: string | number | null | undefined }) {
  const now = useNow();
  const date = when(time);
  return (
    <time dateTime={date?.toISOString()} title={stamp(date)}>
      {age(date, now)}
    </time>
  );
}

export function Dialog({ title, close, children, wide }: { title: string; close: () => void; children: ReactNode; wide?: boolean }) {
  const box = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const opened = box.current;
    if (opened && !opened.open) opened.showModal();
    return () => opened?.close();
  }, []);
  return (
    <dialog
      ref={box}
      aria-labelledby={id}
      className={wide ? "wide" : ""}
      onCancel={(event) => {
        event.preventDefault();
        close();
      }}
      onClick={(event) => {
        if (event.target === box.current) close();
      }}
    >
      <header>
        <h2 id={id}>{title}</h2>
        <button type="button" className="bare" aria-label="close" onClick={close}>
          <Icon name="close" />
        </button>
      </header>
      <div className="dialog-body">{children}</div>
    </dialog>
  );
}

/** A field with its name above; the hint below describes it, and is not part of its name. */
export function Field({ label, hint, error, children }: { label: ReactNode; hint?: ReactNode; error?: ReactNode; children: ReactElement<{ "aria-describedby"?: string }> }) {
  const id = useId();
  const described = hint || error ? cloneElement(children, { "aria-describedby": id }) : children;
  return (
    <div className={`field ${error ? "wrong" : ""}`}>
      <label>
        <span className="label">{label}</span>
        {described}
      </label>
      <div id={id}>
        {hint && <small className="quiet">{hint}</small>}
        {error && (
          <small className="error">
            <Shape health="bad" /> {error}
          </small>
        )}
      </div>
    </div>
  );
}

export function Bar({ share, health = "ok", label }: { share: number; health?: Health; label: string }) {
  return (
    <svg className={`bar ${health}`} viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label={label}>
      <rect width="100" height="6" className="back" />
      <rect width={Math.min(100, share * 100)} height="6" className="front" />
    </svg>
  );
}

export function Facts({ facts }: { facts: [label: string, value: ReactNode][] }) {
  return (
    <dl className="facts">
      {facts.map(([label, value]) => (
        <div key={label}>
          <dt>{label}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

export async function copy(text: string, what: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea"); // pages that are not on https have no clipboard API
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  tell(`Copied ${what}.`);
}
