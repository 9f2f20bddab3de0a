"""What goes wrong with an MQTT broker, as the contract's errors: one table of reason codes, and one of TLS. Pure."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from connectors.contract import AuthError, CapacityError, ConfigError, DeliveryError, TransientError
from connectors.settings import TlsSettings
from connectors.wire.mqtt import DismissedError, RefusedError, TakenOverError

_LOGIN: Final = "check username, password, client certificate and what the broker allows this client"
# Reason codes of CONNACK and DISCONNECT (MQTT 5.0 §2.4); those of 3.1.1 come as the same. What is not known is worth
# another try.
_CONNECTION: Final[dict[int, tuple[type[DeliveryError], str]]] = {
    0x84: (ConfigError, "the broker does not speak this version of MQTT: change `version`"),
    0x85: (ConfigError, "change `client_id`"),
    0x86: (AuthError, _LOGIN),
    0x87: (AuthError, _LOGIN),
    0x8A: (AuthError, "the broker has banned this client"),
    0x8C: (AuthError, _LOGIN),
    0x90: (ConfigError, "check the topics: the broker does not take one of them"),
    0x95: (ConfigError, "set `max_packet_size` to what the broker takes"),
    0x96: (CapacityError, "the broker says that messages come too fast: set `rate_limit`"),
    0x97: (CapacityError, "the client's quota at the broker is used up"),
    0x9A: (ConfigError, "the broker keeps no retained messages: set `retain: false`"),
    0x9B: (ConfigError, "the broker does not take this quality of service: lower `qos`"),
    0x9C: (ConfigError, "the broker names another server: change `broker`"),
    0x9D: (ConfigError, "the broker has moved: change `broker`"),
    0x9F: (CapacityError, "the broker says that connections are made too often"),
}
NOT_AUTHORIZED: Final = 0x87
QUOTA_EXCEEDED: Final = 0x97
_UNUSABLE: Final = {  # of PUBACK and PUBREC: this message will never be taken
    0x90: "the broker does not take its topic (0x90)",
    0x95: "the broker says that it is too large (0x95)",
    0x99: "the broker says that its payload has the wrong format (0x99)",
}


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, and so on."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def delivery_error(error: Exception, where: str) -> DeliveryError:
    """The place of a lost or refused connection in the tree.

    Args:
        error: What the session raised.
        where: The broker, without secrets.
    """
    text = str(error)
    if where not in text:
        text = f"{where}: {text}"
    for cause in causes(error):
        if isinstance(cause, RefusedError | DismissedError) and cause.code in _CONNECTION:
            make, advice = _CONNECTION[cause.code]
            return make(f"{text} ({advice})")
        if isinstance(cause, TakenOverError):
            return ConfigError(f"{text} (give each client a `client_id` of its own)")
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ConfigError(f"{text} (check `ca_file` and the server's certificate and name)")
        if isinstance(cause, ssl.SSLError):
            if "ALERT" in str(cause).upper():
                return AuthError(f"{text} (the server does not take the client certificate: check cert_file, key_file)")
            if "PEM" in str(cause) or "KEY_VALUES_MISMATCH" in str(cause) or "NO_CERTIFICATE" in str(cause):
                return ConfigError(f"{text} (check cert_file, key_file and ca_file)")
            return TransientError(f"{text} (check that the server speaks TLS on this port)")
    return TransientError(text)


def refused_message(code: int, topic: str, where: str) -> DeliveryError | str:
    """A broker's refusal of one message: an error of the whole, or why this message will never be taken.

    Args:
        code: Reason code of PUBACK or PUBREC.
        topic: Topic of the message.
        where: The broker.
    """
    if code in _UNUSABLE:
        return _UNUSABLE[code]
    if code == NOT_AUTHORIZED:
        return AuthError(f"{where}: this client may not publish to `{topic}` (0x87): let it, or change the topic")
    if code == QUOTA_EXCEEDED:
        return CapacityError(f"{where}: the quota for messages is used up (0x97)")
    return TransientError(f"{where}: the broker refused a message to `{topic}` with reason code 0x{code:02X}")


def check_files(tls: TlsSettings | None) -> None:
    """Say which file of `tls` cannot be read.

    Raises:
        ConfigError: One is missing, or is not ours to read.
    """
    for key in ("ca_file", "cert_file", "key_file"):
        path: Path | None = getattr(tls, key, None)
        if path is not None:
            try:
                path.open("rb").close()
            except OSError as error:
                raise ConfigError(f"{path}: {error.strerror} (check `{key}`)") from error
