"""What of delivery can be observed from outside: spans of writes, counts that are there from the start, how full a spool is."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from typing_extensions import override

from connectors.contract import Limits, TransientError, Writer
from delivery import metrics
from delivery.dead_letters import DeadLetterStore
from delivery.forwarder import Forwarder
from delivery.overflow import BufferPolicy
from delivery.retry import RetryPolicy
from delivery.spans import SPANS, Span
from tests.delivery.stores import new_spool, own, stream, tag_table, until


class Refusing(Writer):
    """Refuses the first write."""

    limits = Limits(rows=10)

    def __init__(self) -> None:
        self.refused = False

    @override
    async def open(self) -> None:
        pass

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        if not self.refused:
            self.refused = True
            raise TransientError("busy")

    @override
    async def close(self) -> None:
        pass


@pytest.fixture
def spans() -> Iterator[list[Span]]:
    heard: list[Span] = []
    SPANS.send_to(heard.append)
    yield heard
    SPANS.close()


def sample(name: str, **labels: str) -> float | None:
    return metrics.REGISTRY.get_sample_value(name, labels)


def test_a_write_is_told_with_its_target_rows_attempt_and_outcome(tmp_path: Path, spans: list[Span]) -> None:
    tags = tag_table()
    spool, letters = new_spool(tmp_path / "spool", tags), DeadLetterStore(tmp_path / "dead", tags, own)
    forwarder = Forwarder("observed", Refusing(), spool, letters, policy=RetryPolicy(first=0.001, cap=0.01))
    assert sample("bifrost_cloud_data_points_failed_total", connector="observed") == 0
    assert sample("bifrost_cloud_connection_attempts_total", connector="observed", result="error") == 0
    assert sample("bifrost_cloud_circuit_breaker_state", connector="observed") == 0
    forwarder.start()
    spool.append(stream(tags, range(5)))
    until(lambda: len(spans) == 2)
    forwarder.stop()
    forwarder.join(10)
    spool.close()
    letters.close()
    unit = spans[0].attributes["unit"]
    first, again = ({"target": "observed", "rows": 5, "unit": unit, "attempt": at} for at in (1, 2))
    assert [(span.name, span.error, span.attributes) for span in spans] == [
        ("write", "busy", first | {"outcome": "transient"}),
        ("write", "", again | {"outcome": "ok"}),
    ]
    assert all(span.began <= span.ended for span in spans)
    metrics.forget("connector", "observed")
    assert sample("bifrost_cloud_data_points_sent_total", connector="observed") is None


@pytest.mark.parametrize(
    ("policy", "filled"),
    [
        (BufferPolicy(), (0.0, 0.01)),
        (BufferPolicy(rows=100), (0.4, 0.4)),
        (BufferPolicy(rows=20), (1.0, 1.0)),
        (BufferPolicy(quota=4096), (0.1, 1.0)),
    ],
)
def test_a_spool_is_as_full_as_its_bytes_or_its_readings_say(
    tmp_path: Path, policy: BufferPolicy, filled: tuple[float, float]
) -> None:
    tags = tag_table()
    spool = new_spool(tmp_path, tags, policy=policy, gather_rows=1)
    spool.append(stream(tags, range(40)) if policy.rows != 20 else stream(tags, range(20)))
    spool.snapshot()
    least, most = filled
    assert least <= spool.filled <= most
    spool.close()
