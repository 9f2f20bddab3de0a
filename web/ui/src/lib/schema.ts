// Reading JSON Schema as pydantic writes it: what kind of field a key is, and which keys come first.

import type { Problem, Schema } from "../api/types";

export type Kind = "const" | "flag" | "choice" | "number" | "text" | "secret" | "span" | "object" | "map" | "lines" | "rows" | "other";

/** A schema with its reference followed, and without the null that makes it optional. */
export function resolve(schema: Schema, root: Schema): Schema {
  let found = schema;
  for (let depth = 0; depth < 8; depth += 1) {
    if (found.$ref) {
      const { $ref, ...beside } = found;
      found = { ...root.$defs?.[$ref.split("/").at(-1) ?? ""], ...beside };
    } else if (found.anyOf) {
      const { anyOf, ...beside } = found;
      const rest = anyOf.filter((one) => one.type !== "null");
      if (rest.length !== 1) return { ...found, anyOf: rest.map((one) => resolve(one, root)) };
      found = { ...rest[0], ...beside };
    } else return found;
  }
  return found;
}

export function kind(schema: Schema): Kind {
  if (schema.const !== undefined) return "const";
  if (schema.enum) return "choice";
  if (schema.format === "password" || schema.writeOnly) return "secret";
  if (schema.anyOf) {
    const types = new Set(schema.anyOf.flatMap((one) => (one.anyOf ?? [one]).map((inner) => inner.type)));
    return [...types].every((type) => type === "string" || type === "number" || type === "integer") ? "span" : "other";
  }
  if (schema.oneOf) return "other";
  switch (schema.type) {
    case "boolean":
      return "flag";
    case "integer":
    case "number":
      return "number";
    case "string":
      return "text";
    case "object":
      if (schema.properties) return "object";
      return typeof schema.additionalProperties === "object" && schema.additionalProperties.type !== "string" ? "other" : "map";
    case "array":
      if (schema.items?.type === "string" || schema.items?.type === "integer") return "lines";
      return "rows";
    default:
      return "other";
  }
}

export function label(key: string): string {
  const words = key.replace(/_/g, " ");
  const text = words.charAt(0).toUpperCase() + words.slice(1);
  return text.replace(/\b(id|url|tls|qos|crl|ca|opc ua|sasl)\b/gi, (word) => word.toUpperCase());
}

/** Keys that most connections need, in the order in which people think of them; the others are in “All settings”. */
const FIRST = [
  "name", "endpoint", "enabled", "site", "area", "line", "equipment", "username", "password", "token", "interval",
  "security_policy", "trust", "registers", "devices", "nodes", "browse", "subscriptions", "topics", "table", "layout",
  "provider_config", "topic", "key", "database", "bucket", "org", "exchange", "queue", "routing_key", "catalog", "schema", "project_id", "client_secret", "workspace_url", "unit_id", "addresses", "word_order", "client_id", "path", "format",
];
const FIRST_OF_ROW = ["name", "id", "path", "tag_name", "address", "kind", "type", "topic", "match", "tag", "format", "scale", "unit", "qos", "unit_id", "profile_file", "first", "last"];

export function split(schema: Schema, row = false): { first: string[]; more: string[] } {
  const keys = Object.keys(schema.properties ?? {});
  const order = row ? FIRST_OF_ROW : FIRST;
  const first = keys.filter((key) => order.includes(key) || schema.required?.includes(key));
  const place = (key: string): number => (order.indexOf(key) + 1 || 99) - (schema.required?.includes(key) ? 0.5 : 0);
  first.sort((a, b) => place(a) - place(b));
  const shown = row ? first.slice(0, Math.max(5, schema.required?.length ?? 0)) : first;
  return { first: shown, more: keys.filter((key) => !shown.includes(key)) };
}

/** Text of a number or a span as the configuration has it: a number where it is one. */
export function parsed(text: string): string | number | undefined {
  const trimmed = text.trim();
  if (trimmed === "") return undefined;
  return /^-?\d+(\.\d+)?([eE][-+]?\d+)?$/.test(trimmed) ? Number(trimmed) : trimmed;
}

export function shownDefault(schema: Schema): string {
  const value = schema.default;
  if (value === undefined || value === null) return schema.examples?.length ? `e.g. ${String(schema.examples[0])}` : "";
  return typeof value === "object" ? "" : String(value);
}

/** The problem that is told of a key: its place ends in the key's path, as a JSON pointer or with dots. */
export function problemOf(problems: Problem[], path: (string | number)[]): string | undefined {
  const wanted = path.join(".");
  return problems.find((problem) => {
    if (problem.message.startsWith(`${wanted}: `) || problem.message.includes(`.${wanted}: `)) return true;
    const place = (problem.where.includes("/") && !problem.where.includes(":") ? problem.where.replace(/\//g, ".") : problem.where).replace(/^\.+/, "");
    return place === wanted || place.endsWith(`.${wanted}`);
  })?.message;
}

/** A copy with one key set, or taken out where the value says nothing. */
export function withKey(record: Record<string, unknown>, key: string, value: unknown): Record<string, unknown> {
  const next = { ...record };
  const nothing = value === undefined || (typeof value === "object" && value !== null && !Array.isArray(value) && Object.keys(value).length === 0);
  if (nothing || (Array.isArray(value) && value.length === 0)) delete next[key];
  else next[key] = value;
  return next;
}
