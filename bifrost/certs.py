"""``bifrost certs``: all certificates that a configuration uses, and whom OPC UA sources trust."""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bifrost import certs_made
from bifrost.options import DEFAULT_CONFIG, AsJson, ConfigFile, load, print_json, stores_told

if TYPE_CHECKING:
    from config.models import Configuration
    from connectors.sources.opcua.config import OpcUaConfig
    from connectors.sources.opcua.trust import Folder, Stored, TrustStore

_HELP: Final = "Certificates: those in use and when they end, whom OPC UA sources trust; make, import and renew them."
certs = typer.Typer(help=_HELP, no_args_is_help=True)

_SHORTEST: Final = 6  # digits of a thumbprint: two certificates that are alike in so many are rare
_FOLDERS: Final = ("trusted", "issuer", "rejected")

Source = Annotated[str, typer.Argument(help="Name of the source.")]
Thumbprint = Annotated[
    str,
    typer.Argument(help=f"SHA-1 of the certificate, as `bifrost certs list` shows it; {_SHORTEST} digits are enough."),
]


for _made in (certs_made.ca, certs_made.server, certs_made.client, certs_made.application, certs_made.renew):
    certs.command()(_made)
certs.command(name="import")(certs_made.import_certificate)
certs.command(name="rm")(certs_made.remove)


@certs.callback()
def _certs() -> None:
    """Certificates: those in use and when they end, whom OPC UA sources trust; make, import and renew them.

    Those that are made or imported here lie in `certificates` below the gateway's directory, for ca_file, cert_file and key_file.
    """


@certs.command(name="list")
def list_certificates(
    source: Annotated[str | None, typer.Argument(help="Name of an OPC UA source; everything when absent.")] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show all certificates that the configuration uses: of sources, targets and authorities, and what sources rejected."""
    from config.certificates import CertificatesDesk
    from config.logs import escaped

    loaded = load(config)
    sources = _sources(loaded, source)
    with stores_told():
        listed = [_listed(loaded, one) for one in sources]
        found = CertificatesDesk(lambda: loaded).listed()["certificates"]
    if source is not None:
        found = [row for row in found if row["owner"] == source]
    if as_json:
        print_json({"sources": listed, "certificates": found})
        return
    from bifrost.screen import Listing, console

    table = Listing(
        ["owner", "kind", "subject"], ["id", "SHA-1", "valid to", "days"], ["used by, note"], title="Certificates"
    )
    for row in found:
        states = {"soon": "ENDS SOON", "expired": "EXPIRED", "not_yet": f"not valid before {row['not_before'][:10]}"}
        notes = [states.get(row["state"], ""), *row["used_by"], "authority" if row["authority"] else "", row["note"]]
        table.add_row(
            row["owner"],
            row["kind"],
            escaped(row["subject"]),
            row["id"][:8],
            row["thumbprint"],
            row["not_after"][:10],
            f"{row['days_left']:.0f}",
            ", ".join(note for note in notes if note),
        )
    console().print(table)


@certs.command()
def trust(
    source: Source,
    thumbprint: Thumbprint,
    config: ConfigFile = DEFAULT_CONFIG,
    issuer: Annotated[
        bool, typer.Option("--issuer", help="Use an authority's certificate to complete chains, without trusting it.")
    ] = False,
) -> None:
    """Trust a rejected certificate: compare its SHA-1 with what the server shows before you do.

    An authority's certificate makes every server trusted that has a certificate of it. A running gateway connects at its next
    attempt.
    """
    _move(
        source, thumbprint, config, ("rejected", "trusted" if issuer else "issuer"), "issuer" if issuer else "trusted"
    )


@certs.command()
def reject(source: Source, thumbprint: Thumbprint, config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Trust a certificate no longer; a connection that is open ends when it is next made."""
    _move(source, thumbprint, config, ("trusted", "issuer"), "rejected")


@certs.command()
def export(
    source: Source,
    config: ConfigFile = DEFAULT_CONFIG,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write it here: in DER, or in PEM to a file .pem.", dir_okay=False),
    ] = None,
) -> None:
    """Print a source's own certificate (PEM), for the server to trust; it is made when there is none yet."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from config.certificates.files import CertificatesError, as_the_gateway
    from connectors.sources.opcua.certificates import parse
    from connectors.sources.opcua.own import CertificateError, application_uri, own_identities

    loaded = load(config)
    (one,) = _sources(loaded, source)
    directory = _directory(loaded, one)
    try:
        if one.cert_file is not None:
            certificate = parse(one.cert_file.read_bytes())[0]
        else:
            as_the_gateway(directory / "own")
            uri, now = application_uri(loaded.gateway, one.name), datetime.datetime.now(datetime.UTC)
            certificate = own_identities(directory, uri, now, one.certificate_hosts)[0].certificate
        if output is None:
            typer.echo(certificate.public_bytes(Encoding.PEM).decode(), nl=False)
        else:
            output.write_bytes(certificate.public_bytes(Encoding.PEM if output.suffix == ".pem" else Encoding.DER))
            typer.echo(f"written to {output}")
    except (CertificateError, CertificatesError, OSError, ValueError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error


def _sources(loaded: "Configuration", name: str | None) -> "list[OpcUaConfig]":
    from connectors.sources.opcua.config import OpcUaConfig

    known = [source for source in loaded.sources if isinstance(source, OpcUaConfig)]
    if name is None:
        return known
    wanted = [source for source in known if source.name == name]
    if not wanted:
        names = ", ".join(source.name for source in known) or "none"
        msg = f"there is no OPC UA source `{name}`; the configuration has: {names}"
        raise typer.BadParameter(msg)
    return wanted


def _directory(loaded: "Configuration", source: "OpcUaConfig") -> Path:
    return loaded.directory / "sources" / source.name


def _listed(loaded: "Configuration", source: "OpcUaConfig") -> dict[str, Any]:
    from connectors.sources.opcua.certificates import parse
    from connectors.sources.opcua.trust import Stored, TrustStore

    directory = _directory(loaded, source)
    own = (
        [source.cert_file]
        if source.cert_file
        else [directory / "own" / f"{n}.der" for n in ("certificate", "previous")]
    )
    rows: list[dict[str, Any]] = []
    for file in own:
        if file.exists():
            note = "used while the server does not trust the renewed one" if file.name == "previous.der" else ""
            try:
                rows.append(_row("own", Stored(file, parse(file.read_bytes())[0]), note))
            except ValueError as error:
                typer.echo(f"{file} is no certificate: {error}", err=True)
    store = TrustStore(directory, source.name)
    for folder in _FOLDERS:
        rows += [_row(folder, stored, "") for stored in store.certificates(folder)]
    return {"source": source.name, "directory": str(directory), "certificates": rows}


def _row(folder: str, stored: "Stored", note: str) -> dict[str, Any]:
    from connectors.sources.opcua.certificates import uris
    from connectors.sources.opcua.chain import is_authority

    certificate, now = stored.certificate, datetime.datetime.now(datetime.UTC)
    notes = [note] if note else []
    if is_authority(certificate):
        notes.append("authority")
    if now >= certificate.not_valid_after_utc:
        notes.append("expired")
    elif now < certificate.not_valid_before_utc:
        notes.append("not valid yet")
    elif folder != "rejected" and (left := (certificate.not_valid_after_utc - now).days) < 90:
        notes.append(f"expires in {left} days")
    return {
        "folder": folder,
        "file": str(stored.file),
        "subject": certificate.subject.rfc4514_string(),
        "thumbprint": stored.thumbprint,
        "application_uris": uris(certificate),
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "authority": is_authority(certificate),
        "note": ", ".join(notes),
    }


def _move(source: str, digits: str, config: Path, folders: "tuple[Folder, ...]", to: "Folder") -> None:
    from config.logs import escaped
    from connectors.sources.opcua.trust import TrustStore

    loaded = load(config)
    (one,) = _sources(loaded, source)
    store = TrustStore(_directory(loaded, one), one.name)
    with stores_told():
        stored = _found(store, digits, folders)
        try:
            moved = store.move(stored, to)
        except ValueError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from error
    subject = escaped(stored.certificate.subject.rfc4514_string())
    typer.echo(f"{subject} (SHA-1 {stored.thumbprint}) is {to if to != 'issuer' else 'an issuer'} now: {moved}")


def _found(store: "TrustStore", digits: str, folders: "tuple[Folder, ...]") -> "Stored":
    """The certificate that is meant."""
    wanted = digits.lower().replace(":", "").replace(" ", "")
    if len(wanted) < _SHORTEST:
        msg = f"`{digits}` is too short; give {_SHORTEST} digits of the SHA-1 at least"
        raise typer.BadParameter(msg)
    there = {s.thumbprint: s for folder in reversed(folders) for s in store.certificates(folder)}
    fitting = [stored for name, stored in there.items() if name.startswith(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    of = f"in {' or '.join(folders)} of {store.source}"
    said = f"several certificates {of} begin with" if fitting else f"no certificate {of} begins with"
    typer.echo(f"{said} {wanted}", err=True)
    raise typer.Exit(1)
