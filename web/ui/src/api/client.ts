// Calls of the gateway's API: JSON both ways, the session's CSRF token on what changes something.

import type { Problem, Session } from "./types";

export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly problems: Problem[] = [],
  ) {
    super(message);
  }
}

const ASKED_FOR = "bifrost-asked-for";
let csrf = "";
let lost: () => void = () => undefined;

/** What to do when the gateway says that nobody is logged in any more. */
export function onSessionLost(listener: () => void): void {
  lost = listener;
}

/** The address of a route, also behind a proxy that puts the gateway below a path. */
export function address(path: string): string {
  return new URL(path.replace(/^\//, ""), document.baseURI).href;
}

export async function call<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const headers: Record<string, string> = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (method !== "GET" && csrf) headers["X-CSRF-Token"] = csrf;
  let answer: Response;
  try {
    answer = await fetch(address(path), {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      signal,
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, "The gateway does not answer. Is it running, and is the network up? This page tries again.");
  }
  if (answer.ok) return (answer.status === 204 ? undefined : await answer.json().catch(() => undefined)) as T;
  const said = (await answer.json().catch(() => ({}))) as { detail?: unknown; problems?: Problem[] };
  if (answer.status === 401 && path !== "/api/session" && path !== "/api/setup") lost();
  throw new ApiError(answer.status, sentence(said.detail, answer), said.problems ?? []);
}

function sentence(detail: unknown, answer: Response): string {
  if (typeof detail === "string") return detail;
  if (Array.isArray(detail)) {
    return detail
      .map((one: { loc?: unknown[]; msg?: string }) => `${(one.loc ?? []).slice(1).join(".")}: ${one.msg ?? ""}`)
      .join("; ");
  }
  return `The gateway answered ${answer.status} ${answer.statusText}.`;
}

export const get = <T>(path: string, signal?: AbortSignal) => call<T>("GET", path, undefined, signal);
export const post = <T>(path: string, body: unknown = {}) => call<T>("POST", path, body);
export const put = <T>(path: string, body: unknown) => call<T>("PUT", path, body);
export const remove = <T>(path: string) => call<T>("DELETE", path);

/** A path with its parts escaped, and a query of what is not empty. */
export function route(parts: string[], query: Record<string, string | number | undefined | null> = {}): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const asked = given.map(([key, value]) => `${key}=${encodeURIComponent(String(value))}`).join("&");
  return `/api/${parts.map(encodeURIComponent).join("/")}${asked ? `?${asked}` : ""}`;
}

export async function readSession(): Promise<Session> {
  const session = await get<Session>("/api/session");
  csrf = session.csrf ?? "";
  return session;
}

export async function logIn(user: string, password: string): Promise<Session> {
  await post("/api/session", { user, password });
  return readSession();
}

export async function setUp(token: string, user: string, password: string): Promise<Session> {
  await post("/api/setup", { token, user, password });
  return readSession();
}

/** Go to the OpenID provider; who comes back is logged in, at the page that was asked for. */
export async function logInElsewhere(): Promise<void> {
  const { location: place } = await post<{ location: string }>("/api/session/oidc");
  sessionStorage.setItem(ASKED_FOR, location.hash);
  location.assign(place);
}

/** The page that was asked for before somebody went to the OpenID provider, once. */
export function askedFor(): string {
  const hash = sessionStorage.getItem(ASKED_FOR) ?? "";
  sessionStorage.removeItem(ASKED_FOR);
  return hash;
}

/** Log out; whether the browser is on its way to the OpenID provider, to log out there too. */
export async function logOut(): Promise<boolean> {
  const onward = await call<{ location: string } | undefined>("DELETE", "/api/session");
  csrf = "";
  if (onward) location.assign(onward.location);
  return onward !== undefined;
}
