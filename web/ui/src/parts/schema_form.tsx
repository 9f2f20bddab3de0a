// A form for a model of the configuration, made from its JSON schema. A key that is left empty stays out of the file.

import { useState } from "react";

import type { Problem, Schema } from "../api/types";
import { kind, label, parsed, problemOf, resolve, shownDefault, split, withKey } from "../lib/schema";
import { Field } from "./basics";
import { Icon } from "./marks";

type Fields = Record<string, unknown>;

interface Shared {
  root: Schema;
  problems: Problem[];
}

export function SchemaForm({ schema, value, change, problems }: { schema: Schema; value: Fields; change: (value: Fields) => void; problems: Problem[] }) {
  return <Group shared={{ root: schema, problems }} schema={schema} value={value} change={change} path={[]} more="All settings" />;
}

function Group({
  shared,
  schema,
  value,
  change,
  path,
  more,
  row = false,
}: {
  shared: Shared;
  schema: Schema;
  value: Fields;
  change: (value: Fields) => void;
  path: (string | number)[];
  more: string;
  row?: boolean;
}) {
  const { first, more: rest } = split(schema, row);
  const set = rest.filter((key) => value[key] !== undefined).length;
  const one = (key: string) => (
    <Key
      key={key}
      shared={shared}
      name={key}
      required={schema.required?.includes(key) ?? false}
      schema={resolve(schema.properties?.[key] ?? {}, shared.root)}
      value={value[key]}
      change={(next) => change(withKey(value, key, next))}
      path={[...path, key]}
    />
  );
  return (
    <div className={row ? "form-row" : "form"}>
      {first.map(one)}
      {rest.length > 0 && (
        <details className="more">
          <summary>
            {more} <span className="quiet">{set ? `${set} of ${rest.length} set` : rest.length}</span>
          </summary>
          <div className="form">{rest.map(one)}</div>
        </details>
      )}
    </div>
  );
}

function Key({
  shared,
  name,
  required,
  schema,
  value,
  change,
  path,
}: {
  shared: Shared;
  name: string;
  required: boolean;
  schema: Schema;
  value: unknown;
  change: (value: unknown) => void;
  path: (string | number)[];
}) {
  const what = kind(schema);
  const error = problemOf(shared.problems, path);
  const title = (
    <>
      {label(name)}
      {required && <abbr title="needed">*</abbr>}
    </>
  );
  const hint = schema.description;
  if (what === "const") return null;
  if (what === "flag") {
    const on = value === undefined ? Boolean(schema.default) : Boolean(value);
    return (
      <div className="field flag">
        <label>
        <input type="checkbox" name={path.join(".")} checked={on} onChange={(event) => change(event.target.checked === Boolean(schema.default) ? undefined : event.target.checked)} />
        <span className="label">{title}</span>
        </label>
        {hint && <small className="quiet">{hint}</small>}
      </div>
    );
  }
  if (what === "object") {
    const fields = (value ?? {}) as Fields;
    return (
      <details className="group" open={name === "provider_config" || Object.keys(fields).length > 0}>
        <summary>
          {title} <span className="quiet">{hint}</span>
        </summary>
        <Group shared={shared} schema={schema} value={fields} change={change} path={path} more="More" />
      </details>
    );
  }
  if (what === "rows") {
    return <Rows shared={shared} title={title} hint={hint} schema={schema} value={(value ?? []) as Fields[]} change={change} path={path} error={error} />;
  }
  return (
    <Field label={title} hint={hint} error={error}>
      <Input what={what} name={path.join(".")} required={required} schema={schema} value={value} change={change} />
    </Field>
  );
}

interface InputProps {
  what: string;
  name: string;
  required: boolean;
  schema: Schema;
  value: unknown;
  change: (value: unknown) => void;
  "aria-describedby"?: string;
}

function Input({ what, name, required, schema, value, change, "aria-describedby": described }: InputProps) {
  const placeholder = shownDefault(schema);
  if (what === "choice") {
    return (
      <select name={name} aria-describedby={described} value={value === undefined ? "" : String(value)} onChange={(event) => change(schema.enum?.find((one) => String(one) === event.target.value))}>
        {!(required && value !== undefined) && <option value="">{placeholder && !placeholder.startsWith("e.g.") ? `${placeholder} (default)` : "–"}</option>}
        {schema.enum?.map((one) => (
          <option key={String(one)}>{String(one)}</option>
        ))}
      </select>
    );
  }
  if (what === "number" || what === "span") {
    return (
      <input
        name={name}
        aria-describedby={described}
        inputMode={what === "number" ? "decimal" : "text"}
        autoComplete="off"
        placeholder={placeholder}
        value={value === undefined || value === null ? "" : String(value)}
        onChange={(event) => change(/[.eE-]$|\.\d*0$/.test(event.target.value) ? event.target.value : parsed(event.target.value))}
        onBlur={(event) => {
          const next = parsed(event.target.value);
          if (next !== value && !(next === undefined && value === null)) change(next);
        }}
      />
    );
  }
  if (what === "secret") {
    const kept = typeof value === "string" && /^\*+$/.test(value);
    return (
      <input
        name={name}
        aria-describedby={described}
        type="password"
        autoComplete="new-password"
        placeholder={kept ? "kept as it is" : "better: ${secret:name}"}
        value={kept ? "" : ((value as string | undefined) ?? "")}
        onChange={(event) => change(event.target.value || undefined)}
      />
    );
  }
  if (what === "lines") {
    return <Lines name={name} whole={schema.items?.type === "integer"} value={(value ?? []) as unknown[]} change={change} />;
  }
  if (what === "map") {
    return <MapText name={name} value={(value ?? {}) as Record<string, unknown>} change={change} />;
  }
  if (what === "other") return <JsonText name={name} value={value} change={change} />;
  return (
    <input
      name={name}
      aria-describedby={described}
      required={required}
      autoComplete="off"
      spellCheck={false}
      placeholder={placeholder}
      value={(value as string | undefined) ?? ""}
      onChange={(event) => change(event.target.value || undefined)}
    />
  );
}

function Lines({ name, whole, value, change }: { name: string; whole: boolean; value: unknown[]; change: (value: unknown) => void }) {
  const [text, setText] = useState(value.join("\n"));
  return (
    <textarea
      name={name}
      rows={Math.min(6, Math.max(1, text.split("\n").length))}
      spellCheck={false}
      placeholder="one a line"
      value={text}
      onChange={(event) => {
        setText(event.target.value);
        const lines = event.target.value.split("\n").map((line) => line.trim()).filter(Boolean);
        change(whole ? lines.map(Number) : lines);
      }}
    />
  );
}

function MapText({ name, value, change }: { name: string; value: Record<string, unknown>; change: (value: unknown) => void }) {
  const [text, setText] = useState(Object.entries(value).map(([key, one]) => `${key}: ${String(one)}`).join("\n"));
  return (
    <textarea
      name={name}
      rows={Math.min(6, Math.max(1, text.split("\n").length))}
      spellCheck={false}
      placeholder="key: value, one a line"
      value={text}
      onChange={(event) => {
        setText(event.target.value);
        const pairs = event.target.value.split("\n").map((line) => /^\s*([^:]+?)\s*:\s*(.*?)\s*$/.exec(line));
        change(Object.fromEntries(pairs.flatMap((pair) => (pair?.[1] ? [[pair[1], pair[2] ?? ""]] : []))));
      }}
    />
  );
}

function JsonText({ name, value, change }: { name: string; value: unknown; change: (value: unknown) => void }) {
  const [text, setText] = useState(value === undefined || value === null ? "" : JSON.stringify(value));
  const [wrong, setWrong] = useState(false);
  return (
    <>
      <textarea
        name={name}
        rows={1}
        spellCheck={false}
        placeholder="JSON, or edit the YAML beside"
        value={text}
        onChange={(event) => {
          setText(event.target.value);
          try {
            change(event.target.value.trim() ? JSON.parse(event.target.value) : undefined);
            setWrong(false);
          } catch {
            setWrong(true);
          }
        }}
      />
      {wrong && <small className="error">not JSON yet</small>}
    </>
  );
}

const SHOWN = 50;

function Rows({
  shared,
  title,
  hint,
  schema,
  value,
  change,
  path,
  error,
}: {
  shared: Shared;
  title: React.ReactNode;
  hint?: string;
  schema: Schema;
  value: Fields[];
  change: (value: unknown) => void;
  path: (string | number)[];
  error?: string;
}) {
  const item = resolve(schema.items ?? {}, shared.root);
  const name = String(path.at(-1));
  const one = name.replace(/ies$/, "y").replace(/s$/, "");
  return (
    <fieldset className="rows">
      <legend>
        {title} <span className="quiet">{value.length || ""}</span>
      </legend>
      {hint && <small className="quiet">{hint}</small>}
      {error && <small className="error">{error}</small>}
      {value.slice(0, SHOWN).map((row, at) => (
        <div className="row" key={at}>
          {item.properties ? (
            <Group
              shared={shared}
              schema={item}
              value={row}
              change={(next) => change(value.map((other, index) => (index === at ? next : other)))}
              path={[...path, at]}
              more="More"
              row
            />
          ) : (
            <JsonText name={[...path, at].join(".")} value={row} change={(next) => change(value.map((other, index) => (index === at ? next : other)))} />
          )}
          <button type="button" className="bare" aria-label={`remove ${one} ${at + 1}`} onClick={() => change(value.filter((_, index) => index !== at))}>
            <Icon name="close" />
          </button>
        </div>
      ))}
      {value.length > SHOWN && <p className="quiet">and {value.length - SHOWN} more: edit them in the YAML beside</p>}
      <button type="button" onClick={() => change([...value, {}])}>
        <Icon name="plus" /> Add {one.replace(/_/g, " ")}
      </button>
    </fieldset>
  );
}
