export interface Draft {
  source: Record<string, unknown>;
  notes: string[];
}

/** A source that another page prepared, for the editor to begin with. */
let waiting: Draft | undefined;

export function leaveDraft(source: Record<string, unknown>, notes: string[]): void {
  waiting = { source, notes };
}

/** The draft; it stays until another one is left, as a page may be made twice. */
export const draft = (): Draft | undefined => waiting;
