"""TLS of a client connection."""

import ssl

from connectors.settings import TlsSettings


def tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """The context of a client connection; reads the files, so that renewed certificates count at the next connect."""
    context = ssl.create_default_context(cafile=str(tls.ca_file) if tls.ca_file else None)
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    if tls.alpn:
        context.set_alpn_protocols(tls.alpn)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
