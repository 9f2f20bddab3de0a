import { useCallback, useEffect, useMemo, useRef, useState } from "react";

import { get, route } from "../api/client";
import { followTags } from "../api/live";
import type { Tag, TagPage, TreePage } from "../api/types";
import { count, value, visible } from "../lib/format";
import { amend, go, usePlace } from "../lib/router";
import { useAnswer, useSettled } from "../lib/store";
import { Age, Empty, Page, Trouble } from "../parts/basics";
import { Icon, QualityMark, Shape } from "../parts/marks";
import { VirtualList } from "../parts/virtual_list";
import { TagDetailPanel } from "./tag_detail";

const CHUNK = 200;
const LEVELS = 200;
const TYPING = 40; // ms between keys, below which tags are looked for only when the last one is pressed
const QUALITIES = ["NOT_GOOD", "GOOD", "UNCERTAIN", "BAD", "STALE", "ALARM"];

export default function TagsPage() {
  const place = usePlace();
  const { prefix = "", quality = "", search = "" } = place.query;
  const [text, setText] = useState(search);
  const settled = useSettled(text, TYPING);
  const [tree, setTree] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => {
    amend({ search: settled });
  }, [settled]);
  useEffect(() => {
    if (place.query.focus === "search") {
      field.current?.focus();
      amend({ focus: "" });
    }
  }, [place.query.focus]);
  const query = useMemo(() => ({ prefix, quality, search: settled }), [prefix, quality, settled]);
  const chosen = place.rest[0] ? Number(place.rest[0]) : undefined;
  return (
    <Page title="Tags">
      <div className="filters">
        <input
          ref={field}
          data-search
          type="search"
          aria-label="Search tags"
          placeholder="Search path, name, address  ( / )"
          value={text}
          onChange={(event) => setText(event.target.value)}
        />
        <select aria-label="Quality" value={quality} onChange={(event) => amend({ quality: event.target.value })}>
          <option value="">any quality</option>
          {QUALITIES.map((one) => (
            <option key={one} value={one}>
              {one.toLowerCase().replace("_", " ")}
            </option>
          ))}
        </select>
        <button type="button" className="tree-switch" aria-expanded={tree} onClick={() => setTree(!tree)}>
          {prefix ? visible(prefix) : "Whole plant"}
        </button>
      </div>
      <div className={`tags ${chosen === undefined ? "" : "with-detail"} ${tree ? "with-tree" : ""}`}>
        <aside className="tree" aria-label="ISA-95 tree">
          <Branch name="Whole plant" path="" open chosen={prefix} choose={(path) => { amend({ prefix: path }); setTree(false); }} />
        </aside>
        <TagList key={`${prefix}|${quality}|${settled}`} query={query} chosen={chosen} />
        {chosen !== undefined && <TagDetailPanel id={chosen} close={() => go("tags", [], place.query)} />}
      </div>
    </Page>
  );
}

function Branch({ name, path, tags, bad, open: first = false, chosen, choose }: { name: string; path: string; tags?: number; bad?: number; open?: boolean; chosen: string; choose: (path: string) => void }) {
  const [open, setOpen] = useState(first || chosen.startsWith(`${path}/`));
  const data = useLevels(open ? path : null, 0);
  const leaf = open && data?.total === 0;
  return (
    <div className="branch">
      <div className={`twig ${chosen === path ? "chosen" : ""}`}>
        <button type="button" className={`bare turn ${open ? "open" : ""}`} aria-label={`${open ? "close" : "open"} ${name}`} aria-expanded={open} disabled={leaf} onClick={() => setOpen(!open)}>
          {!leaf && <Icon name="right" />}
        </button>
        <button type="button" className="bare named" aria-current={chosen === path || undefined} onClick={() => choose(path)}>
          <span>{visible(name) || "(no name)"}</span>
          {bad ? (
            <span className="bad-count" title={`${bad} not good`}>
              <Shape health="bad" /> {count(bad)}
            </span>
          ) : null}
          {tags !== undefined && <span className="quiet">{count(tags)}</span>}
        </button>
      </div>
      {open && data && data.total > 0 && (
        <div className="children">
          <Levels page={data} offset={0} chosen={chosen} choose={choose} />
        </div>
      )}
    </div>
  );
}

function useLevels(path: string | null, offset: number): TreePage | undefined {
  return useAnswer<TreePage>(path === null ? null : route(["tags", "tree"], { prefix: path, offset, limit: LEVELS }), 5000).data;
}

interface LevelsProps {
  page: TreePage;
  offset: number;
  chosen: string;
  choose: (path: string) => void;
}

/** Levels side by side: those of a page, then what follows them when it is asked for. */
function Levels({ page, offset, chosen, choose }: LevelsProps) {
  const [more, setMore] = useState(false);
  const next = offset + LEVELS;
  return (
    <>
      {page.children.map((child) => (
        <Branch key={child.path} {...child} chosen={chosen} choose={choose} />
      ))}
      {page.total > next &&
        (more ? (
          <NextLevels page={page} offset={next} chosen={chosen} choose={choose} />
        ) : (
          <button type="button" className="bare more" onClick={() => setMore(true)}>
            {count(page.total - next)} more…
          </button>
        ))}
    </>
  );
}

function NextLevels({ page, offset, ...rest }: LevelsProps) {
  const next = useLevels(page.prefix, offset);
  return next ? <Levels page={next} offset={offset} {...rest} /> : <span className="quiet">…</span>;
}

function TagList({ query, chosen }: { query: Record<string, string>; chosen: number | undefined }) {
  const [rows, setRows] = useState<ReadonlyMap<number, Tag>>(new Map());
  const [total, setTotal] = useState<number>();
  const [error, setError] = useState<Error | null>(null);
  const [span, setSpan] = useState<[number, number]>([0, 40]);
  const asked = useRef(new Set<number>());
  const { prefix, quality, search } = query;

  const load = useCallback(
    async (chunk: number) => {
      if (asked.current.has(chunk)) return;
      asked.current.add(chunk);
      try {
        const page = await get<TagPage>(route(["tags"], { prefix, quality, search, offset: chunk * CHUNK, limit: CHUNK }));
        setTotal(page.total);
        setError(null);
        setRows((before) => {
          const next = new Map(before);
          page.tags.forEach((tag, at) => next.set(chunk * CHUNK + at, tag));
          return next;
        });
      } catch (failed) {
        asked.current.delete(chunk);
        setError(failed as Error);
      }
    },
    [prefix, quality, search],
  );
  const seen = useCallback(
    (first: number, last: number) => {
      setSpan([first, last]);
      for (let chunk = Math.floor(first / CHUNK); chunk <= Math.floor(Math.max(0, last - 1) / CHUNK); chunk += 1) void load(chunk);
    },
    [load],
  );
  useEffect(() => void load(0), [load]);
  useEffect(() => {
    // A short answer may be short because the tags are still coming in.
    if (total !== undefined && total >= CHUNK) return;
    const timer = window.setInterval(() => {
      asked.current.clear();
      void load(0);
    }, 3000);
    return () => clearInterval(timer);
  }, [load, total]);

  const ids: number[] = [];
  for (let index = span[0]; index < span[1]; index += 1) {
    const tag = rows.get(index);
    if (tag) ids.push(tag.id);
  }
  const key = ids.join(",");
  const settled = useSettled(key, 150);
  useEffect(() => {
    if (!settled) return;
    return followTags(settled.split(",").map(Number), (changed) => {
      const news = new Map(changed.map((tag) => [tag.id, tag]));
      setRows((before) => {
        const next = new Map(before);
        for (const [index, tag] of before) {
          const said = news.get(tag.id);
          if (said) next.set(index, { ...tag, ...said });
        }
        return next;
      });
    });
  }, [settled]);

  let selected: number | undefined;
  if (chosen !== undefined) for (const [index, tag] of rows) if (tag.id === chosen) selected = index;
  const [cursor, setCursor] = useState<number>();
  const under = cursor === undefined ? undefined : rows.get(cursor)?.id;
  useEffect(() => {
    // what is chosen may lie further than what is loaded: it is opened when it has come
    if (under !== undefined) go("tags", [String(under)], query);
  }, [under, cursor, query]);
  return (
    <section className="tag-list" aria-label="Tags">
      <Trouble error={error} retry={() => void load(0)} />
      <div className="tag-row head" aria-hidden="true">
        <span>Path</span>
        <span>Value</span>
        <span>Quality</span>
        <span>Age</span>
        <span>Source</span>
      </div>
      {total === 0 ? (
        <Empty>{search || prefix || quality ? "No tag is like that." : "No tag has been read yet."}</Empty>
      ) : (
        <VirtualList label="Tags" count={total ?? 0} height={34} seen={seen} selected={cursor ?? selected} choose={setCursor} row={(index) => <TagRow tag={rows.get(index)} />} />
      )}
      <footer className="quiet">{total === undefined ? "…" : `${count(total)} tags`}</footer>
    </section>
  );
}

function TagRow({ tag }: { tag: Tag | undefined }) {
  if (!tag) return <div className="tag-row quiet">…</div>;
  const path = visible(tag.path || tag.tag_name);
  return (
    <div className={`tag-row ${tag.quality && tag.quality !== "GOOD" ? "not-good" : ""}`}>
      <span className="path" title={path}>
        <bdi>{path}</bdi>
      </span>
      <span className="figure">
        {value(tag.value)} {tag.unit && <small className="quiet">{visible(tag.unit)}</small>}
      </span>
      <QualityMark quality={tag.quality} />
      <span className="age">
        <Age time={tag.time_us ?? tag.received_us} />
      </span>
      <span className="quiet">{tag.source}</span>
    </div>
  );
}
