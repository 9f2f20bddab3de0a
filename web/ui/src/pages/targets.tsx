import { Connections } from "./connections";

export default function TargetsPage() {
  return <Connections what="target" />;
}
