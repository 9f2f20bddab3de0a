"""What the configuration says about line protocol, wherever it is written to."""

from typing import Any

from pydantic import Field, model_validator

from connectors.fields import Settings
from connectors.wire.line_protocol import LineFormat, Precision


class LineProtocolSettings(Settings):
    """How readings become lines of line protocol."""

    measurement: str = Field("reading", description="name of the measurement, or a column in braces: {signal_type}")
    tags: list[str] = Field(["path", "source", "unit", "gateway", "shard"], description="columns that become tags")
    fields: list[str] = Field(["quality", "sequence"], description="columns that become fields beside the value")
    precision: Precision = Field("ns", description="unit of the time: ns, us, ms or s")

    def form(self, **further: Any) -> LineFormat:
        """The format that the settings describe; raises ValueError for columns that there are not.

        Args:
            further: What the target decides, see `LineFormat`.
        """
        return LineFormat(self.measurement, tuple(self.tags), tuple(self.fields), precision=self.precision, **further)

    @model_validator(mode="after")
    def _columns_exist(self) -> "LineProtocolSettings":
        self.form()
        return self
