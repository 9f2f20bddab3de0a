"""Bytes of strangers, and sound ones that were changed: every decoder keeps its promises (`make fuzz` looks for longer)."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

_CASES = 200


def changed(seed: bytes, chance: random.Random) -> bytes:
    """A copy with a few bytes changed, taken out, put in, or doubled."""
    data = bytearray(seed)
    for _ in range(chance.randint(0, 4)):
        at = chance.randint(0, len(data))
        match chance.randrange(5):
            case 0 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 1:
                del data[at : at + chance.randint(1, 8)]
            case 2:
                data[at:at] = chance.choice([b"\xff", b"\0" * 4, b"\x7f\xff\xff\xff", chance.randbytes(3)])
            case 3:
                data[at : at + 4] = chance.choice([b"\xff\xff\xff\xff", b"\x80\x00\x00\x00", b"\0\0\0\0"])
            case _:
                data += data[at : at + 64]
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_sound_bytes_are_decoded(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=_CASES, deadline=10_000)
@given(data=st.binary(max_size=600))
def test_any_bytes_are_decoded_or_refused(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=_CASES, deadline=10_000)
@given(draw=st.data())
def test_changed_bytes_are_decoded_or_refused(name: str, draw: st.DataObject) -> None:
    seed = draw.draw(st.sampled_from(TARGETS[name].seeds))
    TARGETS[name].run(changed(seed, random.Random(draw.draw(st.integers(0, 2**32)))))
