from hypothesis import given
from hypothesis import strategies as st

from delivery.patch import patch, patched

STATES = st.one_of(st.binary(max_size=60), st.text("ab", max_size=40).map(str.encode))


@given(STATES, STATES)
def test_a_state_comes_back_from_what_differs(before: bytes, after: bytes) -> None:
    assert patched(before, patch(before, after)) == after


@given(STATES, STATES, STATES)
def test_another_state_is_not_patched(before: bytes, after: bytes, other: bytes) -> None:
    assert patched(other, patch(before, after)) in ((after,) if other == before else (None,))


def test_what_stays_is_not_written_again() -> None:
    known = bytes(range(256)) * 100
    assert len(patch(b"\x01\x02" + known, b"\x03\x04\x05" + known)[3]) <= 3
    assert patch(known, known)[3] == b""
