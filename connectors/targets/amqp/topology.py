"""Exchange, queue and bindings: made where they are missing, or looked for."""

from collections.abc import Iterator
from typing import Any, Final

from pamqp import base, commands

from connectors.contract import Finding
from connectors.targets.amqp.config import AmqpSettings
from connectors.targets.amqp.connection import Closed, Connection

_MISSING: Final = 404


def _named(exchange: str) -> bool:
    """Whether an exchange is one that can be made."""
    return bool(exchange) and not exchange.startswith("amq.")


def _statements(own: AmqpSettings, *, passive: bool) -> Iterator[tuple[str, base.Frame, type[base.Frame]]]:
    """What is declared or, with `passive`, looked for: its name, the method, its answer."""
    arguments: dict[str, Any] = {} if passive else {"x-queue-type": own.queue_type}
    if _named(own.exchange) or (passive and own.exchange):
        yield (
            f"exchange `{own.exchange}`",
            commands.Exchange.Declare(
                exchange=own.exchange, exchange_type=own.exchange_type, passive=passive, durable=True
            ),
            commands.Exchange.DeclareOk,
        )
    if own.queue is not None:
        yield (
            f"queue `{own.queue}`",
            commands.Queue.Declare(queue=own.queue, passive=passive, durable=True, arguments=arguments),
            commands.Queue.DeclareOk,
        )
        if not passive and own.exchange:
            for key in own.bindings:
                yield (
                    f"binding `{key}`",
                    commands.Queue.Bind(queue=own.queue, exchange=own.exchange, routing_key=key),
                    commands.Queue.BindOk,
                )


async def prepare(connection: Connection, own: AmqpSettings) -> None:
    """Make or look for what the settings name, on a channel of its own, because a refusal closes it.

    Raises:
        Closed: It is missing, differs, or the user may not make it.
    """
    if own.declare == "never":
        return
    channel = await connection.channel()
    for _, method, answer in _statements(own, passive=own.declare == "passive"):
        await channel.call(method, answer)
    await channel.call(commands.Channel.Close(200, "", 0, 0), commands.Channel.CloseOk)


async def look(connection: Connection, own: AmqpSettings) -> list[Finding]:
    """What of the settings is there; makes nothing."""
    found = []
    for name, method, answer in _statements(own, passive=True):
        channel = await connection.channel()
        try:
            await channel.call(method, answer)
        except Closed as refusal:
            if refusal.code != _MISSING:
                found.append(
                    Finding(
                        False, name, f"{refusal} (give the user the right to configure it, or set `declare: never`)"
                    )
                )
            elif own.declare == "auto":
                found.append(Finding(True, name, "will be made"))
            else:
                found.append(Finding(False, name, "is missing; make it, or set `declare: auto`"))
        else:
            found.append(Finding(True, name, "is there"))
    if own.queue is None:
        advice = (
            "queues must be bound to the exchange by who reads them" if own.exchange else "routing keys must be queues"
        )
        what = "stay here" if own.mandatory else "are lost"
        found.append(Finding(True, "queue", f"none is made: {advice}, and messages that no queue takes {what}"))
    return found
