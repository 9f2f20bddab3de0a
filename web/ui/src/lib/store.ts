import { useEffect, useRef, useState, useSyncExternalStore } from "react";

import { ApiError, get } from "../api/client";

/** A value that components follow. */
export class Cell<T> {
  private listeners = new Set<() => void>();
  constructor(private value: T) {}
  read = (): T => this.value;
  write(value: T): void {
    if (value === this.value) return;
    this.value = value;
    for (const listener of this.listeners) listener();
  }
  follow = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };
}

export function useCell<T>(cell: Cell<T>): T {
  return useSyncExternalStore(cell.follow, cell.read);
}

export interface Answer<T> {
  data: T | undefined;
  error: ApiError | null;
  reload: () => void;
}

/** What a route answers, asked again every so many ms while the page is seen; the last answer stays while it is asked. */
export function useAnswer<T>(path: string | null, every = 0): Answer<T> {
  const [state, setState] = useState<{ path: string | null; data?: T; error: ApiError | null }>({ path: null, error: null });
  const [asked, setAsked] = useState(0);
  const latest = useRef(path);
  latest.current = path;
  useEffect(() => {
    if (path === null) return;
    const aborted = new AbortController();
    let timer = 0;
    const ask = async (): Promise<void> => {
      if (!document.hidden) {
        try {
          const data = await get<T>(path, aborted.signal);
          if (!aborted.signal.aborted) setState({ path, data, error: null });
        } catch (error) {
          if (aborted.signal.aborted) return;
          const told = error instanceof ApiError ? error : new ApiError(0, String(error));
          setState((before) => ({ path, data: before.path === path ? before.data : undefined, error: told }));
        }
      }
      if (every && !aborted.signal.aborted) timer = window.setTimeout(() => void ask(), every);
    };
    void ask();
    return () => {
      aborted.abort();
      clearTimeout(timer);
    };
  }, [path, every, asked]);
  return {
    data: state.path === path ? state.data : undefined,
    error: state.path === path ? state.error : null,
    reload: () => setAsked((n) => n + 1),
  };
}

/** The time now, told again every so many ms. */
export function useNow(every = 1000): number {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = window.setInterval(() => setNow(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}

/** A value as it was when it had not changed for so many ms; one that changes after a longer rest is taken at once. */
export function useSettled<T>(value: T, delay = 200): T {
  const [settled, setSettled] = useState(value);
  const changed = useRef(0);
  useEffect(() => {
    const rested = performance.now() - changed.current > delay;
    changed.current = performance.now();
    if (rested) {
      setSettled(value);
      return undefined;
    }
    const timer = window.setTimeout(() => setSettled(value), delay);
    return () => clearTimeout(timer);
  }, [value, delay]);
  return settled;
}
