"""``bifrost users`` and ``bifrost audit``: who may log in to the gateway's port, and what they did.

They work on the files in the gateway's directory, whether it runs or not; a gateway that runs sees a change at once.
"""

import secrets
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bifrost.options import DEFAULT_CONFIG, AsJson, ConfigFile, duration, load, print_json

if TYPE_CHECKING:
    from web.access.accounts import Accounts

users = typer.Typer(help="Users and API tokens of the gateway's HTTP port.", no_args_is_help=True)
audit = typer.Typer(help="Who did what through the gateway's HTTP port.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the user.")]
RoleOf = Annotated[
    Literal["viewer", "operator", "admin"], typer.Option(help="What may be done: look, operate, or change everything.")
]
Generate = Annotated[bool, typer.Option("--generate", help="Make a password and print it.")]


@users.callback()
def _users() -> None:
    """Users and API tokens of the gateway's HTTP port."""


@audit.callback()
def _audit() -> None:
    """Who did what through the gateway's HTTP port."""


def _accounts(config: Path) -> "tuple[Accounts, Path]":
    from web.access.accounts import Accounts

    directory = load(config).directory
    return Accounts(directory), directory


def _note(directory: Path, what: str) -> None:
    """Audit what a command changes; a gateway that runs has the file open at the same time, and reads its end anew."""
    import getpass

    from web.access.accounts import utc_now
    from web.access.audit import Audit

    Audit(directory).note(f"{getpass.getuser()} (command line)", what, "this machine", "done", utc_now())


def _password(*, generate: bool) -> str:
    if generate:
        return secrets.token_urlsafe(15)
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")


def _refuse(error: Exception) -> typer.Exit:
    typer.echo(str(error), err=True)
    return typer.Exit(1)


@users.command(name="list")
def list_users(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show users and API tokens."""
    from bifrost.screen import Listing, console
    from delivery.disk import StoreError

    accounts, _ = _accounts(config)
    try:
        people, tokens = accounts.users(), accounts.tokens()
    except StoreError as error:
        raise _refuse(error) from error
    if as_json:
        print_json(
            {
                "users": [{"name": name, "role": user.role} for name, user in people.items()],
                "tokens": [
                    {"id": number, "name": token.name, "role": token.role, "expires": str(token.expires or "")}
                    for number, token in tokens.items()
                ],
            }
        )
        return
    shown = Listing(
        ["name", "role", "kind"], [], ["created (UTC)", "expires (UTC)", "id"], title="Users and API tokens"
    )
    for name, user in sorted(people.items()):
        shown.add_row(name, user.role, "user", f"{user.created:%Y-%m-%d %H:%M}", "", "")
    for number, token in tokens.items():
        expires = f"{token.expires:%Y-%m-%d %H:%M}" if token.expires else "never"
        shown.add_row(token.name, token.role, "token", f"{token.created:%Y-%m-%d %H:%M}", expires, number)
    console().print(shown)


@users.command()
def add(name: Name, role: RoleOf = "viewer", generate: Generate = False, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Add a user. The password is asked for, read from standard input, or made."""
    from delivery.disk import StoreError
    from web.access.accounts import utc_now

    accounts, directory = _accounts(config)
    password = _password(generate=generate)
    try:
        accounts.add_user(name, password, role, utc_now())
    except (ValueError, StoreError) as error:
        raise _refuse(error) from error
    _note(directory, f"add the {role} {name}")
    typer.echo(f"{name} can log in as {role}" + (f" with the password {password}" if generate else ""))


@users.command()
def remove(name: Name, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Remove a user, or an API token by its id."""
    from delivery.disk import StoreError
    from web.access.accounts import UnknownNameError

    accounts, directory = _accounts(config)
    try:
        if name in accounts.tokens():
            what = f"the token {accounts.remove_token(name)}"
        else:
            accounts.remove_user(name)
            what = name
    except (ValueError, UnknownNameError, StoreError) as error:
        raise _refuse(error) from error
    _note(directory, f"remove {what}")
    typer.echo(f"{what} is removed")


@users.command()
def password(name: Name, generate: Generate = False, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Give a user another password, e.g. one that was forgotten."""
    from delivery.disk import StoreError
    from web.access.accounts import UnknownNameError, utc_now

    accounts, directory = _accounts(config)
    given = _password(generate=generate)
    try:
        accounts.change_user(name, given, None, utc_now())
    except (ValueError, UnknownNameError, StoreError) as error:
        raise _refuse(error) from error
    _note(directory, f"another password for {name}")
    typer.echo(f"{name} has another password" + (f": {given}" if generate else ""))


@users.command()
def role(name: Name, role: RoleOf, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Give a user another role."""
    from delivery.disk import StoreError
    from web.access.accounts import UnknownNameError, utc_now

    accounts, directory = _accounts(config)
    try:
        accounts.change_user(name, None, role, utc_now())
    except (ValueError, UnknownNameError, StoreError) as error:
        raise _refuse(error) from error
    _note(directory, f"the role {role} for {name}")
    typer.echo(f"{name} is {role}")


@users.command()
def token(
    name: Annotated[str, typer.Argument(help="Name of the token, for people.")],
    role: RoleOf = "viewer",
    expires: Annotated[str, typer.Option(help="Time until it is worth nothing, e.g. 90d; `never`.")] = "90d",
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Make an API token and print it, once."""
    from delivery.disk import StoreError
    from web.access.accounts import utc_now

    accounts, directory = _accounts(config)
    now = utc_now()
    until = None if expires == "never" else now + timedelta(seconds=duration(expires) or 0.0)
    try:
        number, text = accounts.add_token(name, role, until, now)
    except (ValueError, StoreError) as error:
        raise _refuse(error) from error
    _note(directory, f"the {role} token {name} ({number})")
    typer.echo(text)


@users.command(name="setup-token")
def setup_token(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Make a token for the first user and print it, once; the one before is worth nothing then."""
    from delivery.disk import StoreError
    from web.access.accounts import utc_now

    accounts, directory = _accounts(config)
    try:
        text = accounts.begin_setup(utc_now(), again=True)
    except StoreError as error:
        raise _refuse(error) from error
    if text is None:
        typer.echo(
            "there are users already: bifrost users add, or bifrost users password for one that was forgotten", err=True
        )
        raise typer.Exit(1)
    _note(directory, "a new set-up token")
    typer.echo(text)


@audit.command()
def verify(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """See that no entry of the audit was changed or taken out. Exit code 1 when one was."""
    from web.access.audit import verify as look

    found = look(load(config).directory)
    broken = found.broken
    if as_json:
        where = None if broken is None else {"file": broken.file, "line": broken.line, "reason": broken.reason}
        print_json({"entries": found.entries, "head": found.head, "broken": where})
    elif broken is None:
        typer.echo(f"{found.entries} entries hold together; the last has the hash {found.head}")
    else:
        typer.echo(
            f"{broken.file}:{broken.line}: {broken.reason}; the {found.entries} entries before it hold together",
            err=True,
        )
    raise typer.Exit(0 if broken is None else 1)
