"""Messages that the broker sends again are told from new ones, and what is remembered of them changes little."""

from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.sources.mqtt.repeated import Received, Unreleased
from connectors.wire.mqtt_packets import DUP, Publish, Publishes
from delivery.patch import patch


def some(*messages: tuple[int, bytes, int]) -> Publishes:
    found = Publishes()
    for packet_id, payload, head in messages:
        found.add(Publish(b"t", payload, head | 2, packet_id, b""))
    return found


def is_repeated(taken: Received | Unreleased, packet_id: int, payload: bytes, head: int = 0) -> bool:
    return taken.take(some((packet_id, payload, head))) == [0]


def test_a_repeated_message_is_told_from_a_new_one_with_its_packet_id() -> None:
    received = Received(limit=3, bound=True)
    assert not is_repeated(received, 1, b"a")
    assert is_repeated(received, 1, b"a", DUP)
    assert not is_repeated(received, 1, b"b", DUP)  # sent again by the broker, but never seen here
    assert not is_repeated(received, 1, b"b")  # the id is used anew, with the same content
    restored = Received(limit=3, bound=True)
    restored.load(*received.dump())
    assert is_repeated(restored, 1, b"b", DUP)
    assert not is_repeated(restored, 1, b"a", DUP)


def test_of_many_messages_the_places_of_the_repeated_ones_are_told() -> None:
    received = Received(limit=100, bound=True)
    assert received.take(some((1, b"a", 0), (2, b"b", 0), (3, b"c", 0))) == []
    assert received.take(some((2, b"b", DUP), (4, b"d", 0), (3, b"x", DUP), (1, b"a", DUP), (1, b"a", 0))) == [0, 3]
    assert received.packet_ids == [1, 2, 3, 4, 3, 1]


def test_the_ring_holds_what_a_bound_broker_may_have_under_way() -> None:
    received = Received(limit=3, bound=True)
    for i in range(1, 11):
        received.take(some((i, b"x", 0)))
    received.trim(confirmed=0)
    assert received.packet_ids == [8, 9, 10]


def test_the_ring_of_an_unbound_broker_shrinks_only_when_it_has_confirmed() -> None:
    received = Received(limit=3, bound=False)
    for i in range(1, 11):
        received.take(some((i, b"x", 0)))
    received.trim(confirmed=0)
    assert len(received) == 10
    received.trim(confirmed=4)
    assert received.packet_ids == [5, 6, 7, 8, 9, 10]
    resumed = Received(limit=3, bound=False)
    resumed.load(*received.dump())
    resumed.take(some((5, b"x", DUP)))
    resumed.trim(confirmed=1)
    assert len(resumed) == 6  # more of the old ones may come
    resumed.take(some((11, b"x", 0)))
    resumed.trim(confirmed=2)
    assert resumed.packet_ids == [9, 10, 11]


def test_the_ring_shrinks_after_a_burst() -> None:
    received = Received(limit=100, bound=True)
    received.take(some(*[(packet_id, b"x", 0) for packet_id in range(1, 20_001)]))
    received.trim(confirmed=0)
    assert received.packet_ids == list(range(19_901, 20_001))
    assert len(received.dump()[0]) <= 8 * 4 * 100
    received.take(some((7, b"x", 0), (20_000, b"x", DUP)))
    assert received.packet_ids[-2:] == [20_000, 7]


reads = st.lists(
    st.lists(st.tuples(st.integers(1, 12), st.sampled_from([b"a", b"b"]), st.sampled_from([0, DUP])), min_size=1),
    max_size=40,
)


@settings(deadline=None)
@given(reads)
def test_the_ring_behaves_as_a_list_of_what_came(sent: list[list[tuple[int, bytes, int]]]) -> None:
    received, model = Received(limit=5, bound=True), list[tuple[int, bytes]]()
    for number, read in enumerate(sent):
        expected = []
        for place, (packet_id, payload, head) in enumerate(read):
            last = next((known for known in reversed(model) if known[0] == packet_id), None)
            if head and last == (packet_id, payload):
                expected.append(place)
            else:
                model.append((packet_id, payload))
        assert received.take(some(*read)) == expected
        assert received.packet_ids == [packet_id for packet_id, _ in model]
        received.trim(confirmed=0)
        model = model[-5:]
        assert received.packet_ids == [packet_id for packet_id, _ in model]
        if number % 3 == 2:
            ring = received.dump()
            received = Received(limit=5, bound=True)
            received.load(*ring)


def test_the_ring_grows_and_its_state_differs_little_from_one_message_to_the_next() -> None:
    received = Received(limit=1000, bound=True)
    changed = []
    for n in range(5000):
        before, _ = received.dump()
        received.take(some((n % 60_000 + 1, b"x", 0)))
        received.trim(confirmed=0)
        after, _ = received.dump()
        changed.append(len(patch(before, after)[3]))
    assert received.packet_ids == list(range(4001, 5001))
    assert sum(changed) / len(changed) < 500, "on average; where the ring begins anew, all of it"
    assert len(after) <= 8 * 2048


def test_a_message_of_qos_2_is_known_until_it_is_released() -> None:
    unreleased = Unreleased()
    assert unreleased.take(some((1, b"a", 0), (2, b"b", 0))) == []
    unreleased = Unreleased(unreleased.dump())
    assert unreleased.packet_ids == [1, 2]
    assert unreleased.take(some((2, b"b", DUP), (1, b"other", DUP), (3, b"c", DUP))) == [0]
    unreleased.release(2)
    unreleased.release(9)  # one that is not known
    assert not is_repeated(unreleased, 2, b"b", DUP)
    assert unreleased.packet_ids == [1, 3, 2]
