"""What `bifrost doctor` found, for people."""

from collections.abc import Sequence

from rich.table import Table

from bifrost.screen import Listing
from connectors.contract import Finding
from flows.doctor import Examined, examine, plain

__all__ = ["examine", "plain", "table"]


def table(found: Sequence[Examined]) -> Table:
    """What was found, for people."""
    shown = Listing(["connector", "looked at"], [], ["found"], title="Sources and targets")
    for one in found:
        name = f"{one.name} ({one.type})"
        for finding in one.findings or [Finding(True, "", "nothing to look at")]:
            shown.add_row(name, finding.subject, f"{'ok   ' if finding.ok else 'WRONG'} {finding.detail}")
            name = ""
    return shown
