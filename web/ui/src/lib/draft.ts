/** A connection that another page prepared, for the editor to begin with. */
let waiting: Record<string, unknown> | undefined;

export function leaveDraft(draft: Record<string, unknown>): void {
  waiting = draft;
}

/** The draft; it stays until another one is left, as a page may be made twice. */
export const draft = (): Record<string, unknown> | undefined => waiting;
