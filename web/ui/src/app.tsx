import { Component, lazy, Suspense, useCallback, useEffect, useState, type ReactNode } from "react";

import { askedFor, onSessionLost, readSession } from "./api/client";
import { start, stop } from "./api/live";
import type { Role, Session } from "./api/types";
import { usePlace } from "./lib/router";
import { Messages, Trouble } from "./parts/basics";
import { Login } from "./pages/login";
import { Overview } from "./pages/overview";
import { Shell } from "./shell";
import { Who } from "./who";

const pages: Record<string, React.ComponentType> = {
  overview: Overview,
  pipeline: lazy(() => import("./pages/pipeline")),
  tags: lazy(() => import("./pages/tags")),
  tail: lazy(() => import("./pages/tail")),
  sources: lazy(() => import("./pages/sources")),
  targets: lazy(() => import("./pages/targets")),
  rules: lazy(() => import("./pages/rules")),
  discovery: lazy(() => import("./pages/discovery")),
  store: lazy(() => import("./pages/store")),
  certificates: lazy(() => import("./pages/certificates")),
  history: lazy(() => import("./pages/history")),
  diagnostics: lazy(() => import("./pages/diagnostics")),
  users: lazy(() => import("./pages/users")),
};

class Guard extends Component<{ children: ReactNode; page: string }, { error: Error | null }> {
  override state = { error: null as Error | null };
  static getDerivedStateFromError(error: Error) {
    return { error };
  }
  override componentDidUpdate(before: { page: string }) {
    if (before.page !== this.props.page && this.state.error) this.setState({ error: null });
  }
  override render() {
    if (!this.state.error) return this.props.children;
    return (
      <div className="page">
        <Trouble error={new Error(`This page broke: ${this.state.error.message}. The gateway goes on; the other pages do too.`)} retry={() => this.setState({ error: null })} />
      </div>
    );
  }
}

export function App() {
  const [session, setSession] = useState<Session>();
  const [error, setError] = useState<Error | null>(null);
  const place = usePlace();
  const read = useCallback(() => {
    readSession().then(
      (next) => {
        const place = next.user && !location.hash ? askedFor() : "";
        if (place) location.hash = place;
        setSession(next);
        setError(null);
      },
      (failed: Error) => {
        setError(failed);
        window.setTimeout(read, 2000);
      },
    );
  }, []);
  useEffect(() => {
    onSessionLost(read);
    read();
  }, [read]);
  const user = session?.user;
  useEffect(() => {
    if (!user) return;
    start();
    return stop;
  }, [user]);

  if (!session) return error ? <div className="alone"><Trouble error={error} /></div> : <div className="alone quiet">Bifrost</div>;
  if (!session.user || session.role === null) {
    return (
      <>
        <Login session={session} done={setSession} />
        <Messages />
      </>
    );
  }
  const Shown = pages[place.page];
  return (
    <Who.Provider value={{ user: session.user, role: session.role as Role, again: read }}>
      <Shell>
        <Guard page={place.page}>
          <Suspense fallback={<div className="page quiet">…</div>}>
            {Shown ? <Shown /> : <div className="page"><h1>There is no such page</h1><p><a href="#/overview">To the overview</a></p></div>}
          </Suspense>
        </Guard>
      </Shell>
      <Messages />
    </Who.Provider>
  );
}
