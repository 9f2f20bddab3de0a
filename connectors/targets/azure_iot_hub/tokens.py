"""Shared access signatures, which are what a device logs in with. Pure."""

import base64
import binascii
import hashlib
import hmac
from urllib.parse import quote


def key_bytes(key: str) -> bytes:
    """A key as bytes.

    Raises:
        ValueError: It is not base64.
    """
    try:
        found = base64.b64decode(key + "=" * (-len(key) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if not found:
        raise ValueError("it is empty")
    return found


def _sign(key: str, text: str) -> str:
    return base64.b64encode(hmac.digest(key_bytes(key), text.encode(), hashlib.sha256)).decode()


def token(resource: str, key: str, expiry: int, policy: str = "") -> str:
    """A shared access signature.

    Args:
        resource: What it gives access to, e.g. ``<hub>/devices/<device>``.
        key: The key, base64.
        expiry: When it runs out, seconds since the epoch.
        policy: Name of the policy that the key belongs to; a device's own key has none.
    """
    place = quote(resource, safe="")
    signature = quote(_sign(key, f"{place}\n{expiry}"), safe="")
    end = f"&skn={quote(policy, safe='')}" if policy else ""
    return f"SharedAccessSignature sr={place}&sig={signature}&se={expiry}{end}"


def device_key(group_key: str, registration_id: str) -> str:
    """The key of one device of an enrollment group, base64."""
    return _sign(group_key, registration_id)
