"""What an OPC UA source can be told about security and further servers."""

from typing import Any

import pytest
from pydantic import ValidationError

from connectors.sources.opcua import OpcUaConfig


def config(**more: Any) -> OpcUaConfig:
    return OpcUaConfig.model_validate({"name": "plant", "endpoint": "opc.tcp://10.1.1.100:4840", **more})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"security_policy": "basic256"}, "basic256 is deprecated, .* write allow_deprecated: true"),
        ({"security_policy": "basic128rsa15"}, "basic128rsa15 is deprecated"),
        ({"security_policy": "rot13"}, "security_policy"),
        ({"security_mode": "sign"}, "write security_policy: auto"),
        ({"cert_file": "a.der"}, "`cert_file` and `key_file` belong together"),
        ({"user_key_file": "a.pem"}, "`user_cert_file` and `user_key_file` belong together"),
        ({"key_password": "x"}, "`key_password` without `key_file`"),
        ({"user_key_password": "x"}, "`user_key_password` without `user_key_file`"),
        ({"username": "u", "user_cert_file": "a.der", "user_key_file": "a.pem"}, "not both"),
        ({"certificate_hosts": ["grün"]}, "`grün` is not a host name"),
        ({"endpoints": ["http://x"]}, "is not the URL"),
        ({"endpoints": ["opc.tcp://user:secret@x"]}, "credentials"),
    ],
)
def test_what_is_wrong_is_said(given, said):
    with pytest.raises(ValidationError, match=said) as caught:
        config(**given)
    assert caught.value.error_count() == 1


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ({"security_policy": "basic256sha256"}, "sign_and_encrypt"),
        ({"security_policy": "basic256sha256", "security_mode": "sign"}, "sign"),
        ({"security_policy": "auto"}, None),
        ({"security_policy": "auto", "security_mode": "sign_and_encrypt"}, "sign_and_encrypt"),
        ({"security_policy": "basic256", "allow_deprecated": True}, "sign_and_encrypt"),
    ],
)
def test_messages_are_encrypted_unless_said_otherwise_or_nothing_better_is_there(given, mode):
    assert config(**given).wanted_mode == mode


def test_further_servers_have_the_usual_port():
    assert config(endpoints=["opc.tcp://10.1.1.101/x"]).endpoints == ["opc.tcp://10.1.1.101:4840/x"]


def test_passwords_of_keys_are_not_shown():
    files = {"cert_file": "a", "key_file": "b", "user_cert_file": "c", "user_key_file": "d"}
    assert "geheim" not in repr(config(**files, key_password="geheim", user_key_password="geheim"))
