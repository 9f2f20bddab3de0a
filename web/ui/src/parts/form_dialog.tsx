import { useState, type InputHTMLAttributes, type ReactNode } from "react";

import { Act, Dialog, Field, Trouble } from "./basics";

/** Fields and the one thing that is done with them; it closes when that is done, and says beside the fields why it is not. */
export function FormDialog({ title, act, run, ready, close, done, children }: { title: string; act: string; run: () => Promise<unknown>; ready: boolean; close: () => void; done?: () => void; children: ReactNode }) {
  const [error, setError] = useState<Error | null>(null);
  const attempt = async (): Promise<void> => {
    try {
      await run();
      done?.();
      close();
    } catch (failed) {
      setError(failed as Error);
    }
  };
  return (
    <Dialog title={title} close={close}>
      {children}
      <Trouble error={error} />
      <div className="save-bar">
        <Act kind="main" run={attempt} disabled={!ready}>
          {act}
        </Act>
      </div>
    </Dialog>
  );
}

/** A line of text with its name above. */
export function TextField({ label, hint, change, ...input }: { label: ReactNode; hint?: ReactNode; value: string; change: (text: string) => void } & Omit<InputHTMLAttributes<HTMLInputElement>, "value" | "onChange">) {
  return (
    <Field label={label} hint={hint}>
      <input {...input} onChange={(event) => change(event.target.value)} />
    </Field>
  );
}
