"""InfluxDB 1.x, 2.x and 3.x, and VictoriaMetrics: readings as line protocol over HTTP, the same point when sent again."""

from connectors.targets.influxdb.config import InfluxConfig, InfluxSettings

__all__ = ["InfluxConfig", "InfluxSettings"]
