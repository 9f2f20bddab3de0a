"""What has to be done to run as another configuration says."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
from typing_extensions import override

from config.models import Configuration
from connectors.contract import Context, Limits, Writer
from connectors.sources.mqtt import MqttConfig
from connectors.targets.file import FileConfig
from delivery.overflow import BufferPolicy
from discovery.settings import DiscoverySection
from flows.change import ChangeRefusedError, Steps, running, steps
from flows.process import Process
from flows.targets import writer
from normalization.reading import FACTS, Columns, numbers, repeat, view
from normalization.rules import Rule

NOW = Configuration(
    gateway="gw",
    directory=Path("data"),
    sources=(MqttConfig(name="a", endpoint="mqtt://h:1"), MqttConfig(name="b", endpoint="mqtt://h:2")),
    targets={"files": FileConfig(name="files", endpoint="/x"), "more": FileConfig(name="more", endpoint="/y")},
    rules=(Rule("all", "TRUE", ("files",)),),
)
NOTHING = Steps((), (), (), (), (), ())


def to(new: Configuration) -> Steps:
    present = {name: writer(NOW, name).limits for name in NOW.targets}
    return steps(NOW, new, present, lambda name: writer(new, name).limits)


def test_nothing_is_done_for_what_is_the_same() -> None:
    assert to(replace(NOW, sources=NOW.sources[::-1])) == NOTHING


def test_rules_alone_touch_no_source_and_no_target() -> None:
    assert to(replace(NOW, rules=(Rule("all", "FALSE", ("more",), 5),), default=("files",))) == NOTHING


def test_only_sources_that_differ_are_read_anew() -> None:
    changed = MqttConfig(name="b", endpoint="mqtt://h:3")
    new = MqttConfig(name="c", endpoint="mqtt://h:4")
    found = to(replace(NOW, sources=(changed, new)))
    assert (found.sources_gone, found.sources_come, found.graph) == (("a", "b"), ("b", "c"), False)


def test_a_target_that_is_written_to_otherwise_keeps_its_spool() -> None:
    targets = dict(NOW.targets) | {"more": FileConfig(name="more", endpoint="/z")}
    found = to(replace(NOW, targets=targets))
    assert (found.writers, found.graph) == (("more",), False)


def test_targets_that_come_go_or_wait_otherwise_change_the_graph() -> None:
    files, more = NOW.targets["files"], NOW.targets["more"]
    found = to(replace(NOW, targets={"files": files, "third": more}))
    assert (found.targets_gone, found.targets_come, found.graph) == (("more",), ("third",), True)
    found = to(replace(NOW, buffers={"more": BufferPolicy(rows=10)}))
    assert (found.targets_gone, found.targets_come) == (("more",), ("more",))
    smaller = replace(NOW, targets={"files": files, "more": FileConfig(name="more", endpoint="/y", batch_size=7)})
    found = steps(NOW, smaller, {"files": Limits(), "more": Limits()}, {"more": Limits(rows=7)}.__getitem__)
    assert (found.targets_gone, found.targets_come) == (("more",), ("more",))


def test_what_a_process_is_begun_with_holds_until_the_next_start() -> None:
    new = replace(NOW, port=9, directory=Path("elsewhere"), log_level="debug")
    assert to(new).next_start == ("directory", "port")
    held = running(NOW, new)
    assert (held.port, held.directory, held.log_level) == (NOW.port, NOW.directory, "debug")


@pytest.mark.threat(6)
def test_networks_that_may_be_scanned_are_not_widened_while_the_gateway_runs() -> None:
    wider = DiscoverySection.model_validate({"enabled": True, "network": {"subnets": ["10.0.0.0/8"]}})
    assert to(replace(NOW, discovery=wider)).next_start == ("discovery",)
    assert running(NOW, replace(NOW, discovery=wider)).discovery == NOW.discovery


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """A process whose stores are open and whose flow does not run."""
    process = Process(replace(NOW, directory=tmp_path / "data", sources=()))
    process.open_stores()
    process._reads.set()
    yield process
    process.close()


def test_a_graph_that_cannot_be_built_anew_refuses_a_target_and_says_what_to_do(process: Process) -> None:
    before = process.config
    with pytest.raises(ChangeRefusedError, match=r"\(third\).*start the gateway again"):
        process.apply(replace(before, targets={**before.targets, "third": FileConfig(name="third", endpoint="/z")}))
    assert process.config is before
    assert list(process.spools) == ["files", "more"]


class CountedConfig(FileConfig):
    """Files, whose writers are counted."""

    made: ClassVar[list[str]] = []

    @override
    def writer(self, context: Context) -> Writer:
        self.made.append(self.name)
        return super().writer(context)


def test_a_change_builds_the_writers_of_targets_that_differ_and_no_other(tmp_path: Path) -> None:
    targets = {name: CountedConfig(name=name, endpoint=f"/{name}") for name in NOW.targets}
    process = Process(replace(NOW, directory=tmp_path / "data", sources=(), targets=targets))
    process.open_stores()
    process._reads.set()
    process.loop = asyncio.new_event_loop()
    reading = threading.Thread(target=process.loop.run_forever)
    reading.start()
    CountedConfig.made.clear()
    try:
        process.apply(replace(process.config, rules=(), default=("more",), log_level="debug"))
        process.apply(replace(process.config, sources=(MqttConfig(name="a", endpoint="mqtt://127.0.0.1:1"),)))
        assert list(process.intakes) == ["a"]
        process.apply(replace(process.config, sources=()))
        assert CountedConfig.made == []
        changed = targets | {"more": CountedConfig(name="more", endpoint="/elsewhere")}
        process.apply(replace(process.config, targets=changed))
        assert set(CountedConfig.made) == {"more"}
    finally:
        process.loop.call_soon_threadsafe(process.loop.stop)
        reading.join()
        process.loop.close()
        process.close()


def test_readings_that_wait_in_memory_are_not_lost_by_a_change(tmp_path: Path) -> None:
    memory = FileConfig(name="files", endpoint="/x", disk_persistent=False)
    process = Process(replace(NOW, directory=tmp_path / "data", sources=(), targets={"files": memory}))
    process.open_stores()
    process._reads.set()
    try:
        source = MqttConfig(name="a", endpoint="mqtt://h:1")
        rows = Columns()
        rows.add(process.tags.intern(source.tag("plc", "t", "t")), 1.5)
        facts = rows.to_batch(np.array([1_700_000_000_000_000]), 1).columns
        value = numbers(*(facts[FACTS.get_field_index(name)] for name in ("type", "value_double", "value_int")))
        shard = repeat(process.journal.shard_name(4), 1)
        raw = view(facts, repeat("gw", 1), shard, process.tags, value, pa.array(np.zeros(1, np.int32)))
        process.spools["files"].append(process.normalizer(raw))
        with pytest.raises(ChangeRefusedError, match="1 readings wait for it in memory"):
            process.apply(replace(process.config, targets=NOW.targets))
    finally:
        process.close()
