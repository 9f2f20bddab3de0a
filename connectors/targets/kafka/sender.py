"""One producer of librdkafka: hands messages over and waits until each is acknowledged. Blocking; call it in a worker thread.

The producer reports only what fails. `flush` returns when nothing is left of which the report is missing, so that what did
not fail is acknowledged.
"""

import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from connectors.contract import DeliveryError, RejectedRecords, TransientError
from connectors.targets.kafka.encode import Messages
from connectors.targets.kafka.errors import delivery_error, is_about_the_record, is_decisive

_LOOK: Final = 0.1  # seconds between two looks at what a connection tells of
_ASK: Final = 0.5
_LEAVE: Final = 1.0
_ABORT: Final = 2.0
_INNOCENT: Final = KafkaError._INVALID_DIFFERENT_RECORD  # noqa: SLF001 - in a batch with one that the broker names
_NAMED: Final = (KafkaError.INVALID_RECORD, KafkaError.INVALID_TIMESTAMP)


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of messages; those that are not named are acknowledged.

    Attributes:
        refused: Those that the cluster will never take, with the reason.
        doubtful: Those that were in batches which brokers refuse for another of their messages, with what they said.
        named: Whether brokers said which messages are at fault, so that none of the doubtful is known to be.
    """

    refused: dict[int, str]
    doubtful: dict[int, str]
    named: bool


class Sender:
    """Sends messages, one unit after the other.

    Attributes:
        broken: Whether it must be replaced: a unit was given up, or librdkafka says that it cannot go on.
    """

    def __init__(self, properties: dict[str, Any], where: str) -> None:
        """Begin to connect.

        Raises:
            DeliveryError: librdkafka does not take the properties.
        """
        self.broken = False
        self._where = where
        self._failed: list[tuple[KafkaError, bytes]] = []
        self._said: list[KafkaError] = []
        self._transactional = "transactional.id" in properties
        self._singly = properties.get("batch.num.messages") == 1
        callbacks = {"error_cb": self._said.append, "on_delivery": self._note}
        try:
            self._producer = Producer(properties | callbacks)
        except KafkaException as error:
            raise delivery_error(error.args[0], where) from None

    def _note(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._failed.append((error, message.value()))

    def metadata(self, topic: str, deadline: float) -> Any:
        """What the cluster says of itself and of a topic.

        Args:
            topic: The topic.
            deadline: When to give up, by the monotonic clock.

        Raises:
            DeliveryError: It cannot be reached, or does not let the gateway in.
        """
        while True:
            try:
                return self._producer.list_topics(topic, timeout=max(0.01, min(_ASK, deadline - time.monotonic())))
            except KafkaException as error:
                self._producer.poll(0)
                self._raise_what_decides()
                down = any(said.code() == KafkaError._ALL_BROKERS_DOWN for said in self._said)  # noqa: SLF001
                if down or time.monotonic() >= deadline:
                    raise delivery_error(error.args[0], self._where, self._last_said()) from None

    def begin(self, deadline: float) -> None:
        """Get ready for transactions: one that an earlier producer of this id has left open is aborted."""
        if self._transactional:
            self._transaction(self._producer.init_transactions, deadline)

    def send(self, messages: Messages, deadline: float, given_up: threading.Event) -> Sent:
        """Send messages; returns when each is acknowledged or refused.

        Args:
            messages: The messages.
            deadline: When to give up, by the monotonic clock.
            given_up: Set when nobody waits any more.

        Raises:
            DeliveryError: Some are not acknowledged, and none may be taken for it. In a transaction that holds for what
                brokers refuse too.
        """
        self._failed.clear()
        self._said.clear()
        try:
            if self._transactional:
                self._transaction(lambda _: self._producer.begin_transaction(), deadline)
            refused = self._hand_over(messages, deadline, given_up)
            self._wait(len(messages), deadline, given_up)
            failed = self._refused(messages)
            if self._transactional:
                if failed.refused or failed.doubtful:
                    rows = sorted(failed.refused)
                    raise RejectedRecords(
                        rows, [failed.refused[row] for row in rows] or list(failed.doubtful.values())[:1]
                    )
                self._transaction(self._producer.commit_transaction, deadline)
        except BaseException:
            self.broken = self.broken or self._transactional
            raise
        return Sent(refused | failed.refused, failed.doubtful, failed.named)

    def close(self) -> None:
        """Leave; what is not sent yet never will be."""
        producer: Producer | None = self.__dict__.pop("_producer", None)
        if producer is None:
            return
        try:
            producer.purge()
            producer.flush(_LEAVE)
            if self._transactional:
                producer.abort_transaction(_ABORT)
        except KafkaException:
            pass  # there is none, or the cluster cannot be reached: it aborts by itself

    def _hand_over(self, messages: Messages, deadline: float, given_up: threading.Event) -> dict[int, str]:
        produce: Any = self._producer.produce  # by position, because names cost half as much again
        refused = {}
        columns = zip(messages.topics, messages.values, messages.keys, messages.times, messages.headers(), strict=True)
        for row, (topic, value, key, when, header) in enumerate(columns):
            while True:
                try:
                    produce(topic, value, key, -1, None, None, when, header)
                except BufferError:  # librdkafka's queue is full: wait for acknowledgements
                    self._served(self._producer.poll)
                    self._look(len(messages), deadline, given_up)
                    continue
                except KafkaException as error:
                    if not is_about_the_record(error.args[0]):
                        self.broken = True
                        raise delivery_error(error.args[0], self._where, self._last_said()) from None
                    refused[row] = _reason(error.args[0], topic)
                break
        return refused

    def _wait(self, count: int, deadline: float, given_up: threading.Event) -> None:
        while self._served(self._producer.flush):
            self._look(count, deadline, given_up)
        self._raise_fatal()

    def _served(self, serve: Any) -> int:
        """Serve reports for a moment; librdkafka's binding raises here what is fatal."""
        try:
            return int(serve(_LOOK))
        except KafkaException as error:
            self._said.append(error.args[0])
            self._raise_fatal()
            raise delivery_error(error.args[0], self._where) from None

    def _look(self, count: int, deadline: float, given_up: threading.Event) -> None:
        """Go on waiting, unless that is of no use."""
        self._raise_fatal()
        late = time.monotonic() >= deadline
        if late or given_up.is_set():
            left = len(self._producer)
            self._drop()
            raise TransientError(
                f"{self._where}: {left} of {count} readings not acknowledged in time"
                f"{f' ({self._last_said()})' if self._said else ''}"
            )
        if any(is_decisive(said) for said in self._said):
            self._drop()
            self._raise_what_decides()

    def _drop(self) -> None:
        """Nothing that was handed over may be sent later, beside the same readings sent again."""
        self.broken = True
        self._producer.purge()
        self._producer.flush(_LEAVE)

    def _raise_fatal(self) -> None:
        fatal = [said for said in self._said if said.fatal()]
        if fatal:
            self.broken = True
            known = delivery_error(fatal[0], self._where)
            raise (
                known if not isinstance(known, TransientError) else TransientError(f"{known}: the producer is replaced")
            )

    def _raise_what_decides(self) -> None:
        for said in self._said:
            if is_decisive(said):
                raise delivery_error(said, self._where)

    def _refused(self, messages: Messages) -> Sent:
        """The messages that brokers refuse for what they, or others in their batches, are."""
        for error, _ in self._failed:
            if not is_about_the_record(error):
                raise delivery_error(error, self._where, self._last_said())
        rows = {value: row for row, value in enumerate(messages.values)} if self._failed else {}
        failed = {rows[value]: error for error, value in self._failed}
        named = any(error.code() == _INNOCENT for error in failed.values())
        alone = self._singly or len(failed) == 1
        at_fault = {row for row, error in failed.items() if alone or (named and error.code() in _NAMED)}
        told = {row: _reason(error, messages.topics[row]) for row, error in failed.items()}
        refused = {row: reason for row, reason in told.items() if row in at_fault}
        return Sent(refused, {row: reason for row, reason in told.items() if row not in at_fault}, named)

    def _last_said(self) -> str:
        useful = [said for said in self._said if said.code() != KafkaError._ALL_BROKERS_DOWN]  # noqa: SLF001
        return useful[-1].str()[:300] if useful else ""

    def _transaction(self, step: Any, deadline: float) -> None:
        try:
            step(max(0.1, deadline - time.monotonic()))
        except KafkaException as error:
            self.broken = True
            self._producer.poll(0)
            self._raise_what_decides()
            raise delivery_error(error.args[0], self._where, self._last_said()) from None


def _reason(error: KafkaError, topic: str) -> str:
    found: DeliveryError = delivery_error(error, topic)
    return str(getattr(found, "reasons", [str(found)])[0])
