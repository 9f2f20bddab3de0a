"""Servers that stand in for each other (OPC 10000-4 clause 6.6): which one is read, and when it is left for another.

A server says by its ServiceLevel how well it can serve: from 200 on it is healthy, below that another is looked for. Healthy
servers are not changed for each other.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.uaerrors import UaError

from connectors.contract import Context, Finding
from connectors.sources.opcua.config import OpcUaConfig
from connectors.sources.opcua.own import CertificateError
from connectors.sources.opcua.security import ServerRefusedError
from connectors.sources.opcua.session import Session, node_id
from connectors.sources.opcua.trust import UntrustedServerError

_log = logging.getLogger(__name__)

_HEALTHY: Final = 200
_BEST: Final = 255  # also of a server that does not say
_GRACE: Final = 1.0  # seconds that the others are given once a healthy server has answered
_LOOK_EVERY: Final = 10.0  # seconds between looks at the other servers

_Answer = tuple[Session, int]


async def open_session(config: OpcUaConfig, context: Context) -> Session:
    """A session with the source's server; of several, with the one that has the highest ServiceLevel.

    Raises:
        ConnectionError: No server can be used; with one server what `Session.open` raises.
    """
    if not config.endpoints:
        session = Session(config, context)
        try:
            await session.open()
        except BaseException:
            await session.close()
            raise
        return session
    session, level = await _best(config, context, [config.endpoint, *config.endpoints])
    if level < _HEALTHY:
        _log.warning(
            "source %s: no server of the set is healthy; %s has level %d", config.name, session.endpoint, level
        )
    return session


async def _best(config: OpcUaConfig, context: Context, endpoints: Sequence[str]) -> _Answer:
    """The server with the highest level of those that answer in time; of equal ones the first."""
    asked = {asyncio.create_task(_opened(config, context, endpoint)): endpoint for endpoint in endpoints}
    taken: Session | None = None
    failures: dict[str, str] = {}
    try:
        waiting = set(asked)
        grace: float | None = None
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                failures |= {asked[task]: "no answer yet" for task in waiting}
                break
            for task in done:
                if (error := task.exception()) is not None:
                    failures[asked[task]] = str(error) or type(error).__name__
                elif task.result()[1] >= _HEALTHY:
                    grace = _GRACE
        answers = [task.result() for task in asked if task.done() and task.exception() is None]
        if not answers:
            msg = "no server of the set can be used: " + "; ".join(_named(one, failures[one]) for one in endpoints)
            raise ConnectionError(msg)
        for item in failures.items():
            _log.warning("source %s: a server of the set cannot be used: %s", config.name, _named(*item))
        best = max(answers, key=lambda answer: answer[1])
        taken = best[0]
        return best
    finally:
        for task in asked:
            task.cancel()
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            if not isinstance(answer, BaseException) and answer[0] is not taken:
                await answer[0].close()


def _named(endpoint: str, said: str) -> str:
    return said if endpoint in said else f"{endpoint}: {said}"


async def _opened(config: OpcUaConfig, context: Context, endpoint: str) -> _Answer:
    session = Session(config, context, endpoint)
    try:
        await session.open()
        return session, await _level(session)
    except BaseException:
        await session.close()
        raise


async def _level(session: Session) -> int:
    (value,) = await session.read_attributes_of([node_id(ObjectIds.Server_ServiceLevel)], AttributeIds.Value)
    level = value.Value.Value if value.Value is not None else None
    return level if isinstance(level, int) and value.StatusCode is not None and value.StatusCode.is_good() else _BEST


async def while_best(session: Session, context: Context, reading: Coroutine[Any, Any, None]) -> None:
    """Read until that fails, or until another server of the set serves better than one that is not healthy.

    Raises:
        ConnectionError: Another server serves better.
    """
    if not session.config.endpoints:
        await reading
        return
    tasks = [asyncio.ensure_future(reading), asyncio.ensure_future(_until_worse(session, context))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until_worse(session: Session, context: Context) -> None:
    config = session.config
    others = [endpoint for endpoint in (config.endpoint, *config.endpoints) if endpoint != session.endpoint]
    said = _BEST
    while True:
        await asyncio.sleep(config.keep_alive_interval)
        level = await _level(session)
        if level >= _HEALTHY:
            said = _BEST
            continue
        if level != said:
            _log.warning("source %s: %s is not healthy, level %d", config.name, session.endpoint, level)
            said = level
        try:
            other, better = await _best(config, context, others)
        except ConnectionError:
            pass  # this one is all there is
        else:
            await other.close()
            if better > level:
                msg = f"{session.endpoint} has ServiceLevel {level}, and {other.endpoint} has {better}"
                raise ConnectionError(msg)
        await asyncio.sleep(_LOOK_EVERY)


async def further_findings(config: OpcUaConfig, context: Context) -> list[Finding]:
    """Whether each further server of the set can be used."""
    found = []
    for endpoint in config.endpoints:
        try:
            session, level = await _opened(config, context, endpoint)
        except (OSError, UaError, ServerRefusedError, UntrustedServerError, CertificateError) as error:
            found.append(Finding(False, "connection", _named(endpoint, str(error) or type(error).__name__)))
        else:
            await session.close()
            found.append(Finding(True, "connection", f"{endpoint} has ServiceLevel {level}"))
    return found
