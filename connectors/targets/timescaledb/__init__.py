"""TimescaleDB and PostgreSQL: readings into a table by binary COPY, each once, by their identity."""

from connectors.targets.timescaledb.config import TimescaleConfig, TimescaleSettings

__all__ = ["TimescaleConfig", "TimescaleSettings"]
