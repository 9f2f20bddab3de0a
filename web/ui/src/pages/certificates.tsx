import { useState } from "react";

import { post, put, route } from "../api/client";
import type { Certificate, Health, Secret } from "../api/types";
import { visible, when, stamp } from "../lib/format";
import { useAnswer } from "../lib/store";
import { Act, Age, Empty, Facts, Field, Page, Panel, Remove, tell, Trouble } from "../parts/basics";
import { FormDialog, TextField } from "../parts/form_dialog";
import { Icon, Mark } from "../parts/marks";
import { useMay } from "../who";
import { Table } from "../parts/table";

export default function CertificatesPage() {
  return (
    <Page title="Certificates & secrets">
      <Certificates />
      <Secrets />
    </Page>
  );
}

function due(one: Certificate): [Health, string] {
  const days = Math.floor(one.days_left);
  if (one.kind === "rejected") return ["warn", "not trusted"];
  if (one.state === "expired") return ["bad", `expired ${-days} days ago`];
  if (one.state === "not_yet") return ["bad", "not valid yet"];
  if (one.state === "soon") return ["warn", `expires in ${days} days`];
  return ["ok", `${days} days left`];
}

function Certificates() {
  const { data, error, reload } = useAnswer<{ certificates: Certificate[] }>("/api/certificates", 10_000);
  const [making, setMaking] = useState(false);
  const [importing, setImporting] = useState(false);
  const may = useMay("admin");
  const ranked = [...(data?.certificates ?? [])].sort((a, b) => (a.kind === "rejected" ? -1 : a.days_left) - (b.kind === "rejected" ? -1 : b.days_left));
  const act = (one: Certificate, what: "trust" | "reject" | "renew", said: string) => async () => {
    await post(route(["certificates", one.id, what]), what === "renew" ? {} : { owner: one.owner || null });
    tell(said);
    reload();
  };
  return (
    <Panel
      title="Certificates"
      actions={
        may && (
          <>
            <button type="button" onClick={() => setMaking(true)}>
              <Icon name="plus" /> Make
            </button>
            <button type="button" onClick={() => setImporting(true)}>
              Import
            </button>
          </>
        )
      }
    >
      <Trouble error={error} retry={reload} />
      {data && ranked.length === 0 && <Empty>No source or target uses a certificate.</Empty>}
      {ranked.length > 0 && (
        <Table heads={["Subject", "Kind", "State", "Until", "Used by", ""]}>
          {ranked.map((one) => {
            const [health, says] = due(one);
            return (
              <tr key={`${one.id}${one.kind}${one.file}`}>
                <td className="wrap">
                  {visible(one.subject)}
                  {one.note && <small className="quiet">{visible(one.note)}</small>}
                  <small className="quiet">
                    by {visible(one.issuer)} · <code title={one.id}>{one.id.slice(0, 16)}</code>
                  </small>
                </td>
                <td>{one.kind}</td>
                <td>
                  <Mark health={health}>{says}</Mark>
                </td>
                <td>{stamp(when(one.not_after)).slice(0, 10)}</td>
                <td>{one.used_by.length ? one.used_by.map((by) => visible(by)).join(", ") : one.owner || "–"}</td>
                <td className="actions">
                  {may && one.kind === "rejected" && <Act run={act(one, "trust", "It is trusted from now on.")}>Trust</Act>}
                  {may && (one.kind === "trusted" || one.kind === "issuer") && one.owner && <Act confirm="Press again to reject" run={act(one, "reject", "It is rejected from now on.")}>Reject</Act>}
                  {may && (one.kind === "own" || one.kind === "ca") && <Act run={act(one, "renew", "It is renewed.")}>Renew</Act>}
                  {may && (one.kind === "rejected" || one.used_by.length === 0) && (
                    <Remove what="Delete" path={route(["certificates", one.id], { owner: one.owner })} done={reload} />
                  )}
                </td>
              </tr>
            );
          })}
        </Table>
      )}
      {making && <Make close={() => setMaking(false)} done={reload} />}
      {importing && <Import close={() => setImporting(false)} done={reload} />}
    </Panel>
  );
}

const KINDS = { ca: "Authority of one's own", server: "Server", client: "Client", application: "OPC UA application" };

function Make({ close, done }: { close: () => void; done: () => void }) {
  const [kind, setKind] = useState<keyof typeof KINDS>("client");
  const [name, setName] = useState("");
  const [common, setCommon] = useState("");
  const [hosts, setHosts] = useState("");
  const [days, setDays] = useState("");
  const [by, setBy] = useState("");
  const [source, setSource] = useState("");
  const make = async (): Promise<void> => {
    const body: Record<string, unknown> = { name, common_name: common || name };
    const listed = hosts.split(/[\s,]+/).filter(Boolean);
    if (listed.length) body.hosts = listed;
    if (days) body.days = Number(days);
    if (by) body.by = by;
    if (source && kind === "application") body.source = source;
    await post(route(["certificates", kind]), body);
    tell(`The certificate ${name} is made.`);
  };
  return (
    <FormDialog title="Make a certificate" act="Make" run={make} ready={!!name} close={close} done={done}>
      <Field label="Kind">
        <select value={kind} onChange={(event) => setKind(event.target.value as keyof typeof KINDS)}>
          {Object.entries(KINDS).map(([key, title]) => (
            <option key={key} value={key}>
              {title}
            </option>
          ))}
        </select>
      </Field>
      <TextField label="Name" hint="of its files: small letters, digits and -" autoFocus value={name} change={setName} />
      <TextField label="Common name" placeholder={name} value={common} change={setCommon} />
      {kind !== "ca" && (
        <>
          <TextField label="Hosts" hint="names and addresses, with blanks between" value={hosts} change={setHosts} />
          <TextField label="Signed by" hint="name of an authority made here; empty: by itself" value={by} change={setBy} />
        </>
      )}
      {kind === "application" && <TextField label="For the source" value={source} change={setSource} />}
      <TextField label="Days" hint="empty: what is usual for its kind" inputMode="numeric" value={days} change={setDays} />
    </FormDialog>
  );
}

function Import({ close, done }: { close: () => void; done: () => void }) {
  const [name, setName] = useState("");
  const [text, setText] = useState("");
  const [bytes, setBytes] = useState<Uint8Array>();
  const [key, setKey] = useState("");
  const [password, setPassword] = useState("");
  const [source, setSource] = useState("");
  const read = async (file: File | undefined): Promise<void> => {
    if (!file) return;
    const data = new Uint8Array(await file.arrayBuffer());
    const plain = new TextDecoder().decode(data);
    setText(plain.includes("-----BEGIN") ? plain : `(${data.length} bytes of ${file.name})`);
    setBytes(data);
    if (!name) setName(file.name.replace(/\..*$/, "").toLowerCase().replace(/[^a-z0-9-]/g, "-"));
  };
  const keep = async (): Promise<void> => {
    const data = base64(bytes ?? new TextEncoder().encode(text));
    await post("/api/certificates/import", { name, data, ...(key && { key: base64(new TextEncoder().encode(key)) }), ...(password && { password }), ...(source && { source }) });
    tell("The certificate is imported.");
  };
  return (
    <FormDialog title="Import a certificate" act="Import" run={keep} ready={!!(name && text)} close={close} done={done}>
      <Field label="File" hint="PEM, DER or PKCS#12">
        <input type="file" accept=".pem,.crt,.cer,.der,.p12,.pfx" onChange={(event) => void read(event.target.files?.[0])} />
      </Field>
      <Field label="Or its text">
        <textarea rows={5} className="mono" spellCheck={false} value={text} onChange={(event) => { setText(event.target.value); setBytes(undefined); }} />
      </Field>
      <TextField label="Name" value={name} change={setName} />
      <Field label="Private key" hint="PEM, where it is apart">
        <textarea rows={2} className="mono" spellCheck={false} value={key} onChange={(event) => setKey(event.target.value)} />
      </Field>
      <TextField label="Password of the key" type="password" autoComplete="off" value={password} change={setPassword} />
      <TextField label="Trusted by the source" hint="an OPC UA source that is to trust it; empty: kept for use in settings" value={source} change={setSource} />
    </FormDialog>
  );
}

function base64(data: Uint8Array): string {
  let text = "";
  for (const byte of data) text += String.fromCharCode(byte);
  return btoa(text);
}

function Secrets() {
  const may = useMay("admin");
  const { data, error, reload } = useAnswer<{ secrets: Secret[] }>(may ? "/api/secrets" : null);
  const [editing, setEditing] = useState<string>();
  if (!may) return null;
  const secrets = data?.secrets ?? [];
  return (
    <Panel
      title="Secrets"
      actions={
        <button type="button" onClick={() => setEditing("")}>
          <Icon name="plus" /> Add
        </button>
      }
    >
      <p className="quiet">
        They are kept encrypted and are never shown again. In a setting, write <code>{"${secret:name}"}</code>.
      </p>
      <Trouble error={error} retry={reload} />
      {data && secrets.length === 0 && <Empty>No secret is stored.</Empty>}
      {secrets.length > 0 && (
        <Table heads={["Name", "Changed", ""]}>
          {secrets.map((secret) => (
            <tr key={secret.name}>
              <td>
                <code>{secret.name}</code>
              </td>
              <td>
                <Age time={secret.changed_time} /> ago{!secret.used && <small className="quiet">no setting names it</small>}
              </td>
              <td className="actions">
                <button type="button" onClick={() => setEditing(secret.name)}>
                  Replace
                </button>
                <Remove what="Delete" path={route(["secrets", secret.name])} done={reload} />
              </td>
            </tr>
          ))}
        </Table>
      )}
      {editing !== undefined && <SecretDialog name={editing} close={() => setEditing(undefined)} done={reload} />}
    </Panel>
  );
}

function SecretDialog({ name: given, close, done }: { name: string; close: () => void; done: () => void }) {
  const [name, setName] = useState(given);
  const [secret, setSecret] = useState("");
  const store = async (): Promise<void> => {
    await put(route(["secrets", name]), { value: secret });
    tell(`The secret ${name} is stored.`);
  };
  return (
    <FormDialog title={given ? `Replace ${given}` : "Add a secret"} act="Store" run={store} ready={!!(name && secret)} close={close} done={done}>
      {!given && <TextField label="Name" autoFocus spellCheck={false} value={name} change={setName} />}
      <TextField label="Value" type="password" autoComplete="new-password" value={secret} change={setSecret} />
      <Facts facts={[["In settings", <code key="use">{`\${secret:${name || "name"}}`}</code>]]} />
    </FormDialog>
  );
}
