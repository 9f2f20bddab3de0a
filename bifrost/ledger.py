"""The account as a table."""

from typing import Any

from rich.table import Table


def tables(account: dict[str, Any]) -> list[Table]:
    """The account (`delivery.account.Account.to_dict`) as two tables: sources, then targets."""
    sources = Table(
        "source",
        *(_right("journalled", "waiting", "filtered", "routed", "dead letters", "unaccounted")),
        title="Sources",
    )
    for name, line in account["sources"].items():
        sources.add_row(
            name,
            *(f"{n:,}" for n in (line["journalled"], line["waiting"], sum(line["filtered"].values()), line["routed"])),
            f"{line['dead_letters']:,}",
            f"{line['unaccounted']:,}",
        )
    targets = Table(
        "target",
        "source",
        *(_right("routed", "delivered", "stored", "discarded", "dead letters", "unaccounted")),
        title="Targets",
    )
    for target, lines in account["targets"].items():
        for name, line in lines.items():
            targets.add_row(
                target,
                name,
                *(
                    f"{n:,}"
                    for n in (line["routed"], line["delivered"], line["stored"], sum(line["discarded"].values()))
                ),
                f"{line['dead_letters']:,}",
                f"{line['unaccounted']:,}",
            )
    return [sources, targets]


def _right(*names: str) -> list[Any]:
    from rich.table import Column

    return [Column(name, justify="right") for name in names]
