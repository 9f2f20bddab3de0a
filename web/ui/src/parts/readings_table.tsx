import type { Reading } from "../api/types";
import { value, visible } from "../lib/format";
import { QualityMark } from "./marks";
import { Table } from "./table";

export function ReadingsTable({ readings }: { readings: Partial<Reading>[] }) {
  return (
    <Table heads={["Tag", { right: "Value" }, "Quality"]}>
      {readings.map((reading, at) => (
        <tr key={at}>
          <td className="path">{visible(String(reading.path ?? reading.tag_name ?? reading.address ?? ""))}</td>
          <td className="figure right">
            {value(reading.value)} <small className="quiet unit">{reading.unit ? visible(reading.unit) : ""}</small>
          </td>
          <td>
            <QualityMark quality={reading.quality} />
          </td>
        </tr>
      ))}
    </Table>
  );
}
