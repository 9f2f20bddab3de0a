"""Blocks: what is asked for together, split and joined."""

from hypothesis import assume, given
from hypothesis import strategies as st

from connectors.sources.modbus.datatypes import REGISTERS
from connectors.sources.modbus.plan import Block, Kind, Point, halves, joined, plan


@st.composite
def point(draw: st.DrawFn) -> Point:
    kind = draw(st.sampled_from(Kind))
    type_ = "bit" if kind.is_bits else draw(st.sampled_from(sorted(REGISTERS)))
    unit_id = draw(st.integers(1, 3))
    return Point(unit_id, kind, draw(st.integers(0, 400)), size=REGISTERS[type_], type=type_)


points_lists = st.lists(point(), min_size=1, max_size=60)
registers = st.integers(4, 125)
bits = st.integers(1, 2000)
gaps = st.integers(0, 20)


def covered(block: Block) -> range:
    return range(block.address, block.end)


@given(points_lists, gaps, registers, bits)
def test_every_value_lies_whole_in_exactly_one_block_of_its_unit_and_table(points, gap, max_registers, max_bits):
    blocks = plan(points, gap, max_registers, max_bits)
    assert sorted(i for block in blocks for i in block.members) == list(range(len(points)))
    for block in blocks:
        for i in block.members:
            assert (points[i].unit_id, points[i].kind) == (block.unit_id, block.kind)
            assert block.address <= points[i].address
            assert points[i].end <= block.end


@given(points_lists, gaps, registers, bits)
def test_no_block_is_larger_than_the_device_gives_or_wider_than_its_values(points, gap, max_registers, max_bits):
    for block in plan(points, gap, max_registers, max_bits):
        assert 1 <= block.count <= (max_bits if block.kind.is_bits else max_registers)
        assert block.address == min(points[i].address for i in block.members)
        assert block.end == max(points[i].end for i in block.members)


@given(points_lists, gaps, registers, bits)
def test_no_more_unwanted_addresses_in_a_row_than_the_gap(points, gap, max_registers, max_bits):
    for block in plan(points, gap, max_registers, max_bits):
        wanted = {a for i in block.members for a in range(points[i].address, points[i].end)}
        run = longest = 0
        for address in covered(block):
            run = 0 if address in wanted else run + 1
            longest = max(longest, run)
        assert longest <= (gap * 16 if block.kind.is_bits else gap)


@given(points_lists, gaps)
def test_an_address_is_read_once_even_if_several_values_use_it(points, gap):
    read = [(b.unit_id, b.kind, a) for b in plan(points, gap, 125, 2000) for a in covered(b)]
    assume(_longest_chain(points) <= 125)
    assert len(read) == len(set(read))


def _longest_chain(points: list[Point]) -> int:
    """Addresses of the longest run of overlapping values: what cannot fit in one request may be read twice."""
    longest = 0
    start = end = -1
    last = None
    for p in sorted(points, key=lambda p: (p.unit_id, p.kind, p.address)):
        if (p.unit_id, p.kind) != last or p.address >= end:
            start, end, last = p.address, p.end, (p.unit_id, p.kind)
        end = max(end, p.end)
        longest = max(longest, end - start)
    return longest


@given(points_lists, gaps, registers, bits)
def test_the_order_of_the_values_does_not_change_what_is_asked(points, gap, max_registers, max_bits):
    def asked(blocks: list[Block]) -> list[tuple[int, int, int, int]]:
        return [(b.unit_id, b.kind, b.address, b.count) for b in blocks]

    backwards = plan(points[::-1], gap, max_registers, max_bits)
    assert asked(plan(points, gap, max_registers, max_bits)) == asked(backwards)


@given(points_lists, gaps, registers, bits)
def test_halving_to_the_end_cuts_no_value_and_loses_none(points, gap, max_registers, max_bits):
    for block in plan(points, gap, max_registers, max_bits):
        todo, leaves = [block], []
        while todo:
            pieces = halves(points, todo[-1])
            leaf = todo.pop()
            if pieces is None:
                leaves.append(leaf)
            else:
                assert all(0 < len(piece.members) < len(leaf.members) for piece in pieces)
                todo += pieces
        assert sorted(i for leaf in leaves for i in leaf.members) == sorted(block.members)
        for leaf in leaves:
            assert {(points[i].address, points[i].end) for i in leaf.members} == {(leaf.address, leaf.end)}


@given(points_lists, gaps)
def test_halves_that_touch_join_to_the_block_they_came_from(points, gap):
    for block in plan(points, gap):
        pieces = halves(points, block)
        if pieces is not None and pieces[0].end >= pieces[1].address:
            assert joined(points, *pieces, most=2000) == block


def test_2000_registers_are_16_requests():
    points = [Point(1, Kind.HOLDING, a, type="int16") for a in range(2000)]
    assert [(b.address, b.count) for b in plan(points)] == [(a, 125) for a in range(0, 2000, 125)]


def test_a_block_ends_before_a_value_that_would_be_cut():
    points = [Point(1, Kind.HOLDING, a, size=2, type="float32") for a in range(0, 20, 2)]
    assert [(b.address, b.count) for b in plan(points, max_registers=5)] == [(a, 4) for a in range(0, 20, 4)]


def test_blocks_that_do_not_touch_or_are_too_large_together_are_not_joined():
    points = [Point(1, Kind.HOLDING, a) for a in (0, 1, 3)]
    one, two, four = (plan([p])[0] for p in points)
    assert joined(points, one, two, most=1) is None
    assert joined(points, two, four, most=125) is None
    assert joined(points, one, Block(2, Kind.HOLDING, 1, 1, (1,)), most=125) is None
