"""TLS of an AMQP connection, of either version."""

import ssl

from connectors.settings import TlsSettings
from connectors.targets.amqp.config import AmqpConfig
from connectors.wire.tls import tls_context


def tls_of(config: AmqpConfig) -> ssl.SSLContext | None:
    """The TLS of the connection; None for amqp://."""
    if not config.endpoint.startswith("amqps://"):
        return None
    return tls_context(config.provider_config.tls or TlsSettings.model_validate({}))
