import { useEffect, useState } from "react";

import { logIn, logInElsewhere, setUp } from "../api/client";
import type { Session } from "../api/types";
import { go, usePlace } from "../lib/router";
import { Field, Trouble } from "../parts/basics";

/** The first page: with the set-up token on a fresh gateway, with name and password afterwards. */
export function Login({ session, done }: { session: Session; done: (session: Session) => void }) {
  const place = usePlace();
  const fresh = session.setup_needed;
  const [token, setToken] = useState(place.page === "setup" ? (place.rest[0] ?? place.query.token ?? "") : "");
  const [user, setUser] = useState(fresh ? "admin" : "");
  const [password, setPassword] = useState("");
  const [again, setAgain] = useState("");
  const [error, setError] = useState<Error | null>(session.problem ? new Error(session.problem) : null);
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    document.title = fresh ? "Set up · Bifrost" : "Log in · Bifrost";
  }, [fresh]);
  const send = async (): Promise<void> => {
    if (fresh && password !== again) {
      setError(new Error("The two passwords differ."));
      return;
    }
    setBusy(true);
    setError(null);
    try {
      const next = fresh ? await setUp(token.trim(), user, password) : await logIn(user, password);
      if (place.page === "setup") go("overview");
      done(next);
    } catch (failed) {
      setError(failed as Error);
      setBusy(false);
    }
  };
  const goElsewhere = async (): Promise<void> => {
    setBusy(true);
    setError(null);
    try {
      await logInElsewhere();
    } catch (failed) {
      setError(failed as Error);
      setBusy(false);
    }
  };
  return (
    <main className="alone">
      <form
        className="panel login"
        onSubmit={(event) => {
          event.preventDefault();
          void send();
        }}
      >
        <h1>{fresh ? "Set up this gateway" : "Log in"}</h1>
        {fresh && (
          <>
            <p className="quiet">The gateway printed a set-up token when it started. It works once, and makes you its administrator.</p>
            <Field label="Set-up token">
              <input name="token" required autoFocus={!token} autoComplete="off" spellCheck={false} value={token} onChange={(event) => setToken(event.target.value)} />
            </Field>
          </>
        )}
        <Field label="User">
          <input name="user" required autoFocus={!fresh} autoComplete="username" spellCheck={false} value={user} onChange={(event) => setUser(event.target.value)} />
        </Field>
        <Field label="Password" hint={fresh ? "12 characters or more" : undefined}>
          <input name="password" type="password" required autoComplete={fresh ? "new-password" : "current-password"} value={password} onChange={(event) => setPassword(event.target.value)} />
        </Field>
        {fresh && (
          <Field label="Password again">
            <input name="again" type="password" required autoComplete="new-password" value={again} onChange={(event) => setAgain(event.target.value)} />
          </Field>
        )}
        <Trouble error={error} />
        <button type="submit" className="main" disabled={busy} aria-busy={busy}>
          {fresh ? "Set up" : "Log in"}
          {busy && <span className="busy" aria-label="working" />}
        </button>
        {session.oidc && (
          <button type="button" disabled={busy} onClick={() => void goElsewhere()}>
            Log in with {session.oidc}
          </button>
        )}
      </form>
    </main>
  );
}
