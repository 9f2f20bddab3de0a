"""``bifrost secrets``: what configurations name as ``${secret:name}``, kept encrypted."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bifrost.options import DEFAULT_CONFIG, AsJson, ConfigFile, print_json, stores_told

if TYPE_CHECKING:
    from config.secrets import SecretStore

_HELP = "Secrets of the configuration, encrypted at rest; it names them as ${secret:name}."
secrets = typer.Typer(help=_HELP, no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the secret.")]
KeyFile = Annotated[Path | None, typer.Argument(help="File to write the key to; not beside the secrets.")]
Keyring = Annotated[bool, typer.Option("--keyring", help="Put the key into the operating system's keyring.")]


@secrets.callback()
def _secrets() -> None:
    """Secrets of the configuration, encrypted at rest; it names them as ${secret:name}.

    They are in secrets.json beside the configuration, or where $BIFROST_SECRETS says. Their key comes from the file that
    $BIFROST_SECRETS_KEY_FILE names, from $BIFROST_SECRETS_KEY, or from the operating system's keyring.
    """


def _store(config: Path) -> "SecretStore":
    from config.secrets import SecretStore, store_path

    return SecretStore(store_path(config.absolute().parent))


@secrets.command(name="new-key")
def new_key(file: KeyFile = None, keyring: Keyring = False, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Make a key for the secrets, once, and say how to name it."""
    from config import secret_keys as made

    if (file is None) != keyring:
        raise typer.BadParameter("name a file for the key, or say --keyring")
    with stores_told():
        store = _store(config)
        if file is None:
            if made.keys(store.path):
                raise made.SecretsError("there is a key already; `bifrost secrets rotate` replaces it")
            made.keep_in_keyring(store.path, made.new_key())
            typer.echo("The key is in the keyring.")
            return
        if file.exists():
            raise made.SecretsError(f"{file} exists already; `bifrost secrets rotate` replaces a key")
        made.write_key(file, made.new_key(), store.path)
    typer.echo(f"The key is in {file}. Keep a copy in a safe place, and tell the gateway where it is:")
    typer.echo(f"export BIFROST_SECRETS_KEY_FILE={file.absolute()}")


@secrets.command(name="set")
def set_secret(
    name: Name,
    config: ConfigFile = DEFAULT_CONFIG,
    pbkdf2: Annotated[
        bool, typer.Option("--pbkdf2", help="Derive its key by PBKDF2-HMAC-SHA256, where a policy wants it.")
    ] = False,
) -> None:
    """Keep a secret; it is asked for, or read from standard input. Never an argument: others would see it."""
    value = typer.prompt("Value", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.read().rstrip("\r\n")
    with stores_told():
        _store(config).set(name, value, "pbkdf2-hmac-sha256" if pbkdf2 else None)
    typer.echo(f"Kept. In the configuration: ${{secret:{name}}}", err=True)


@secrets.command(name="get")
def get_secret(name: Name, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Print a secret."""
    with stores_told():
        typer.echo(_store(config).get(name))


@secrets.command(name="list")
def list_secrets(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show the names of the secrets and when each was changed; never what they stand for."""
    with stores_told():
        store = _store(config)
        listed = store.listed()
    if as_json:
        print_json({"secrets": [{"name": name, "changed": changed.isoformat()} for name, changed in listed.items()]})
        return
    from bifrost.screen import Listing, console

    table = Listing(["name"], ["changed"], [], title=f"Secrets in {store.path}")
    for name, changed in listed.items():
        table.add_row(name, f"{changed:%Y-%m-%d %H:%M}")
    console().print(table)


@secrets.command(name="rm")
def remove_secret(name: Name, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Forget a secret."""
    with stores_told():
        _store(config).remove(name)


@secrets.command()
def rotate(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Seal every secret anew under a new key. One that was cut off is taken up again; either key opens them until then.

    A key in a file or in the keyring is replaced there. A key in $BIFROST_SECRETS_KEY is replaced by that in
    $BIFROST_SECRETS_NEXT_KEY.
    """
    with stores_told():
        count, told = _store(config).rotate_key()
    typer.echo(f"{count} secret{'' if count == 1 else 's'} sealed anew. {told}")
