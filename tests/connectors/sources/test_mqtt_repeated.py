"""Messages that the broker sends again are told from new ones, and what is remembered of them changes little."""

from hypothesis import given
from hypothesis import strategies as st

from connectors.sources.mqtt.repeated import Received
from connectors.wire.mqtt_packets import DUP, Publish
from delivery.patch import patch


def _message(packet_id: int, payload: bytes, head: int = 0) -> Publish:
    return Publish(b"t", payload, head | 2, packet_id, b"")


def test_a_repeated_message_is_told_from_a_new_one_with_its_packet_id() -> None:
    received = Received(limit=3, bound=True)
    assert not received.is_repeated(_message(1, b"a"))
    assert received.is_repeated(_message(1, b"a", DUP))
    assert not received.is_repeated(_message(1, b"b", DUP))  # sent again by the broker, but never seen here
    assert not received.is_repeated(_message(1, b"b"))  # the id is used anew, with the same content
    restored = Received(limit=3, bound=True)
    restored.load(*received.dump())
    assert restored.is_repeated(_message(1, b"b", DUP))
    assert restored.packet_ids == [1]


def test_the_ring_holds_what_a_bound_broker_may_have_under_way() -> None:
    received = Received(limit=3, bound=True)
    for i in range(1, 11):
        received.is_repeated(_message(i, b"x"))
    received.trim(confirmed=0)
    assert received.packet_ids == [8, 9, 10]


def test_the_ring_of_an_unbound_broker_shrinks_only_when_it_has_confirmed() -> None:
    received = Received(limit=3, bound=False)
    for i in range(1, 11):
        received.is_repeated(_message(i, b"x"))
    received.trim(confirmed=0)
    assert len(received) == 10
    received.trim(confirmed=4)
    assert received.packet_ids == [5, 6, 7, 8, 9, 10]
    resumed = Received(limit=3, bound=False)
    resumed.load(*received.dump())
    resumed.is_repeated(_message(5, b"x", DUP))
    resumed.trim(confirmed=1)
    assert len(resumed) == 6  # more of the old ones may come
    resumed.is_repeated(_message(11, b"x"))
    resumed.trim(confirmed=2)
    assert resumed.packet_ids == [9, 10, 11]


@given(st.lists(st.tuples(st.integers(1, 12), st.sampled_from([b"a", b"b"]), st.booleans()), max_size=200))
def test_the_ring_behaves_as_a_list_of_what_came(messages: list[tuple[int, bytes, bool]]) -> None:
    received, model = Received(limit=5, bound=True), dict[int, bytes]()
    for number, (packet_id, payload, again) in enumerate(messages):
        repeated = again and model.get(packet_id) == payload
        assert received.is_repeated(_message(packet_id, payload, DUP if again else 0)) == repeated
        if not repeated:
            model.pop(packet_id, None)
            model[packet_id] = payload
        received.trim(confirmed=0)
        model = dict(list(model.items())[-5:])
        assert received.packet_ids == list(model)
        if number % 7 == 6:
            ring = received.dump()
            received = Received(limit=5, bound=True)
            received.load(*ring)


def test_the_ring_grows_and_its_state_differs_little_from_one_message_to_the_next() -> None:
    received = Received(limit=1000, bound=True)
    changed = []
    for n in range(5000):
        before, _ = received.dump()
        received.is_repeated(_message(n % 60_000 + 1, b"x"))
        received.trim(confirmed=0)
        after, _ = received.dump()
        changed.append(len(patch(before, after)[3]))
    assert received.packet_ids == list(range(4001, 5001))
    assert sum(changed) / len(changed) < 500, "on average; where the ring begins anew, all of it"
    assert len(after) <= 8 * 2048
