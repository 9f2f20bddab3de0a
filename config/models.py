"""The gateway's configuration, resolved: what the process runs on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from connectors.settings import SourceConfig, TargetConfig
from normalization.rules import Rule

TEMPLATE = "{site}/{area}/{line}/{equipment}/{signal_type}/{tag_name}"


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration that has been checked.

    Attributes:
        gateway: Name of the gateway.
        directory: Where its stores lie.
        sources: Its sources.
        targets: Its targets by name.
        rules: Routing rules.
        default: Targets of readings that match no rule.
        source_targets: Source -> target that gets all its readings besides the rules.
        path_template: Template of the paths.
        listen: Address of the HTTP port.
        port: The HTTP port; None for none.
        log_level: Least level that is logged.
    """

    gateway: str
    directory: Path
    sources: tuple[SourceConfig, ...] = ()
    targets: Mapping[str, TargetConfig] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    default: tuple[str, ...] = ()
    source_targets: Mapping[str, str] = field(default_factory=dict)
    path_template: str = TEMPLATE
    listen: str = "127.0.0.1"
    port: int | None = 8080
    log_level: str = "info"
