import { createContext, useContext } from "react";

import type { Role } from "./api/types";

export const Who = createContext<{ user: string; role: Role; again: () => void }>({ user: "", role: "viewer", again: () => undefined });

const RANK: Record<Role, number> = { viewer: 0, operator: 1, admin: 2 };

/** Whether the user has a role, or one above it. */
export function useMay(role: Role): boolean {
  return RANK[useContext(Who).role] >= RANK[role];
}
