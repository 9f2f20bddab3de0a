"""What a cluster wants of options, configuration and recovery store, and who is let in; nothing is started here."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from config.members import Membership
from config.models import Configuration
from connectors.settings import SourceConfig
from flows.change import ChangeRefusedError
from flows.cluster import Cluster, Members, members_of, steps_of
from flows.meeting import admitted, flow_id, hello, split
from flows.options import cluster_options, prepare_recovery
from flows.process import Process

TWO = "box0:2101;box1:2101"


def config(
    folder: Path, member: int | None = 0, members: int = 2, name: str | None = None, **more: object
) -> Configuration:
    membership = None if member is None else Membership(member, members)
    found = f"plant-{member}" if name is None else name
    return Configuration(gateway=found, directory=folder, membership=membership, **more)  # type: ignore[arg-type]


def options(
    arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> tuple[int, tuple[str, ...]] | None:
    return cluster_options(
        ["flows.gateway", "-r", "data/recovery", "-s", "1", "-b", "0", *arguments], environment or {}
    )


def test_the_members_are_found_as_bytewax_finds_them(tmp_path: Path) -> None:
    assert options([]) is None
    both = (1, ("box0:2101", "box1:2101"))
    assert options(["-i", "1", "-a", TWO]) == both
    assert options(["-i1", f"--addresses={TWO}"]) == both
    assert options([], {"BYTEWAX_PROCESS_ID": "1", "BYTEWAX_ADDRESSES": TWO}) == both
    hosts = tmp_path / "hosts"
    hosts.write_text("box0:2101\n\nbox1:2101\n")
    pod = {
        "BYTEWAX_POD_NAME": "my-gateway-1",
        "BYTEWAX_STATEFULSET_NAME": "my-gateway",
        "BYTEWAX_HOSTFILE_PATH": str(hosts),
    }
    assert options([], pod) == both
    found = members_of(config(tmp_path, 1), both)
    assert found == Members(1, ("plant-0", "plant-1"), both[1])
    assert found.name == "plant"
    assert members_of(config(tmp_path, 1), None) is None


@pytest.mark.parametrize(
    ("arguments", "environment", "reason"),
    [
        (["-a", TWO], {}, "Say it by -i"),
        (["-i", "0"], {}, "needs the addresses of all members"),
        (["-i", "0", "-a", "box0:2101"], {}, "two members at least"),
        (["-i", "0", "-a", "box0;box1:2101"], {}, "`box0` is none"),
        (["-i", "0", "-a", "box0:2101;box0:2101"], {}, "there twice"),
        (["-i", "2", "-a", TWO], {}, "process ids are 0 to 1"),
        (["-i", "0", "-a", TWO, "-w", "2"], {}, "Start more members"),
        ([], {"BYTEWAX_POD_NAME": "gateway-x", "BYTEWAX_STATEFULSET_NAME": "gateway"}, "a hyphen and a number"),
        (["-i", "0"], {"BYTEWAX_HOSTFILE_PATH": "/nowhere/hosts"}, "BYTEWAX_HOSTFILE_PATH: .*No such file"),
    ],
)
def test_unsound_clusters_are_refused_with_the_reason(
    arguments: list[str], environment: dict[str, str], reason: str
) -> None:
    with pytest.raises(SystemExit, match=reason):
        options(arguments, environment)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"member": None, "name": "gw"}, "set gateway.name, gateway.members: 2 and gateway.member: 0"),
        ({"member": 1}, "the configuration says member 1 of 2"),
        ({"members": 3}, "the configuration says member 0 of 3"),
        ({"name": "alone"}, "begin with a new directory if this one was made by a gateway that ran alone"),
        ({"plant": (SourceConfig(name="press", protocol="mqtt", report={"min_interval": "1s"}),)}, r"report: of press"),  # type: ignore[arg-type]
    ],
)
def test_a_configuration_that_is_no_member_s_is_refused_with_what_to_do(
    tmp_path: Path, more: dict[str, object], reason: str
) -> None:
    with pytest.raises(SystemExit, match=reason):
        members_of(config(tmp_path, **more), (0, ("a:1", "b:1")))  # type: ignore[arg-type]


def test_a_running_cluster_goes_on_with_as_many_members_as_it_has(tmp_path: Path) -> None:
    cluster = Cluster(Process(config(tmp_path)), Members(0, ("plant-0", "plant-1"), ("a:1", "b:1")))
    cluster.check(config(tmp_path))
    with pytest.raises(ChangeRefusedError, match="in a cluster: .* member 0 of 3"):
        cluster.check(config(tmp_path, members=3))


def test_partitions_are_told_apart_in_the_order_that_bytewax_gives_them() -> None:
    names = tuple(f"plant-{number}" for number in range(12))
    members = Members(2, names, tuple(f"h{number}:1" for number in range(12)))
    assert [sorted(names)[members.place(name)] for name in names] == list(names)
    assert members.home("plant-11") == "plant-11"
    assert members.home("plant") == "plant-2"


def test_the_first_member_keeps_the_state_of_all(tmp_path: Path) -> None:
    names, addresses = ("plant-0", "plant-1"), ("a:1", "b:1")
    first, second = (Members(member, names, addresses) for member in (0, 1))
    prepare_recovery(tmp_path / "0", "plant-0", first)
    prepare_recovery(tmp_path / "1", "plant-1", second)
    assert [path.name for path in (tmp_path / "0").iterdir()] == ["part-0.sqlite3"]
    assert list((tmp_path / "1").iterdir()) == []
    with pytest.raises(SystemExit, match="that of all members lies with member 0"):
        prepare_recovery(tmp_path / "0", "plant-1", second)
    with closing(sqlite3.connect(tmp_path / "0" / "part-0.sqlite3")) as store, store:
        for name in ("plant-0", "plant-1", "plant-2"):
            store.execute("INSERT INTO snaps (step_id, state_key, snap_epoch) VALUES ('s', ?, 1)", (f"{name}/mqtt-0",))
    with pytest.raises(SystemExit, match="holds the state of member `plant-2`, which is none of the 2 members"):
        prepare_recovery(tmp_path / "0", "plant-0", first)
    more = Members(0, (*names, "plant-2"), (*addresses, "c:1"))
    prepare_recovery(tmp_path / "0", "plant-0", more)


def test_who_cannot_be_wired_to_the_first_is_told_why(tmp_path: Path) -> None:
    steps = flow_id(["gateway.mqtt", "gateway.to_lake"])
    assert admitted(hello(1, 2, steps), 2, steps) == (1, "")
    assert "other steps in its flow" in admitted(hello(1, 2, flow_id(["gateway.mqtt"])), 2, steps)[1]
    assert "started with 3 addresses" in admitted(hello(2, 3, steps), 2, steps)[1]
    for said in (
        b"",
        b"GET / HTTP/1.1\r\n",
        b"{}",
        b"[]\n",
        b'{"greeting": "x"}',
        hello(0, 2, steps),
        hello(2, 2, steps),
    ):
        assert admitted(said, 2, steps)[1] == "somebody who is no member has connected"
    from flows.examples.plant_average import gateway

    assert "gateway.averages.window.stateful_batch" in steps_of(gateway(Process(config(tmp_path))))
    assert split("[fd00::1]:2101") == ("fd00::1", 2101)
