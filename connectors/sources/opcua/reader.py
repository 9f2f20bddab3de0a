"""The reader of an OPC UA source: connect, find the nodes, then read them until something fails.

Every failure is raised out of `OpcUaReader.run`, and the next run begins with a new session: asyncua's own reconnection is
not used. Where the server can, the session takes over the subscription of the one before and loses nothing; else what happened
in between is recorded as a gap. Both hold across a restart of the gateway, because each append carries the reader's state: the
time of the last reading, and the subscription with the number of its last message.
"""

import logging
from collections import Counter
from typing import Final

from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError
from typing_extensions import override

from connectors.contract import Checks, Context, Counts, Finding, Intake, Measures, Reader, SourceState
from connectors.sources.opcua.config import OpcUaConfig
from connectors.sources.opcua.connection import Connection
from connectors.sources.opcua.datatypes import DataTypes
from connectors.sources.opcua.nodes import describe, variables
from connectors.sources.opcua.redundancy import further_findings, open_session, while_best
from connectors.sources.opcua.run import Run
from connectors.sources.opcua.session import Session
from connectors.sources.opcua.state import State

_log = logging.getLogger(__name__)

_UNREADABLE: Final = {  # the node is wrong, not its value
    StatusCodes.BadNodeIdUnknown,
    StatusCodes.BadNodeIdInvalid,
    StatusCodes.BadAttributeIdInvalid,
    StatusCodes.BadNotReadable,
    StatusCodes.BadUserAccessDenied,
}
_WARNED: Final[set[str]] = set()  # sources whose weak security was logged; a reader is made for every attempt


class OpcUaReader(Reader, Checks, Counts, Measures):
    """Reads one OPC UA server."""

    def __init__(self, config: OpcUaConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._server_hands_over = config.mode == "subscription"
        self._session_is_open = False  # that of the last connection
        self._failed_on_content = False
        self._event_tags: set[int] = set()
        self.counts: Counter[str] = Counter()
        self.measures: dict[str, float] = {}
        self._order: dict[str, int] = {}  # client handles of the last connection, by address
        if config.name not in _WARNED:
            _WARNED.add(config.name)
            if config.security_policy == "none":
                _log.warning("source %s: security_policy is none, values travel in clear", config.name)
            elif config.trust == "all":
                _log.warning("source %s: trust is all, any server is believed", config.name)

    @override
    async def run(self, intake: Intake, state: bytes | None) -> None:
        intake.state(SourceState.CONNECTING, self._config.endpoint)
        session = await open_session(self._config, self._context)
        self.measures |= session.measures
        session.measures = self.measures
        connected: Run | None = None
        failed = False
        try:
            types = DataTypes(session)
            wanted = await variables(session, self._config)
            if not wanted and not self._config.events:
                msg = "no variables are there to read; look at `browse` and at what the server's user may see"
                raise LookupError(msg)
            described = await describe(session, self._config, wanted, types)
            described.sort(key=lambda d: self._order.get(d.variable.address, len(self._order)))  # handles stay the same
            before = State.from_json(state)
            run = Run(Connection(session, intake, described, types, self.counts), self._event_tags)
            await run.begin(before if self._hands_over else State(before.last_reading))
            intake.state(SourceState.CONNECTED, run.summary)
            connected = run
            self._failed_on_content = False
            if before.last_reading is not None and not run.goes_on:
                run.missed(before)
            await while_best(session, self._context, run.until_failure())
        except Exception as error:
            failed = True
            if connected is not None:
                self._failed_on_content = not isinstance(error, OSError | TimeoutError | UaError)
                intake.state(SourceState.DOWN, str(error) or type(error).__name__)
            raise
        finally:
            if connected is not None:
                self._order = connected.handles()
                connected.remember(stale=failed)
                self._server_hands_over &= connected.will_be_handed_over(session_was_open=self._session_is_open)
                self._session_is_open = self._hands_over and failed
            keep_session = self._session_is_open and connected is not None
            await session.close(keep_subscriptions=self._hands_over, keep_session=keep_session)

    @property
    def _hands_over(self) -> bool:
        """Whether to go on with the subscription; not when its messages made us fail, since they would come again."""
        return self._server_hands_over and not self._failed_on_content

    @override
    async def check(self) -> list[Finding]:
        """Connect once, and say what is found."""
        session = Session(self._config, self._context)
        endpoint = self._config.endpoint
        try:
            await session.open()
            findings = [Finding(True, "connection", f"{endpoint} is {session.server_name or 'there'}")]
            findings += await further_findings(self._config, self._context)
            described = await describe(
                session, self._config, await variables(session, self._config), DataTypes(session)
            )
            absent = [d.variable for d in described if d.variable.id is None]
            detail = f"{len(described)} found"
            if absent:
                detail += f"; {absent[0].absent}: {', '.join(variable.address for variable in absent[:5])}"
            findings.append(Finding(bool(described) and not absent, "nodes", detail))
            named = [(d.variable.address, d.variable.id) for d in described if d.variable.config is not None]
            there = [(address, node) for address, node in named if node is not None]
            values = await session.read_attributes_of([node for _, node in there], AttributeIds.Value)
            for (address, _), value in zip(there, values, strict=True):
                status = value.StatusCode
                if status is not None and status.value in _UNREADABLE:
                    findings.append(Finding(False, f"node {address}", f"{status.name}: {status.doc}"))
            return findings
        except Exception as error:  # noqa: BLE001  whatever is wrong is the finding
            said = str(error) or type(error).__name__
            return [Finding(False, "connection", said if endpoint in said else f"{endpoint}: {said}")]
        finally:
            await session.close()
