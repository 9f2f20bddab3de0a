"""Databricks ZeroBus: readings into managed Delta tables through the official ingest SDK, one target per table."""

from connectors.targets.zerobus.config import ZeroBusConfig, ZeroBusSection, ZeroBusSettings, source_targets, targets
from connectors.targets.zerobus.schema import ddl

__all__ = ["ZeroBusConfig", "ZeroBusSection", "ZeroBusSettings", "ddl", "source_targets", "targets"]
