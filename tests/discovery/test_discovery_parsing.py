"""What servers send is taken apart without a surprise, whatever it is."""

import asyncio
import json
import struct

from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.wire.mqtt_packets import Publishes, walk
from discovery import mqtt
from discovery.talk import NotSpokenError, certificate, text


@given(st.binary(max_size=80))
@example(b"\x00\x00\x01\x11")
@example(b"\x00\x00\x80")
@example(b"\x00\x00\x03\x1f\xff\xff")
def test_any_answer_to_connect_is_one_or_is_refused(body: bytes) -> None:
    try:
        found = mqtt.connack(body)
    except NotSpokenError:
        return
    assert 0 <= found.code <= 255
    assert json.dumps(found.properties)


def test_what_a_broker_grants_is_shown_by_name() -> None:
    reason, other = b"go away", b"broker.example"
    properties = b"\x24\x01" + b"\x1f" + struct.pack(">H", len(reason)) + reason
    properties += b"\x1c" + struct.pack(">H", len(other)) + other + b"\x26\x00\x01a\x00\x01b" + b"\x13\x00\x0a"
    found = mqtt.connack(b"\x00\x9c" + bytes([len(properties)]) + properties)
    assert (found.code, found.v5) == (156, True)
    assert found.properties == {"max_qos": 1, "reason": "go away", "other_server": "broker.example", "keepalive": 10}


def test_return_codes_of_3_1_1_are_those_of_5() -> None:
    answers = {code: mqtt.connack(bytes([0, code])) for code in range(7)}
    assert {code: mqtt.REASONS[answer.code] for code, answer in answers.items()} == {
        0: "accepted", 1: "unsupported protocol version", 2: "client identifier not valid", 3: "server unavailable",
        4: "bad user name or password", 5: "not authorized", 6: "unspecified error",
    }  # fmt: skip
    assert not any(answer.v5 for answer in answers.values())


def test_connect_says_no_user_no_will_and_a_clean_session() -> None:
    for v5 in (False, True):
        packet = mqtt.connect_packet("bifrost00000000", v5=v5)
        assert packet[1] == len(packet) - 2
        assert packet[2:9] == b"\x00\x04MQTT" + (b"\x05" if v5 else b"\x04")
        assert packet[9] == 0x02  # clean, and nothing else
        assert packet.endswith(b"\x00\x0fbifrost00000000")


@settings(max_examples=40)
@given(st.lists(st.text(max_size=12), max_size=5))
def test_any_topics_say_who_was_heard(topics: list[str]) -> None:
    heard = Publishes()
    for topic in topics:
        encoded = f"spBv1.0/{topic}".encode("utf-8", "replace")[:100]
        walk(bytes([0x30, len(encoded) + 2]) + struct.pack(">H", len(encoded)) + encoded, 0, False, heard)
    found = mqtt.presence(heard)
    assert len(heard) == len(topics)
    assert json.dumps(found)
    assert found["present"] == bool(found["groups"] or found["hosts"])


def test_births_data_and_state_are_told_apart() -> None:
    heard = Publishes()
    for topic in ("spBv1.0/G/NBIRTH/N", "spBv1.0/G/DDATA/N/D", "spBv1.0/G/NDATA/M", "spBv1.0/STATE/scada", "spBv1.0/x"):
        heard.topics.append(topic.encode())
    assert mqtt.presence(heard) == {"present": True, "groups": {"G": ["M", "N"]}, "hosts": ["scada"]}


@given(st.text(max_size=500))
def test_any_text_becomes_short_and_printable(said: str) -> None:
    assert text(said).isprintable()
    assert len(text(said)) <= 200
    assert text(None) == ""


@given(st.binary(max_size=60))
def test_no_certificate_is_too_strange(data: bytes) -> None:
    assert set(certificate(data)) <= {"problem"}


async def test_a_connection_that_is_lost_while_talking_is_closed_at_once() -> None:
    import socket

    from discovery.talk import stream

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        async with stream(ours) as (_, writer):
            writer.write(b"x" * 10_000_000)  # more than anybody takes
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ours.fileno() == -1
