"""Metrics reach a Prometheus by remote write: the same that it would scrape, with their own times, also after an outage."""

import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic import ValidationError
from running import Running, running, until

from config.certificates.used import materials
from config.models import Configuration
from config.telemetry import RemoteWriteSection, TelemetrySection
from flows.telemetry.post import Post
from flows.telemetry.remote_write import HEADERS, Series
from flows.telemetry.teller import sample_time
from tests.certificates import Authority
from tests.ports import free_port
from tests.prometheus_server import PrometheusServer

DIRECT = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def telling(endpoint: str, **own: Any) -> dict[str, Any]:
    """A gateway that writes to a Prometheus every second."""
    labels = {"site": "plant1", "area": "pressing"}
    return {"interval": "1s", "labels": labels, "remote_write": {"endpoint": endpoint, **own}}


@pytest.fixture
def directly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in DIRECT.items():
        monkeypatch.setenv(name, value)


def labelled(series: list[dict[str, Any]], *without: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Values by labels."""
    return {
        tuple(sorted((name, value) for name, value in one["metric"].items() if name not in without)): float(
            one["value"][1]
        )
        for one in series
    }


def test_what_is_written_is_what_would_be_scraped_and_ends_with_the_gateway(tmp_path: Path) -> None:
    port = free_port()
    with PrometheusServer(tmp_path, f"127.0.0.1:{port}", job="scraped") as server:
        until(server.answers, what="Prometheus")
        with running(
            tmp_path, fail_second=True, port=port, telemetry=telling(server.takes), environment=DIRECT
        ) as gateway:
            of_prometheus = '{job="scraped", __name__!~"up|scrape_.*|ALERTS.*"}'
            own = ("job", "instance", "gateway", "site", "area")

            def both() -> tuple[dict[Any, float], dict[Any, float]]:
                return labelled(server.query('{job="bifrost"}'), *own), labelled(server.query(of_prometheus), *own)

            def alike() -> bool:
                written, scraped = both()
                return len(written) > 150 and written.keys() == scraped.keys()

            gateway.deliver(500, targets=("first",))
            gateway.until(alike, "the same series")
            written, scraped = both()
            still = [
                key for key in scraped if re.search("quota|info|start_time|capacity|max_fds", dict(key)["__name__"])
            ]
            assert len(still) >= 6
            assert {key: written[key] for key in still} == {key: scraped[key] for key in still}
            assert {key for key in written if "bucket" in dict(key)["__name__"]}
            of_all = server.query('count by (job, instance, gateway, site, area) ({job="bifrost"})')
            assert [one["metric"] for one in of_all] == [
                {"job": "bifrost", "instance": "gw", "gateway": "gw", "site": "plant1", "area": "pressing"}
            ]
            assert gateway.stop() < 5.0
        until(lambda: not server.query('{job="bifrost"}'), 5, "the end of every series")
        assert server.query('last_over_time(bifrost_gateway_info{job="bifrost"}[5m])')
        assert "out of order" not in server.said.lower()
        assert "out-of-order" not in server.said.lower()


@pytest.mark.kill
def test_samples_of_an_outage_come_after_it_with_their_own_times_also_those_of_a_killed_gateway(tmp_path: Path) -> None:
    server = PrometheusServer(tmp_path)

    def lives() -> list[tuple[float, float]]:
        """When a sample was taken, and when the gateway that took it was started."""
        found = server.query("process_start_time_seconds[10m]")
        return [(when, float(value)) for one in found for when, value in one["values"]]

    def waiting(gateway: Running) -> None:
        """Some samples more lie on its disk."""
        box = gateway.directory / "data" / "telemetry" / "remote_write"
        size = lambda: sum(file.stat().st_size for file in box.glob("*.log"))  # noqa: E731
        before = size()
        gateway.until(lambda: size() > before + 15_000, "samples")

    with running(tmp_path, telemetry=telling(server.takes), environment=DIRECT) as gateway:
        with server:
            until(server.answers, what="Prometheus")
            gateway.until(lambda: len(lives()) >= 2, "samples")
        away = time.time()
        gateway.until(lambda: "telemetry cannot be sent" in gateway.said(), "the word")
        waiting(gateway)
        gateway.kill()
    between = time.time()
    with running(tmp_path, telemetry=telling(server.takes), environment=DIRECT) as gateway:
        gateway.opened()
        waiting(gateway)
        back = time.time()
        with server:
            until(server.answers, what="Prometheus")
            gateway.until(lambda: any(when > back + 1 for when, _ in lives()), "what waited, and what is new")
            found = lives()
            dropped = server.query("last_over_time(bifrost_telemetry_dropped_total[5m])")
            assert gateway.stop() < 5.0
    times = [when for when, _ in found]
    assert times == sorted(set(times))
    first, second = sorted({began for _, began in found})
    assert len([when for when, began in found if began == first and away < when < between]) >= 2
    assert len([when for when, began in found if began == second and between < when < back]) >= 2
    assert dropped
    assert [one for one in dropped if float(one["value"][1])] == []
    assert not re.search("out.of.order", server.said, re.IGNORECASE)


def test_data_flows_as_ever_while_who_is_told_takes_connections_and_never_answers(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0), backlog=64) as hangs:
        endpoint = f"http://127.0.0.1:{hangs.getsockname()[1]}"
        otlp = {"endpoint": endpoint, "timeout": "60s"}
        told = telling(f"{endpoint}/write", timeout="60s") | {"otlp": otlp}
        with running(tmp_path, telemetry=told, environment=DIRECT) as gateway:
            gateway.deliver(1500)
            threads = {thread.id for thread in psutil.Process(gateway.pid).threads()}
            gateway.deliver(1500)
            assert {thread.id for thread in psutil.Process(gateway.pid).threads()} <= threads
            assert gateway.stop() < 5.0


# ---------------------------------------------------------------------- requests, against a Prometheus and byte by byte


def registry() -> tuple[CollectorRegistry, Gauge, Counter]:
    found = CollectorRegistry()
    gauge = Gauge("level", "a level", ["tank", "site"], registry=found)
    counter = Counter("turns_total", "turns", registry=found)
    return found, gauge, counter


def decoded(request: bytes) -> list[tuple[list[tuple[str, str]], list[tuple[bytes, int]]]]:
    """Series of a request, read by another protobuf than wrote it: labels in their order, samples by bits and time."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="remote.proto", package="prometheus", syntax="proto3")
    for name, fields in (
        ("Label", (("name", 1, field.TYPE_STRING, ""), ("value", 2, field.TYPE_STRING, ""))),
        ("Sample", (("value", 1, field.TYPE_FIXED64, ""), ("timestamp", 2, field.TYPE_INT64, ""))),
        ("TimeSeries", (("labels", 1, 0, "Label"), ("samples", 2, 0, "Sample"))),
        ("WriteRequest", (("timeseries", 1, 0, "TimeSeries"),)),
    ):
        message = file.message_type.add(name=name)
        for key, number, kind, of in fields:
            made = message.field.add(name=key, number=number, label=field.LABEL_OPTIONAL)
            if of:
                made.type, made.type_name, made.label = field.TYPE_MESSAGE, f".prometheus.{of}", field.LABEL_REPEATED
            else:
                made.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("prometheus.WriteRequest"))
    import pyarrow as pa

    length, shift, at = 0, 0, 0
    while True:
        byte = request[at]
        length |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            break
    whole = kind.FromString(pa.decompress(request, length, "snappy", asbytes=True))
    return [
        (
            [(label.name, label.value) for label in series.labels],
            [(struct.pack("<Q", sample.value), sample.timestamp) for sample in series.samples],
        )
        for series in whole.timeseries
    ]


def test_a_request_has_sorted_labels_a_sample_of_each_series_and_the_end_of_those_that_are_gone() -> None:
    found, gauge, counter = registry()
    series = Series({"job": "bifrost", "site": "plant1", "Zone": "ä"})
    gauge.labels("north", "own").set(-2.5)
    gauge.labels("south", "").set(float("nan"))
    counter.inc(3)
    body, points = series.request(found.collect(), 1_700_000_000_123)
    assert points == 3
    by_labels = {tuple(labels): samples for labels, samples in decoded(body)}
    common = (("job", "bifrost"),)
    north = (("Zone", "ä"), ("__name__", "level"), *common, ("site", "own"), ("tank", "north"))
    south = (("Zone", "ä"), ("__name__", "level"), *common, ("site", "plant1"), ("tank", "south"))
    turns = (("Zone", "ä"), ("__name__", "turns_total"), *common, ("site", "plant1"))
    when = 1_700_000_000_123
    assert by_labels[north] == [(struct.pack("<d", -2.5), when)]
    assert by_labels[turns] == [(struct.pack("<d", 3.0), when)]
    assert by_labels[south] == [(struct.pack("<d", float("nan")), when)]
    gauge.remove("north", "own")
    counter.inc()
    ended = struct.pack("<Q", 0x7FF0000000000002)
    by_labels = {tuple(labels): samples for labels, samples in decoded(series.request(found.collect(), when + 1)[0])}
    assert by_labels[north] == [(ended, when + 1)]
    assert by_labels[turns] == [(struct.pack("<d", 4.0), when + 1)]
    assert by_labels.keys() == {north, south, turns}
    body, points = series.end(when + 2)
    assert points == 2
    assert {tuple(labels): samples for labels, samples in decoded(body)} == {
        south: [(ended, when + 2)],
        turns: [(ended, when + 2)],
    }
    assert series.end(when + 3)[1] == 0


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, PrometheusServer]]:
    made = {}
    for name, late in (("strict", ""), ("lenient", "1d")):
        (tmp_path / name).mkdir()
        made[name] = PrometheusServer(tmp_path / name, late=late)
    with made["strict"], made["lenient"]:
        until(lambda: all(server.answers() for server in made.values()), what="Prometheus")
        yield made


@pytest.mark.usefixtures("directly")
def test_samples_older_than_an_hour_need_a_prometheus_that_takes_late_ones(
    servers: dict[str, PrometheusServer],
) -> None:
    now = round(time.time() * 1000)
    answers = {}
    for name, server in servers.items():
        post = Post(RemoteWriteSection(endpoint=server.takes), server.takes, HEADERS)
        found, gauge, _ = registry()
        gauge.labels("north", "").set(1)
        there, away = Series({"gateway": "there"}), Series({"gateway": "away"})
        assert post.send(there.request(found.collect(), now)[0]).code < 300
        answers[name] = post.send(away.request(found.collect(), now - 3 * 3_600_000)[0])
        again = away.request(found.collect(), now)[0]
        assert post.send(again).code < 300
        assert post.send(again).code < 300, "a sample that comes again as it was"
        post.close()
    assert (answers["strict"].code, answers["strict"].said) == (400, "400: out of bounds")
    assert answers["lenient"].code < 300
    late = servers["lenient"].query('level{gateway="away"}[4h]')
    assert [when for when, _ in late[0]["values"]] == [now / 1000 - 3 * 3600, now / 1000]


# ---------------------------------------------------------------------- what a configuration says


@pytest.mark.parametrize(
    ("now", "newest", "expected"),
    [
        (1000.0, 0.0, 1_000_000),
        (1000.001, 1000.0, 1_000_001),
        (1000.0, 1000.0, None),
        (1000.0, 1000.0004, None),
        (999.0, 1000.0, None),
        (1000.0, 4601.0, 1_000_000),  # it was in the future by more than an hour: that clock was wrong
    ],
)
def test_a_sample_is_later_than_the_one_before(now: float, newest: float, expected: int | None) -> None:
    assert sample_time(now, newest) == expected


def test_its_certificates_are_looked_after_like_those_of_targets(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    said = {"remote_write": {"endpoint": "https://x", "tls": authority.client()}}
    config = Configuration("gw", tmp_path, telemetry=TelemetrySection.model_validate(said))
    assert {(one.kind, one.owner, one.key, one.role) for one in materials(config)} == {
        ("gateway", "gw", f"gateway.telemetry.remote_write.tls.{role}_file", kind)
        for role, kind in (("ca", "ca"), ("cert", "own"), ("key", "key"))
    }


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"labels": {"gateway": "x"}}, "choose another name"),
        ({"labels": {"source": "x"}}, "the gateway's own metrics use this label"),
        ({"labels": {"__name__": "x"}}, "two underscores"),
        ({"labels": {"my-site": "x"}}, "labels"),
        ({"remote_write": {"endpoint": "prometheus:9090"}}, "endpoint"),
        ({"remote_write": {"endpoint": "http://me:secret@prometheus:9090"}}, "endpoint"),
        ({"remote_write": {"endpoint": "http://x", "auth": {"username": "u"}}}, "belong together"),
        ({"remote_write": {"endpoint": "http://x", "auth": {"token": "t", "username": "u", "password": "p"}}}, "not both"),
        ({"remote_write": {"endpoint": "http://x", "buffer": "10KiB"}}, "buffer"),
        ({"interval": "100ms"}, "interval"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_told(said: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        TelemetrySection.model_validate(said)
