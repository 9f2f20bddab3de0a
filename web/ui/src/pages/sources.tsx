import { Connections } from "./connections";

export default function SourcesPage() {
  return <Connections what="source" />;
}
