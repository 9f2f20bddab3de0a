"""Telegraf's TLS settings, the same in all plugins."""

from typing import Final

from bifrost.convert.draft import Origin, Section

_TLS: Final = {"tls_ca": "ca_file", "tls_cert": "cert_file", "tls_key": "key_file", "tls_server_name": "server_name"}


def tls_of(origin: Origin) -> Section | None:
    """TLS as a plugin has it; None when it says nothing of it."""
    enabled = origin.flag("tls_enable")
    wanted = origin.flag("enable_tls")
    found = Section(**{ours: origin.text(theirs) for theirs, ours in _TLS.items()})
    if origin.flag("insecure_skip_verify"):
        found["verify"] = False
        found.remark("note", "the server's certificate is not checked, as before")
    origin.lost(
        "tls_key_pwd", "a private key is without password here; take the password off the file, or protect the file"
    )
    if enabled is False or wanted is False:
        if found:
            origin.into.lost(f"{origin.where}.tls", "TLS is switched off there; its files are left out")
        return None
    return found if found or enabled or wanted else None
