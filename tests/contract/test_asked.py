"""What tells reading from writing in `tests.contract.asked` does so."""

import pytest

from tests.contract import asked


@pytest.mark.threat(9)
@pytest.mark.parametrize(
    ("protocol", "written"),
    asked.WRITES,
    ids=[f"{protocol} {number}" for number, (protocol, _) in enumerate(asked.WRITES)],
)
def test_a_write_would_be_seen(protocol: str, written: bytes) -> None:
    assert asked.not_reading(protocol, [bytearray(written)]) != []
