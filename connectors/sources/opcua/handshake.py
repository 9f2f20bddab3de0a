"""From an address to a session that is logged in: endpoint, certificates, secure channel, user.

The endpoint's host is the one that is configured, whatever the server announces: behind a NAT it may announce one that nobody
here can reach.
"""

import asyncio
import datetime
import logging
from pathlib import Path
from typing import Final

from asyncua import ua
from asyncua.client.client import Client
from cryptography.exceptions import InvalidSignature
from typing_extensions import override

from connectors.contract import Context
from connectors.settings import SecretStr
from connectors.sources.opcua import own
from connectors.sources.opcua.certificates import load, uris
from connectors.sources.opcua.chain import Expected
from connectors.sources.opcua.channel import CHUNK, Channel, ChannelClient, Limits
from connectors.sources.opcua.config import OpcUaConfig
from connectors.sources.opcua.security import POLICIES, Choice, ServerRefusedError, choose, user_token_policy
from connectors.sources.opcua.trust import TrustStore, split

_log = logging.getLogger(__name__)

# what servers answer when they do not take our certificate; many say no more than BadSecurityChecksFailed
_CERTIFICATE_REFUSED: Final = (
    ua.uaerrors.BadSecurityChecksFailed,
    ua.uaerrors.BadCertificateUntrusted,
    ua.uaerrors.BadCertificateInvalid,
    ua.uaerrors.BadCertificateTimeInvalid,
    ua.uaerrors.BadCertificateUriInvalid,
    ua.uaerrors.BadCertificateUseNotAllowed,
    ua.uaerrors.BadCertificateChainIncomplete,
    ua.uaerrors.BadCertificateRevoked,
    ua.uaerrors.BadCertificateRevocationUnknown,
    ua.uaerrors.BadCertificateIssuerRevocationUnknown,
    ua.uaerrors.BadCertificatePolicyCheckFailed,
)
_USER_REFUSED: Final = (
    ua.uaerrors.BadIdentityTokenRejected,
    ua.uaerrors.BadUserAccessDenied,
    ua.uaerrors.BadIdentityTokenInvalid,
    ua.uaerrors.BadUserSignatureInvalid,
)


class Handshake(Client):
    """A client that can log in as it is configured.

    Args:
        config: The source.
        context: Where its certificates lie.
        endpoint: URL of the server, instead of the source's first one.

    Attributes:
        endpoint: URL of the server.
        measures: What was measured: when the certificates in use end, and how far the server's clock is ahead.
    """

    def __init__(self, config: OpcUaConfig, context: Context, endpoint: str | None = None) -> None:
        self.endpoint = endpoint or config.endpoint
        super().__init__(self.endpoint, timeout=config.timeout)
        self.config = config
        self.measures: dict[str, float] = {}
        self.directory = context.directory
        self.name = self.description = f"Bifrost {config.name}"
        self.application_uri = own.application_uri(context.gateway, config.name)
        self.product_uri = "urn:bifrost"
        self.session_timeout = 60_000
        limits = Limits(CHUNK, CHUNK, config.max_chunk_count, config.max_message_size)
        self.uaclient: ChannelClient = ChannelClient(config.timeout, limits)
        self.uaclient.pre_request_hook = self._wait_until_ready
        self._choice: Choice | None = None
        if config.username is not None:
            self.set_user(config.username)
            self.set_password(config.password.get_secret_value() if config.password is not None else "")

    @property
    def channel(self) -> Channel:
        """The connection.

        Raises:
            ConnectionError: There is none.
        """
        if self.uaclient.channel is None:
            msg = "the connection is not open"
            raise ConnectionError(msg)
        return self.uaclient.channel

    async def log_in(self) -> None:
        """Connect, check the server, and log in.

        Raises:
            ServerRefusedError: It does not offer what is configured, or refuses certificate or user.
            UntrustedServerError: Its certificate is not accepted.
            CertificateError: A certificate or key of our own cannot be used.
        """
        config = self.config
        if config.user_cert_file is not None:
            user = await asyncio.to_thread(
                self._given, config.user_cert_file, config.user_key_file, config.user_key_password, "the user"
            )
            self.user_certificate, self.user_private_key = user.certificate, user.key
        if config.security_policy == "none":
            await self.connect_socket()
            await self.send_hello()
            await self.open_secure_channel()
        else:
            await self._open_secured_channel()
        try:
            await self.create_session()
        except InvalidSignature:
            msg = "the server does not hold the key of its certificate"
            raise ServerRefusedError(msg) from None
        try:
            await self.activate_session(self._username, self._password, self.user_certificate)
        except _USER_REFUSED as error:
            user_name = "anonymous users" if config.username is None else f"user {config.username}"
            if config.user_cert_file is not None:
                user_name = f"the user of {config.user_cert_file}"
            msg = f"the server refuses {user_name} ({type(error).__name__})"
            raise ServerRefusedError(msg) from error

    async def _open_secured_channel(self) -> None:
        """Open the channel with our certificate; while the server does not trust a renewed one, with the one before it."""
        config = self.config
        identities = await asyncio.to_thread(self._identities)  # first, so that it is there to be handed to the server
        endpoints = await self.connect_and_get_server_endpoints()
        self._choice = choice = choose(
            endpoints or [],
            config.security_policy,
            config.wanted_mode,
            self.endpoint,
            allow_deprecated=config.allow_deprecated,
        )
        certificate, application = choice.endpoint.ServerCertificate, choice.endpoint.Server.ApplicationUri
        await self._check_server(certificate, application)
        try:
            peer = load(split(certificate or b"")[0])
        except (ValueError, IndexError) as error:
            msg = f"the server's certificate cannot be read: {error}"
            raise ServerRefusedError(msg) from None
        self.measures["server_certificate_end_timestamp_seconds"] = peer.not_valid_after_utc.timestamp()
        refusals: list[str] = []
        for identity in identities:
            self.security_policy = choice.policy.crypto(
                peer, identity.certificate, identity.key, choice.mode, host_cert_chain=identity.issuers
            )
            self.uaclient.set_security(self.security_policy)
            await self.connect_socket()
            await self.send_hello()
            try:
                await self.open_secure_channel()
            except _CERTIFICATE_REFUSED as error:
                refusals.append(type(error).__name__)
            except ConnectionError:
                if self.channel.failure:  # it is we who gave up
                    raise
                refusals.append("it closed the connection")
            else:
                self.measures["own_certificate_end_timestamp_seconds"] = (
                    identity.certificate.not_valid_after_utc.timestamp()
                )
                if refusals:
                    _log.warning(
                        "source %s: the server refuses the renewed certificate (%s); the one before it is used until %s",
                        config.name,
                        refusals[0],
                        f"{identity.certificate.not_valid_after_utc:%Y-%m-%d}",
                    )
                return
            self.disconnect_socket()
        msg = (
            f"the server refuses our certificate ({', '.join(refusals)}): let it trust {identities[0].file} "
            f"(SHA-1 {identities[0].thumbprint}, {self.application_uri})"
        )
        raise ServerRefusedError(msg)

    def _identities(self) -> list[own.Identity]:
        config = self.config
        if config.cert_file is None:
            return own.own_identities(self.directory, self.application_uri, _now(), config.certificate_hosts)
        given = self._given(config.cert_file, config.key_file, config.key_password, f"source {config.name}")
        names = uris(given.certificate)
        if not names:
            msg = f"the certificate in {config.cert_file} has no ApplicationUri (a URI in its SubjectAltName)"
            raise own.CertificateError(msg)
        self.application_uri = names[0]
        return [given]

    def _given(self, cert_file: Path, key_file: Path | None, password: SecretStr | None, whose: str) -> own.Identity:
        secret = password.get_secret_value() if password is not None else None
        return own.load_identity(cert_file, key_file or cert_file, secret, _now(), whose)

    async def _check_server(self, certificate: bytes | None, application: str | None) -> None:
        if self.config.trust != "folder":
            return
        policy = self._choice.policy if self._choice is not None else None
        expected = Expected(
            uri=application or "",
            host=self.server_url.hostname or "",
            min_key=policy.min_key if policy is not None else min(p.min_key for p in POLICIES if not p.deprecated),
            weak_hashes=policy is not None and policy.deprecated,
            revocation=self.config.require_crl,
        )
        store = TrustStore(self.directory, self.config.name)
        for odd in await asyncio.to_thread(store.check, certificate, expected, _now()):
            _log.warning("source %s: the server's certificate is accepted, but %s", self.config.name, odd)

    @override
    async def create_session(self) -> ua.CreateSessionResult:
        response = await super().create_session()
        choice = self._choice
        if choice is not None:
            self._check_not_weakened(choice, response.ServerEndpoints or [])
        elif self.config.username is not None or self.config.user_cert_file is not None:
            certificate = response.ServerCertificate or await self._announced_certificate()
            if certificate:
                endpoint = self.find_endpoint(
                    response.ServerEndpoints, self.security_policy.Mode, self.security_policy.URI
                )
                await self._check_server(certificate, endpoint.Server.ApplicationUri)
                self.security_policy.peer_certificate = split(certificate)[0]
        return response

    async def _announced_certificate(self) -> bytes | None:
        """What a server that sends no certificate over a channel without security wants passwords to be encrypted for."""
        endpoints = await self.get_endpoints() or []
        return next((e.ServerCertificate for e in endpoints if e.ServerCertificate), None)

    def _check_not_weakened(self, choice: Choice, signed: list[ua.EndpointDescription]) -> None:
        """What was offered before the channel was secured could have been altered on the way; now it cannot any more."""
        better = choose(
            [*signed, choice.endpoint],
            self.config.security_policy,
            self.config.wanted_mode,
            self.endpoint,
            allow_deprecated=self.config.allow_deprecated,
        )
        if (better.policy, better.mode) != (choice.policy, choice.mode):
            msg = (
                f"the server offers {better.policy.name} with {better.mode.name}, and somebody on the way hid it: "
                f"{choice.policy.name} with {choice.mode.name} was the best to be seen"
            )
            raise ServerRefusedError(msg)

    @override
    def server_policy(self, token_type: ua.UserTokenType) -> ua.UserTokenPolicy:
        """The token policy to log in with; for a password, one that encrypts it."""
        if token_type == ua.UserTokenType.Anonymous:
            return super().server_policy(token_type)
        channel = self.security_policy
        return user_token_policy(
            self._policy_ids,
            token_type,
            channel.URI,
            encrypted=channel.Mode == ua.MessageSecurityMode.SignAndEncrypt,
            certified=channel.peer_certificate is not None,
            allow_deprecated=self.config.allow_deprecated,
            allow_clear=self.config.allow_clear_password,
        )


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
