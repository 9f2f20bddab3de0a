"""Delta tables with a row per equipment and time, and a column per signal; see `connectors.wire.wide_tables`."""

import numpy as np
import pyarrow as pa
from typing_extensions import override

from connectors.contract import ConfigError, Context, RejectedRecords
from connectors.targets.delta import DeltaConfig, DeltaWriter, in_sql
from connectors.targets.delta_table import places
from connectors.wire import wide_tables
from connectors.wire.lakehouse import review
from connectors.wire.pivot import Signals
from connectors.wire.wide_tables import WIDE, signal_fields


class WideDeltaWriter(DeltaWriter):
    """Commits the rows of each unit once; columns of new signals are added by the commit, or said where they are reviewed."""

    columns = WIDE
    about = "signals of industrial devices, a column each, with its quality beside it"

    def __init__(self, config: DeltaConfig, context: Context) -> None:
        super().__init__(config, context)
        self._pivot = wide_tables.pivot(config.partition_time)

    @override
    def _made(self, parts: dict[str, pa.RecordBatch], unit: pa.RecordBatch) -> dict[str, pa.RecordBatch | pa.Table]:
        found = {name: self._signals(name, batch) for name, batch in parts.items()}
        if any(signals.rejected for signals in found.values()):
            raise self._rejected(found, unit)
        made: dict[str, pa.RecordBatch | pa.Table] = {}
        for name, batch in parts.items():
            rows = wide_tables.batches(batch, self._pivot.rows(batch), found[name].signals)
            made[name] = pa.Table.from_batches(rows)
        return made

    def _signals(self, name: str, batch: pa.RecordBatch) -> Signals:
        """The columns that the readings of a table need, all there or to be added by the commit."""
        uri, fields = self._uri(name), self._tables[name].schema().fields
        found = self._pivot.signals(batch, {field.name: str(field.type.type) for field in fields})
        spelt = {field.name.lower(): field.name for field in fields}
        found.unfit.extend(f"column {spelt[name]} must be spelt {name}" for name in found.missing if name in spelt)
        if found.unfit:
            raise ConfigError(f"{uri}: {'; '.join(found.unfit)}")
        lacking = self._lacking(self._tables[name])
        if self._config.schema_evolution == "review" and not found.rejected and (found.missing or lacking):
            lost = dict.fromkeys(lacking, len(batch)) | wide_tables.lost(found.missing, found.signals)
            of = pa.schema([*WIDE, *signal_fields(found.missing)])
            raise ConfigError(review(uri, in_sql(uri), lost, len(batch), "`schema_evolution: auto`", of))
        return found

    def _rejected(self, found: dict[str, Signals], unit: pa.RecordBatch) -> RejectedRecords | ConfigError:
        """What is wrong with readings, by their rows in the unit."""
        whole = self._config.per == "target"
        rows = {name: np.arange(len(unit)) for name in found} if whole else places(unit, self._config.table)
        if len(rows) > len(found):  # the others have their part, which the rest under a new number would bring again
            why = next(reason for signals in found.values() for reason in signals.rejected.values())
            return ConfigError(f"{self._uri(self._config.table)}: {why}; a part of the same unit is written already")
        wrong = {
            int(rows[name][at]): reason for name, signals in found.items() for at, reason in signals.rejected.items()
        }
        return RejectedRecords(sorted(wrong), [wrong[row] for row in sorted(wrong)])
