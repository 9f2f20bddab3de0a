"""The verbs of ``bifrost certs`` that make, import, renew and remove certificates."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bifrost.options import DEFAULT_CONFIG, AsJson, ConfigFile, load, print_json, stores_told

if TYPE_CHECKING:
    from config.certificates import CertificatesDesk, Wanted

Name = Annotated[str, typer.Argument(help="What its files are called: small letters, digits and `-`.")]
Number = Annotated[str, typer.Argument(help="Id of the certificate (SHA-256), or its first 8 digits.")]
Subject = Annotated[str | None, typer.Option("--subject", help="Common name; the name when absent.")]
Organization = Annotated[str, typer.Option("--organization", help="Organization of the subject.")]
Days = Annotated[int | None, typer.Option("--days", help="How long it holds, in days.", min=1, max=36_500)]
Hosts = Annotated[list[str] | None, typer.Option("--host", help="Host name or IP address that it is for; repeatable.")]
By = Annotated[str | None, typer.Option("--ca", help="The authority that signs it, made by `bifrost certs ca`.")]
KeyOption = Annotated[
    str | None, typer.Option("--key", help="Kind of key: rsa-2048, rsa-3072, rsa-4096, p-256 or p-384.")
]


def _desk(config: Path) -> "CertificatesDesk":
    from config.certificates import CertificatesDesk

    loaded = load(config)
    return CertificatesDesk(lambda: loaded)


def _made(made: dict[str, Any], as_json: bool, how: str = "made") -> None:
    from config.logs import escaped

    if as_json:
        print_json(made)
        return
    typer.echo(f"{escaped(made['subject'])} is {how}: {made['file']}, valid to {made['not_after'][:10]}")
    if "key_file" in made:
        typer.echo(f"key: {made['key_file']}")
    if "previous_file" in made:
        typer.echo(f"the one before is kept in {made['previous_file']}")
    typer.echo(f"id {made['id']}")


def _create(
    config: Path, name: str, wanted: "Wanted", as_json: bool, by: str | None, key: str | None, source: str | None = None
) -> None:
    from typing import get_args

    from config.certificates.forms import KeyKind

    if key is not None and key not in get_args(KeyKind):
        raise typer.BadParameter(f"there is no key `{key}`; write one of {', '.join(get_args(KeyKind))}")
    with stores_told():
        _made(_desk(config).create(name, wanted, by=by, key=key, source=source), as_json)  # type: ignore[arg-type]


def ca(
    name: Name,
    config: ConfigFile = DEFAULT_CONFIG,
    subject: Subject = None,
    organization: Organization = "",
    days: Days = None,
    key: KeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Make an authority of your own, which signs the certificates of servers, clients and OPC UA applications."""
    from config.certificates import Wanted

    _create(config, name, Wanted("ca", subject or name, organization, days=days), as_json, None, key)


def server(
    name: Name,
    config: ConfigFile = DEFAULT_CONFIG,
    host: Hosts = None,
    by: By = None,
    subject: Subject = None,
    organization: Organization = "",
    days: Days = None,
    key: KeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Make a server's certificate and key, for the hosts that clients connect to; self-signed without --ca."""
    from config.certificates import Wanted

    wanted = Wanted("server", subject or (host or [name])[0], organization, tuple(host or ()), days=days)
    _create(config, name, wanted, as_json, by, key)


def client(
    name: Name,
    config: ConfigFile = DEFAULT_CONFIG,
    host: Hosts = None,
    by: By = None,
    subject: Subject = None,
    organization: Organization = "",
    days: Days = None,
    key: KeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Make a client's certificate and key, to log in with: cert_file and key_file of a source or target."""
    from config.certificates import Wanted

    wanted = Wanted("client", subject or name, organization, tuple(host or ()), days=days)
    _create(config, name, wanted, as_json, by, key)


def application(
    name: Name,
    config: ConfigFile = DEFAULT_CONFIG,
    source: Annotated[
        str | None, typer.Option("--source", help="The OPC UA source that it is for: takes its ApplicationUri.")
    ] = None,
    uri: Annotated[str, typer.Option("--uri", help="ApplicationUri, where it is for another application.")] = "",
    host: Hosts = None,
    by: By = None,
    subject: Subject = None,
    organization: Organization = "",
    days: Days = None,
    key: KeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Make an OPC UA application's certificate and key, with its ApplicationUri and this machine's name."""
    import socket

    from config.certificates import Wanted

    hosts = (socket.gethostname() or "localhost", *(host or ()))
    wanted = Wanted("application", subject or name, organization, hosts, uri, days)
    _create(config, name, wanted, as_json, by, key, source)


def import_certificate(
    file: Annotated[Path, typer.Argument(help="Certificates in PEM, DER or PKCS#12.", exists=True, dir_okay=False)],
    config: ConfigFile = DEFAULT_CONFIG,
    name: Annotated[
        str | None, typer.Option("--name", help="What its files are called; the file's name when absent.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key-file", help="Its key, where it is apart.", exists=True)] = None,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", help="File of the password; asked for when absent.", exists=True)
    ] = None,
    trusted: Annotated[str | None, typer.Option("--trusted", help="An OPC UA source that is to trust it.")] = None,
    issuer: Annotated[
        str | None, typer.Option("--issuer", help="An OPC UA source that is to use it to complete chains.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Keep a certificate from elsewhere, with its key: checked to belong together, the key readable by its owner alone."""
    import re

    from config.certificates.files import CertificatesError

    if trusted is not None and issuer is not None:
        raise typer.BadParameter("say --trusted or --issuer, not both")
    called = name or re.sub(r"[^a-z0-9-]+", "-", file.stem.lower()).strip("-")
    password = password_file.read_text(encoding="utf-8").rstrip("\r\n") if password_file is not None else None
    data, key_data = file.read_bytes(), key.read_bytes() if key is not None else None
    desk = _desk(config)

    def kept(secret: str | None) -> dict[str, Any]:
        to = trusted or issuer
        return desk.import_(
            called, data, key=key_data, password=secret, source=to, to="issuer" if issuer is not None else "trusted"
        )

    with stores_told():
        try:
            made = kept(password)
        except CertificatesError as error:
            if "password" not in str(error) or password is not None or not sys.stdin.isatty():
                raise
            made = kept(typer.prompt("Password", hide_input=True, err=True))
    _made(made, as_json, "kept")


def renew(
    number: Annotated[str | None, typer.Argument(help="Id of the certificate, or its first 8 digits.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    due: Annotated[
        int | None, typer.Option("--due", help="All that end within so many days and can be renewed here.", min=0)
    ] = None,
    days: Days = None,
    as_json: AsJson = False,
) -> None:
    """Give a certificate new dates: same key, subject, names and usage, signed by its authority here, or by itself.

    The old one is kept aside. A running gateway connects anew with it.
    """
    if (number is None) == (due is None):
        raise typer.BadParameter("name a certificate, or say --due DAYS")
    with stores_told():
        desk = _desk(config)
        if number is not None:
            _made(desk.renew(number, days=days), as_json, "renewed")
            return
        done = desk.renew_due(float(due or 0), days=days)
    if as_json:
        print_json({"renewed": done})
        return
    for made in done:
        _made(made, as_json=False, how="renewed")
    if not done:
        typer.echo(f"nothing ends within {due} days that could be renewed here")


def remove(
    number: Number,
    config: ConfigFile = DEFAULT_CONFIG,
    owner: Annotated[
        str | None, typer.Option("--source", help="The source that refused it, where several did.")
    ] = None,
) -> None:
    """Delete a certificate that was refused, or one of `bifrost certs` that nothing uses, with its key."""
    with stores_told():
        removed = _desk(config).remove(number, owner=owner)
    typer.echo(f"removed {removed['file']}")
