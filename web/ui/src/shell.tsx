import { useContext, useEffect, useRef, useState, type ReactNode } from "react";

import { logOut } from "./api/client";
import { heard, link, status } from "./api/live";
import type { Health } from "./api/types";
import { findings } from "./lib/findings";
import { duration } from "./lib/format";
import { listen, PLACES } from "./lib/keys";
import { href, usePlace } from "./lib/router";
import { useCell, useNow } from "./lib/store";
import { setTheme, theme, type Theme } from "./lib/theme";
import { Dialog } from "./parts/basics";
import { Icon, Mark, Shape } from "./parts/marks";
import { useMay, Who } from "./who";

interface Entry {
  page: string;
  title: string;
  admin?: boolean;
}
const GROUPS: { title: string; entries: Entry[] }[] = [
  {
    title: "Watch",
    entries: [
      { page: "overview", title: "Overview" },
      { page: "pipeline", title: "Pipeline" },
      { page: "tags", title: "Tags" },
      { page: "tail", title: "Live tail" },
    ],
  },
  {
    title: "Set up",
    entries: [
      { page: "discovery", title: "Discovery" },
      { page: "sources", title: "Sources" },
      { page: "targets", title: "Targets" },
      { page: "rules", title: "Rules" },
    ],
  },
  {
    title: "Keep running",
    entries: [
      { page: "store", title: "Store and forward" },
      { page: "certificates", title: "Certificates & secrets" },
      { page: "history", title: "Config history" },
      { page: "diagnostics", title: "Diagnostics" },
      { page: "users", title: "Users & tokens", admin: true },
    ],
  },
];
const LETTER = Object.fromEntries(Object.entries(PLACES).map(([letter, page]) => [page, letter]));

export function Shell({ children }: { children: ReactNode }) {
  const place = usePlace();
  const admin = useMay("admin");
  const [open, setOpen] = useState(false);
  const [help, setHelp] = useState(false);
  const main = useRef<HTMLElement>(null);
  useEffect(() => listen(() => setHelp(true)), []);
  useEffect(() => {
    setOpen(false);
    main.current?.scrollTo(0, 0);
  }, [place.page]);
  return (
    <div className={`shell ${open ? "nav-open" : ""}`}>
      <a className="skip" href="#main" onClick={(event) => { event.preventDefault(); main.current?.focus(); }}>
        Skip to the content
      </a>
      <Header toggle={() => setOpen(!open)} open={open} />
      <nav aria-label="Pages" id="nav">
        {GROUPS.map((group) => (
          <div key={group.title}>
            <h2>{group.title}</h2>
            <ul>
              {group.entries
                .filter((entry) => admin || !entry.admin)
                .map((entry) => (
                  <li key={entry.page}>
                    <a href={href(entry.page)} aria-current={place.page === entry.page ? "page" : undefined} title={`g ${LETTER[entry.page] ?? ""}`}>
                      <Icon name={entry.page} />
                      {entry.title}
                      <Wrong page={entry.page} />
                    </a>
                  </li>
                ))}
            </ul>
          </div>
        ))}
        <div className="nav-foot">
          <ThemeSwitch />
          <button type="button" className="bare" onClick={() => setHelp(true)}>
            Keys <kbd>?</kbd>
          </button>
        </div>
      </nav>
      {open && <div className="veil" onClick={() => setOpen(false)} />}
      <main id="main" ref={main} tabIndex={-1}>
        {children}
      </main>
      {help && <Keys close={() => setHelp(false)} />}
    </div>
  );
}

/** How many things are wrong that a page is about. */
function Wrong({ page }: { page: string }) {
  const now = useCell(status);
  if (!now || !["sources", "targets", "store"].includes(page)) return null;
  const found = findings(now, Date.now()).filter((one) => one.place[0] === page);
  const first = found[0];
  if (!first) return null;
  return (
    <span className="wrong-count">
      <Shape health={first.health} />
      {found.length}
    </span>
  );
}

function Header({ toggle, open }: { toggle: () => void; open: boolean }) {
  const now = useCell(status);
  const who = useContext(Who);
  const time = useNow();
  const state = useCell(link);
  const last = useCell(heard);
  const silent = last ? (time - last) / 1000 : 0;
  const gone = state === "waiting" && silent > 3;
  const health: Health = gone ? "bad" : now?.status === "ok" ? "ok" : now ? "warn" : "idle";
  return (
    <header className="top">
      <button type="button" className="bare menu" aria-label="Pages" aria-expanded={open} aria-controls="nav" onClick={toggle}>
        <Icon name="menu" />
      </button>
      <a className="name" href={href("overview")}>
        <svg viewBox="0 0 32 32" aria-hidden="true">
          <path d="M5 22c4-12 18-12 22 0M5 26V13m22 13V13" />
        </svg>
        <span>{now?.gateway ?? "Bifrost"}</span>
      </a>
      <span className="state" role="status">
        <Mark health={health}>
          {gone ? `no answer for ${duration(silent)}` : now ? { ok: "all well", degraded: "needs attention", draining: "shutting down" }[now.status] : "…"}
        </Mark>
      </span>
      <span className="gap" />
      <span className="who">
        <span className="quiet">
          {who.user} · {who.role}
        </span>
        <button type="button" className="bare" onClick={() => void logOut().then((onward) => onward || who.again(), who.again)}>
          Log out
        </button>
      </span>
    </header>
  );
}

function ThemeSwitch() {
  const now = useCell(theme);
  return (
    <select aria-label="Light or dark" className="theme" value={now} onChange={(event) => setTheme(event.target.value as Theme)}>
      <option value="system">As the system</option>
      <option value="light">Light</option>
      <option value="dark">Dark</option>
    </select>
  );
}

function Keys({ close }: { close: () => void }) {
  const titles = Object.fromEntries(GROUPS.flatMap((group) => group.entries.map((entry) => [entry.page, entry.title])));
  return (
    <Dialog title="Keys" close={close}>
      <table className="plain">
        <tbody>
          <tr><td><kbd>/</kbd></td><td>search</td></tr>
          <tr><td><kbd>Esc</kbd></td><td>leave a field, close a window</td></tr>
          {Object.entries(PLACES).map(([letter, page]) => (
            <tr key={letter}>
              <td>
                <kbd>g</kbd> <kbd>{letter}</kbd>
              </td>
              <td>{titles[page]}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Dialog>
  );
}
