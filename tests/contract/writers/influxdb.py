"""InfluxDB: a real 1.x, one server that all tests share and a database for each; a stand-in for 2.x and 3.x; and, where
BIFROST_INFLUX2 asks for it and it was built, a real 2.x.

VictoriaMetrics is not here, because it keeps twelve to fifteen digits of a double: see
`tests/connectors/targets/test_influxdb_victoriametrics.py`.
"""

import atexit
import base64
import functools
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from connectors.settings import TargetConfig
from connectors.targets.influxdb import InfluxConfig
from normalization.reading import ValueType
from tests.contract.counterpart import Counterpart, Provider
from tests.contract.readings import Row
from tests.contract.writers.file import TYPE_OF, line_row
from tests.influx_server import ORGANIZATION, PASSWORD, TOKEN, USER, Influx1, Influx2, LineServer, asked_for_influx2
from tests.influx_stand_in import InfluxStandIn

_numbers = itertools.count()


def series_rows(series: list[dict[str, Any]]) -> list[Row]:
    """The readings in what InfluxQL answers to `SELECT * … GROUP BY *`."""
    return [
        _row(found.get("tags", {}), dict(zip(found["columns"], values, strict=True)))
        for found in series
        for values in found["values"]
    ]


def _row(tags: dict[str, str], item: dict[str, Any]) -> Row:
    kind, value = ValueType.NULL, None
    for name, of_type in TYPE_OF.items():
        if item.get(name) is not None:
            kind, value = of_type, item[name]
    if kind is ValueType.DOUBLE:
        value = float(str(value))
    if kind is ValueType.BYTES:
        value = base64.b64decode(str(value))
    if kind is ValueType.JSON:
        value = json.loads(str(value))
    return Row(
        tags["gateway"],
        tags["shard"],
        item["sequence"],
        tags.get("path", ""),
        kind.name,
        value,
        item["quality"],
        item["time"] // 1000,
    )


@functools.cache
def influx1() -> Influx1:
    server = Influx1()
    atexit.register(server.end)
    return server


@functools.cache
def influx2() -> Influx2:
    server = Influx2()
    atexit.register(server.end)
    return server


class Database:
    """A database or bucket of a real server."""

    def __init__(self, server: LineServer, own: dict[str, Any], wrong: dict[str, Any]) -> None:
        self.server = server
        self.port, self.relay_port = server.port, 0
        self.name = f"contract {next(_numbers)}"
        key = "database" if own["version"] == "1.x" else "bucket"
        self.own, self.wrong = own | {key: self.name}, wrong

    def config(self, **settings: Any) -> TargetConfig:
        return self.through(self.port, **settings)

    def through(self, port: int, **settings: Any) -> TargetConfig:
        whole = {"endpoint": f"http://127.0.0.1:{port}", "timeout": "10s", "provider_config": self.own}
        return InfluxConfig.model_validate(whole | settings)

    def stranger(self) -> TargetConfig:
        return self.config(provider_config=self.own | self.wrong)

    def rows(self) -> list[Row]:
        if not any([self.name] in found.get("values", []) for found in self.server.query("SHOW DATABASES")):
            return []
        return series_rows(self.server.query('SELECT * FROM "reading" GROUP BY *', db=self.name))

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.server.kill()
        try:
            yield
        finally:
            self.server.start()


@contextmanager
def version_1(_: Path) -> Iterator[Counterpart]:
    yield Database(influx1(), {"version": "1.x", "username": USER, "password": PASSWORD}, {"password": "wrong-secret"})


@contextmanager
def version_2(_: Path) -> Iterator[Counterpart]:
    own = {"version": "2.x", "organization": ORGANIZATION, "token": TOKEN}
    yield Database(influx2(), own, {"token": "wrong-secret"})


class Imitated:
    """A bucket or database of the stand-in."""

    def __init__(self, folder: Path, version: str) -> None:
        self.server = InfluxStandIn(folder, "v2.7.12" if version == "2.x" else "3.5.0")
        self.port, self.relay_port = self.server.port, 0
        where = {"organization": ORGANIZATION, "bucket": "plant"} if version == "2.x" else {"database": "plant"}
        self.own = {"version": version, "token": TOKEN, "tls": self.server.tls} | where

    def config(self, **settings: Any) -> TargetConfig:
        return self.through(self.port, **settings)

    def through(self, port: int, **settings: Any) -> TargetConfig:
        whole = {"endpoint": f"https://localhost:{port}", "timeout": "10s", "provider_config": self.own}
        return InfluxConfig.model_validate(whole | settings)

    def stranger(self) -> TargetConfig:
        return self.config(provider_config=self.own | {"token": "wrong-secret"})

    def certify(self, *, expired: bool = False) -> None:
        self.server.certify(expired=expired)

    def rows(self) -> list[Row]:
        return [line_row(line) for line in self.server.points.values()]

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.server.stop()
        try:
            yield
        finally:
            self.server.start()


@contextmanager
def imitated(version: str, folder: Path) -> Iterator[Counterpart]:
    counterpart = Imitated(folder, version)
    try:
        yield counterpart
    finally:
        counterpart.server.end()


_REFUSED = frozenset({"nan", "inf", "-inf"})
_REAL_2 = [
    Provider(
        "influxdb",
        "influxdb, 2.x",
        version_2,
        refuses=_REFUSED,
        counterpart="InfluxDB 2.x",
        able=frozenset({"network", "credentials"}),
        names=False,
        largest=2 * 1024**2,
    )
]
PROVIDERS = [
    Provider(
        "influxdb",
        "influxdb, 1.x",
        version_1,
        refuses=_REFUSED | {"largest unsigned"},
        counterpart="InfluxDB",
        able=frozenset({"network", "credentials"}),
        names=False,  # line breaks, and a backslash at the end
    ),
    *(
        Provider(
            "influxdb",
            f"influxdb, stand-in for {version}",
            functools.partial(imitated, version),
            refuses=_REFUSED,
            counterpart=f"a stand-in for InfluxDB {version}",
            able=frozenset({"network", "credentials", "certificates"}),
            names=False,
            largest=2 * 1024**2,
        )
        for version in ("2.x", "3.x")
    ),
    *(_REAL_2 if asked_for_influx2() else []),
]
