"""What the writers would copy of a batch, by the same encoders and without a connection. Pure."""

import pyarrow as pa

from connectors.contract import ConfigError
from connectors.dry_run import Written, columns_of, refuse
from connectors.targets.timescaledb.config import TimescaleConfig
from connectors.targets.timescaledb.encode import COLUMNS, CopyEncoder
from connectors.targets.timescaledb.wide import WideEncoder
from normalization.reading import table


def written(config: TimescaleConfig, batch: pa.RecordBatch) -> list[Written]:
    """The rows as COPY is given them, and their columns."""
    own = config.provider_config
    place = f"{own.schema_}.{own.table}"
    if own.layout == "wide":
        encoder = WideEncoder(own.time)
        made = encoder.encode(batch, {})
        if made.missing:  # columns that the writer makes, or waits for
            made = encoder.encode(batch, made.missing)
        if made.unfit:
            raise ConfigError(f"{place}: {'; '.join(made.unfit)}")
        if made.rejected:
            refuse(dict(zip(made.rejected, made.reasons, strict=True)))
        return [Written(place, made.payload, {"columns": made.columns})]
    rows = CopyEncoder(own.time).encode(batch)
    if rows.rejected:
        refuse(dict(zip(rows.rejected, rows.reasons, strict=True)))
    known = columns_of(table(batch, own.time), place)
    if len(known) != 1:
        return [Written(place, rows.payload, {"rows": len(batch)})]
    fields = known[0].fields
    time = fields["source_time"] if own.time == "source_time" and fields["source_time"] else fields["received_time"]
    told = {"time": time, **fields}
    return [Written(place, rows.payload, {name: told[name] for name in COLUMNS if name in told})]
