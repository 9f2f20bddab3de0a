"""A gateway that takes as many requests as come: python -m tests.web.open_gateway FOLDER PORT [reading] [alone]."""

import os
import sys
from pathlib import Path

from config.models import Configuration, WebSection
from connectors.settings import TagMapping
from normalization.rules import Rule
from tests.flows.numbered import NumberedConfig, TellingConfig

RULES = (Rule("warm", "tag_name LIKE 'temp%'", ("first",), 1),)


def sources(folder: Path) -> tuple[NumberedConfig, ...]:
    """Two sources of numbers, scaled; of the second each tag is in a place of its own."""
    tags = [TagMapping(match="*", unit="°C", scale=0.1)]
    return tuple(
        NumberedConfig(
            name=f"{name}_line",
            protocol=name,  # type: ignore[arg-type]
            acked=folder / f"{name}.acked",
            site="plant1",
            area=name,
            rate=500,
            tag_count=50,
            tags=tags,
        )
        for name in ("mqtt", "opcua")
    )


def configuration(
    folder: Path, *, port: int | None = None, reading: bool = False, alone: bool = False
) -> Configuration:
    """Two targets that tell what they got; temperatures go to the first, all else to the second, unless the first is alone."""
    names = ("first",) if alone else ("first", "second")
    return Configuration(
        gateway="gw",
        directory=folder / "data",
        sources=sources(folder) if reading else (),
        targets={name: TellingConfig(path=folder / f"{name}.jsonl") for name in names},
        rules=RULES,
        default=names[-1:],
        port=port,
        web=WebSection(rate=100_000.0),
        log_level="warning",
    )


def main() -> None:
    """Run until a signal comes."""
    import bifrost.run

    told = {word: word in sys.argv for word in ("reading", "alone")}
    config = configuration(Path(sys.argv[1]), port=int(sys.argv[2]), **told)
    sys.exit(bifrost.run.run(config))


if __name__ == "__main__":
    os.environ.pop("BYTEWAX_RECOVERY_DIRECTORY", None)
    main()
