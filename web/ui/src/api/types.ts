// What the gateway's API answers; the contract is its OpenAPI document.

export type Role = "viewer" | "operator" | "admin";
export type Health = "ok" | "warn" | "bad" | "idle";

export interface Session {
  setup_needed: boolean;
  user: string | null;
  role: Role | null;
  csrf: string | null;
  oidc: string | null;
  problem: string | null;
}

export interface Problem {
  where: string;
  message: string;
}

export interface SourceStatus {
  protocol: string;
  state: "connecting" | "connected" | "down" | "stopped";
  detail: string;
  received: number;
  reconnections: number;
  last_reading: number | null; // seconds since the epoch
  tags: number;
  gaps: number;
  counts: Record<string, number>;
  measures: Record<string, number>;
}

export interface TargetStatus {
  connected: boolean;
  breaker: string;
  delivered: number;
  stored: number;
  spool_bytes: number;
  quota_bytes: number | null;
  full_in: number | null; // seconds
  oldest_age: number | null; // seconds
  discarded: Record<string, number>; // by reason
  alarm: string;
  in_flight: number;
  success_rate: number | null;
  response_time: { p50: number | null; p99: number | null };
  last_success: number | null;
  last_error: string | null;
  error_class: string | null;
  errors: Record<string, number>;
}

export interface Status {
  gateway: string;
  status: "ok" | "degraded" | "draining";
  uptime: number;
  disk?: { written_bytes: number; years: number | null };
  sources: Record<string, SourceStatus>;
  targets: Record<string, TargetStatus>;
  rates?: Record<"source" | "target", Record<string, number | null>>;
  kept: Record<string, { readings: number; bytes: number; oldest_age: number | null }>;
  dead_letters: { stored: number; bytes: number; quota_bytes: number | null; discarded: number; alarm: string };
}

export interface PipelineNode {
  id: string;
  kind: "source" | "step" | "target";
  name: string;
  health: Health;
  detail: string;
  rate: number | null;
}
export interface PipelineEdge {
  from: string;
  to: string;
  rate: number | null;
}
export interface Pipeline {
  nodes: PipelineNode[];
  edges: PipelineEdge[];
}

export type Value = number | string | boolean | null;
export type Quality = "GOOD" | "UNCERTAIN" | "BAD" | "STALE" | "ALARM";

export interface Tag {
  id: number;
  path: string;
  source: string;
  protocol: string;
  device?: string;
  tag_name: string;
  address: string;
  unit: string | null;
  type: string | null;
  value: Value | Record<string, unknown> | unknown[];
  quality: Quality | null;
  time_us: number | null;
  received_us: number | null;
  raw: Value | Record<string, unknown> | unknown[];
  targets: string[];
}
export interface Sample {
  time_us: number;
  value: Value;
  quality: Quality;
}
export interface TagDetail extends Tag {
  samples: Sample[];
  properties: unknown;
  metadata?: Record<string, unknown>;
  raw_quality?: Quality;
  rules?: string[];
  reject?: string | null;
}
export interface TagPage {
  total: number;
  tags: Tag[];
}
export interface TreeChild {
  name: string;
  path: string;
  tags: number;
  bad: number;
}
export interface TreePage {
  prefix: string;
  total: number;
  children: TreeChild[];
}
export interface Reading {
  time_us?: number | null;
  received_us?: number | null;
  source: string;
  path?: string;
  tag_name: string;
  value: Value;
  unit?: string | null;
  quality: Quality;
  [key: string]: unknown;
}

/** A source or a target as configured, with how it stands. */
export interface Connection {
  name: string;
  protocol?: string;
  type?: string;
  enabled: boolean;
  endpoint: string | null;
  state?: string;
  detail?: string;
  received?: number;
  rate?: number | null;
  last_reading_us?: number | null;
  tags?: number;
  editable?: boolean;
  yaml?: string;
  config: Record<string, unknown>;
  [key: string]: unknown;
}
export interface Finding {
  ok: boolean;
  subject: string;
  detail: string;
}
export interface TestResult {
  ok: boolean;
  findings: Finding[];
  readings?: Reading[];
  count?: number;
  error: string;
  took: number;
}
export interface Applied {
  number: number | null;
  base: string;
  changes: Change[];
  next_start: string[];
  took: number;
}
export interface BrowseNode {
  node_id: string;
  name: string;
  kind: "object" | "variable";
  type: string;
  unit: string;
  value: Value;
  status: number;
  has_children: boolean;
}

export interface Rule {
  name: string;
  condition: string;
  connectors: string[];
  priority?: number;
}
export interface RuleCounts {
  rules: { name: string; matched: number; of: number; error?: string }[];
  unmatched: number;
  of: number;
}

export interface Found {
  id: string;
  protocol: string;
  host: string;
  port: number;
  found_time: string;
  seen_time: string;
  state: "new" | "known" | "changed" | "gone";
  changes: string[];
  detail: Record<string, unknown>;
  draft: Record<string, unknown> | null;
}
export interface Discovery {
  running: boolean;
  started: string | null;
  progress: { of: number; asked: number; hits: number } | null;
  scanned_time: string | null;
  servers: Found[];
  subnets: string[];
  enabled: boolean;
}

export interface Spool {
  state: "configured" | "kept";
  readings: number;
  bytes: number;
  quota_bytes: number | null;
  oldest_age: number | null;
  lanes: Record<string, number>;
  alarm: string;
}
export interface LetterGroup {
  target: string;
  error_class: string;
  reason: string;
  count: number;
  first: number; // seconds since the epoch
  last: number;
}
export interface LetterGroups {
  gateway: string;
  groups: LetterGroup[];
  more_groups: number;
  selected: number;
  stored: number;
  bytes: number;
  discarded: number;
  alarm: string;
}

export interface Certificate {
  id: string;
  owner: string;
  kind: "own" | "trusted" | "issuer" | "rejected" | "ca";
  subject: string;
  issuer: string;
  not_before: string;
  not_after: string;
  days_left: number;
  state: "ok" | "soon" | "expired" | "not_yet";
  hosts: string[];
  used_by: string[];
  file: string;
  note: string;
}
export interface Secret {
  name: string;
  changed_time: string;
  used: boolean;
}

export interface Change {
  kind: string;
  name: string;
  what: "added" | "removed" | "changed";
  place: string;
  keys: Record<string, Record<string, string>>;
}
export interface Plan {
  changes: Change[];
  problems: Problem[];
  warnings: string[];
}
export interface ConfigState {
  number: number | null;
  base: string;
  files: Record<string, string>;
}
export interface HistoryEntry {
  number: number;
  since_time: string;
  sources: number;
  targets: number;
  rules: number;
  files: string[];
}

export interface AuditEntry {
  time?: string;
  user?: string;
  who?: string;
  action?: string;
  what?: string;
  result?: string;
  [key: string]: unknown;
}
export interface LogLine {
  seq: number;
  timestamp: string;
  level: string;
  event: string;
  [key: string]: unknown;
}
export interface User {
  name: string;
  role: Role;
  created_time?: string;
}
export interface Token {
  id: string;
  name: string;
  role: Role;
  created_time?: string;
  expires_time?: string | null;
}

/** The part of JSON Schema that pydantic writes for the configuration's models. */
export interface Schema {
  type?: string;
  title?: string;
  description?: string;
  default?: unknown;
  const?: unknown;
  enum?: unknown[];
  examples?: unknown[];
  format?: string;
  writeOnly?: boolean;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  pattern?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  additionalProperties?: boolean | Schema;
  anyOf?: Schema[];
  oneOf?: Schema[];
  $ref?: string;
  $defs?: Record<string, Schema>;
}
