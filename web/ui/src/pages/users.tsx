import { useContext, useState } from "react";

import { post, put, route } from "../api/client";
import type { Role, Token, User } from "../api/types";
import { stamp, when } from "../lib/format";
import { useAnswer } from "../lib/store";
import { Act, copy, Dialog, Empty, Field, Page, Panel, Remove, tell, Trouble } from "../parts/basics";
import { FormDialog, TextField } from "../parts/form_dialog";
import { Icon } from "../parts/marks";
import { useMay, Who } from "../who";
import { Table } from "../parts/table";

const ROLES: Record<Role, string> = { viewer: "sees everything, changes nothing", operator: "also scans, tests, sends again, purges", admin: "also changes configuration, users and certificates" };

export default function UsersPage() {
  if (!useMay("admin")) {
    return (
      <Page title="Users & tokens">
        <Empty>Only an administrator sees these.</Empty>
      </Page>
    );
  }
  return (
    <Page title="Users & tokens">
      <Users />
      <Tokens />
    </Page>
  );
}

function RoleChoice({ value, change, label }: { value: Role; change: (role: Role) => void; label?: string }) {
  return (
    <select aria-label={label} value={value} onChange={(event) => change(event.target.value as Role)}>
      {Object.keys(ROLES).map((role) => (
        <option key={role}>{role}</option>
      ))}
    </select>
  );
}

function Users() {
  const me = useContext(Who);
  const { data, error, reload } = useAnswer<{ users: User[] }>("/api/users");
  const [adding, setAdding] = useState(false);
  const [other, setOther] = useState<string>();
  return (
    <Panel
      title="Users"
      actions={
        <button type="button" onClick={() => setAdding(true)}>
          <Icon name="plus" /> Add
        </button>
      }
    >
      <Trouble error={error} retry={reload} />
      <Table heads={["Name", "Role", "Since", ""]}>
        {(data?.users ?? []).map((user) => (
          <tr key={user.name}>
            <td>
              {user.name} {user.name === me.user && <span className="quiet">(you)</span>}
            </td>
            <td>
              <RoleChoice
                label={`Role of ${user.name}`}
                value={user.role}
                change={(role) => {
                  put(route(["users", user.name]), { role }).then(
                    () => {
                      tell(`${user.name} is ${role} now.`);
                      reload();
                    },
                    (failed: Error) => tell(failed.message, "bad"),
                  );
                }}
              />
            </td>
            <td>{stamp(when(user.created_time)).slice(0, 10)}</td>
            <td className="actions">
              <button type="button" onClick={() => setOther(user.name)}>
                New password
              </button>
              <Remove what="Remove" path={route(["users", user.name])} done={reload} disabled={user.name === me.user} />
            </td>
          </tr>
        ))}
      </Table>
      {adding && <Add close={() => setAdding(false)} done={reload} />}
      {other && <Password name={other} close={() => setOther(undefined)} />}
    </Panel>
  );
}

function Add({ close, done }: { close: () => void; done: () => void }) {
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [role, setRole] = useState<Role>("operator");
  return (
    <FormDialog title="Add a user" act="Add" run={() => post("/api/users", { name, password, role })} ready={!!(name && password)} close={close} done={done}>
      <TextField label="Name" autoFocus autoComplete="off" value={name} change={setName} />
      <TextField label="Password" hint="12 characters or more" type="password" autoComplete="new-password" value={password} change={setPassword} />
      <Field label="Role" hint={ROLES[role]}>
        <RoleChoice value={role} change={setRole} />
      </Field>
    </FormDialog>
  );
}

function Password({ name, close }: { name: string; close: () => void }) {
  const me = useContext(Who);
  const mine = name === me.user;
  const [old, setOld] = useState("");
  const [password, setPassword] = useState("");
  const set = async (): Promise<void> => {
    if (mine) await put("/api/session/password", { old, new: password });
    else await put(route(["users", name]), { password });
    tell(`${name} has a new password.`);
  };
  return (
    <FormDialog title={`New password of ${name}`} act="Set" run={set} ready={!!password && (!mine || !!old)} close={close}>
      {mine && <TextField label="Password now" type="password" autoFocus autoComplete="current-password" value={old} change={setOld} />}
      <TextField label="New password" hint="12 characters or more" type="password" autoComplete="new-password" value={password} change={setPassword} />
    </FormDialog>
  );
}

function Tokens() {
  const { data, error, reload } = useAnswer<{ tokens: Token[] }>("/api/tokens");
  const [name, setName] = useState("");
  const [role, setRole] = useState<Role>("viewer");
  const [days, setDays] = useState("90");
  const [made, setMade] = useState<string>();
  return (
    <Panel title="API tokens">
      <p className="quiet">For programs: they send it as “Authorization: Bearer …”.</p>
      <Trouble error={error} retry={reload} />
      {(data?.tokens ?? []).length > 0 && (
        <Table heads={["Name", "Role", "Made", "Until", ""]}>
          {data?.tokens.map((token) => (
            <tr key={token.id}>
              <td>{token.name}</td>
              <td>{token.role}</td>
              <td>{stamp(when(token.created_time)).slice(0, 10)}</td>
              <td>{token.expires_time ? stamp(when(token.expires_time)).slice(0, 10) : "no end"}</td>
              <td className="actions">
                <Remove what="Remove" path={route(["tokens", token.id])} done={reload} />
              </td>
            </tr>
          ))}
        </Table>
      )}
      <form className="filters" onSubmit={(event) => event.preventDefault()}>
        <input aria-label="Name of the token" placeholder="name of the token" value={name} onChange={(event) => setName(event.target.value)} />
        <RoleChoice label="Role of the token" value={role} change={setRole} />
        <label className="inline">
          days <input aria-label="Days" className="short" inputMode="numeric" placeholder="no end" value={days} onChange={(event) => setDays(event.target.value)} />
        </label>
        <Act
          disabled={!name}
          run={async () => {
            const token = await post<{ token: string }>("/api/tokens", { name, role, days: days ? Number(days) : null });
            setMade(token.token);
            setName("");
            reload();
          }}
        >
          Make a token
        </Act>
      </form>
      {made && (
        <Dialog title="The token, this once" close={() => setMade(undefined)}>
          <p>
            <code className="token">{made}</code>
          </p>
          <div className="save-bar">
            <Act kind="main" run={() => copy(made, "the token")}>
              Copy
            </Act>
          </div>
        </Dialog>
      )}
    </Panel>
  );
}
