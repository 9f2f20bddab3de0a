"""Every code of gRPC has a place in the tree of delivery errors."""

import grpc
import pytest
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from connectors.contract import AuthError, CapacityError, ConfigError, DeliveryError, TransientError
from connectors.targets.pubsub.errors import about_messages, credentials_error, delivery_error

CODE = grpc.StatusCode
EXPECTED: dict[grpc.StatusCode, type[DeliveryError]] = {
    CODE.UNAUTHENTICATED: AuthError,
    CODE.PERMISSION_DENIED: AuthError,
    CODE.NOT_FOUND: ConfigError,
    CODE.FAILED_PRECONDITION: ConfigError,
    CODE.UNIMPLEMENTED: ConfigError,
    CODE.INVALID_ARGUMENT: ConfigError,
    CODE.RESOURCE_EXHAUSTED: CapacityError,
}


@pytest.mark.parametrize("code", [code for code in CODE if code is not CODE.OK], ids=lambda code: code.name)
def test_every_code_has_its_place(code: grpc.StatusCode) -> None:
    error = delivery_error(code, "what the\nservice says", "projects/p/topics/t")
    assert type(error) is EXPECTED.get(code, TransientError)
    assert str(error).startswith(f"projects/p/topics/t: {code.name}: what the service says")


def test_only_an_argument_that_is_no_name_is_about_messages() -> None:
    assert about_messages(CODE.INVALID_ARGUMENT, "the message does not fit the schema")
    assert not about_messages(CODE.INVALID_ARGUMENT, "Invalid resource name given (name=projects/x/topics/%)")
    assert not about_messages(CODE.NOT_FOUND, "Resource not found")


def test_credentials_that_are_refused_while_calling_are_an_auth_error() -> None:
    text = "Getting metadata from plugin failed with error: ('invalid_grant: Invalid JWT Signature.', {})"
    assert isinstance(delivery_error(CODE.UNAVAILABLE, text, "x"), AuthError)
    slow = "Getting metadata from plugin failed with error: HTTPSConnectionPool: Max retries exceeded"
    assert isinstance(delivery_error(CODE.UNAVAILABLE, slow, "x"), TransientError)


def test_a_certificate_that_is_refused_is_a_config_error() -> None:
    text = "Ssl handshake failed: SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED: certificate has expired"
    assert isinstance(delivery_error(CODE.UNAVAILABLE, text, "x"), ConfigError)


def test_credentials_that_cannot_be_read_are_an_auth_error_but_for_the_network() -> None:
    for error in (DefaultCredentialsError("none found"), RefreshError("bad"), OSError("no file"), ValueError("x")):
        assert isinstance(credentials_error(error), AuthError)
    assert isinstance(credentials_error(TransportError("down", retryable=True)), TransientError)
