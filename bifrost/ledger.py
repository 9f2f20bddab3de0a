"""The account as a table."""

from typing import Any

from rich.table import Table

from bifrost.screen import Listing
from bifrost.status import kept_table


def tables(account: dict[str, Any]) -> list[Table]:
    """The account (`delivery.account.Account.to_dict`) as tables: sources, targets, and what is kept for others."""
    sources = Listing(
        ["source"], ["journalled", "waiting", "filtered", "routed", "dead\nletters", "unaccounted"], title="Sources"
    )
    for name, line in account["sources"].items():
        filtered = sum(line["filtered"].values())
        counts = (line["journalled"], line["waiting"], filtered, line["routed"], line["dead_letters"])
        sources.add_row(name, *(f"{count:,}" for count in (*counts, line["unaccounted"])))
    targets = Listing(
        ["target", "source"],
        ["routed", "delivered", "stored", "discarded", "dead\nletters", "unaccounted"],
        title="Targets",
    )
    for target, lines in account["targets"].items():
        for name, line in lines.items():
            discarded = sum(line["discarded"].values())
            counts = (line["routed"], line["delivered"], line["stored"], discarded, line["dead_letters"])
            targets.add_row(target, name, *(f"{count:,}" for count in (*counts, line["unaccounted"])))
    return [sources, targets, *kept_table(account.get("kept"))]
