"""`bifrost install` and `bifrost uninstall`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bifrost.options import stores_told

if TYPE_CHECKING:
    from bifrost.edge.machine import Step

Systemd = Annotated[bool, typer.Option("--systemd", help="As a service of systemd; there is no other kind yet.")]
Root = Annotated[
    Path, typer.Option("--root", help="Root of the machine: a mounted image or a chroot, if not this one.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
Program = Annotated[Path, typer.Option("--program", help="Folder of the versions and of `current`.")]
_HERE = Path("/")
_PROGRAM = Path("/opt/bifrost")


def install(
    systemd: Systemd = False,
    root: Root = _HERE,
    dry_run: DryRun = False,
    no_start: Annotated[bool, typer.Option("--no-start", help="Do not start it yet.")] = False,
    program: Program = _PROGRAM,
    user: Annotated[str, typer.Option("--user", help="Who it runs as; made when there is none.")] = "bifrost",
) -> None:
    """Make the gateway a service of this machine: user, folders, unit. What is there already is left as it is."""
    from bifrost.edge.machine import Machine, unit_text

    _wants_systemd(systemd)
    with stores_told():
        machine = Machine(root, program, user)
        steps = machine.installing(unit_text(program, user), Path(sys.prefix), start=not no_start)
        _carry_out(steps, root, dry_run=dry_run)
    typer.echo("the configuration: /etc/bifrost/gateway.yaml; whether all is reached: bifrost doctor")


def uninstall(
    systemd: Systemd = False,
    root: Root = _HERE,
    dry_run: DryRun = False,
    purge: Annotated[bool, typer.Option("--purge", help="Readings that wait, configuration and secrets too.")] = False,
) -> None:
    """Stop the service and take its unit away. Readings that wait, configuration and program stay."""
    from bifrost.edge.machine import Machine

    _wants_systemd(systemd)
    with stores_told():
        _carry_out(Machine(root).taking_away(purge=purge), root, dry_run=dry_run)


def upgrade(
    wheel: Annotated[
        Path, typer.Argument(help="The new version; the wheels that it needs lie beside it.", metavar="WHEEL")
    ],
    extras: Annotated[str, typer.Option("--extras", help="What it is installed with, as in pyproject.toml.")] = "all",
    ready_within: Annotated[
        str, typer.Option("--ready-within", help="Time in which it must get ready.", metavar="DURATION")
    ] = "2m",
    online: Annotated[
        bool, typer.Option("--online", help="What is not beside it may come from the package index.")
    ] = False,
    program: Program = _PROGRAM,
    config: Annotated[Path, typer.Option("--config", "-c", help="What the service runs.")] = Path(
        "/etc/bifrost/gateway.yaml"
    ),
) -> None:
    """Install a new version beside the present one and switch to it; back, when it does not get ready in time.

    Exit code 1 when the new version does not run. Before: `bifrost backup`.
    """
    from bifrost.edge.upgrade import Upgrade
    from bifrost.options import duration

    with stores_told():
        Upgrade(wheel, extras, duration(ready_within) or 0.0, online, program, config, typer.echo).run()


def _wants_systemd(systemd: bool) -> None:
    if not systemd:
        raise typer.BadParameter("say --systemd: the gateway becomes a service of systemd, there is no other kind yet")


def _carry_out(steps: "list[Step]", root: Path, *, dry_run: bool) -> None:
    if not dry_run and root == _HERE and os.geteuid() != 0:
        typer.echo("only root can do that; --dry-run shows what would be done", err=True)
        raise typer.Exit(1)
    for step in steps:
        typer.echo(f"{'would do: ' if dry_run else ''}{step.says}")
        if not dry_run:
            step.do()
    if not steps:
        typer.echo("nothing to do")
