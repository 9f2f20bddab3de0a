"""How the settings of InfluxDB are read, and what is asked of a server."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from connectors.contract import Context
from connectors.targets.influxdb import InfluxConfig
from connectors.targets.influxdb.server import credentials, write_target
from normalization.reading import ValueType

SEED = Path(__file__).parents[2] / "seeds" / "cloud_influxdb.yaml"
VERSION_2 = {"organization": "plant 1", "bucket": "b&b", "token": "t"}


def read(endpoint: str | None = None, **own: Any) -> InfluxConfig:
    settings = {"provider_config": own} | ({"endpoint": endpoint} if endpoint else {})
    return InfluxConfig.model_validate(settings)


def test_the_seeds_example_is_an_influxdb_1() -> None:
    config = InfluxConfig.model_validate(yaml.safe_load(SEED.read_text("utf-8"))["influxdb"])
    own = config.provider_config
    assert (config.address, own.version, own.measurement) == ("http://localhost:8086", "1.x", "industrial_data")
    assert write_target(config) == "/write?precision=ns&db=bifrost&rp=autogen"
    assert config.writer(Context("g", Path())).limits.rows == 1000
    assert "password" not in repr(own).replace("password=", "")


@pytest.mark.parametrize(
    ("own", "target"),
    [
        ({"version": "1.x", "database": "d", "precision": "us", "consistency": "quorum"}, "/write?precision=u&db=d&consistency=quorum"),
        (VERSION_2, "/api/v2/write?precision=ns&org=plant+1&bucket=b%26b"),
        (
            {"version": "3.x", "database": "d", "precision": "s"},
            "/api/v3/write_lp?precision=second&db=d&accept_partial=true&no_sync=false",
        ),
        ({"version": "victoriametrics"}, "/write?precision=ns"),
    ],
)  # fmt: skip
def test_each_version_is_written_to_at_its_own_place(own: dict[str, Any], target: str) -> None:
    assert write_target(read(**own)) == target


def test_each_version_is_told_who_asks_in_its_own_way() -> None:
    assert credentials(read(**VERSION_2)) == {"Authorization": "Token t"}
    assert credentials(read(version="3.x", database="d", token="t")) == {"Authorization": "Bearer t"}
    assert credentials(read(version="1.x", database="d", username="Aladdin", password="open sesame")) == {
        "Authorization": "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    }
    assert credentials(read(version="victoriametrics")) == {}


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({}, "`organization`, `bucket`, `token` needed with version 2.x"),
        ({"version": "1.x"}, "`database` needed with version 1.x"),
        ({**VERSION_2, "retention_policy": "x"}, "`retention_policy` goes with version 1.x, not 2.x"),
        ({"version": "3.x", "database": "d", "username": "u"}, "`username` goes with version 1.x or victoriametrics, not 3.x"),
        ({"version": "victoriametrics", "fields": ["properties"]}, "cannot be fields"),
        ({**VERSION_2, "tags": ["pth"]}, "cannot be tags"),
        ({**VERSION_2, "url": "influx:8086"}, "write http://<host>:8086"),
        ({**VERSION_2, "url": "http://user:secret@influx:8086"}, "settings of their own"),
        ({**VERSION_2, "url": "http://influx:8086/?db=x"}, "settings of their own"),
        ({**VERSION_2, "url": "http://influx:port"}, "is not a URL"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_an_error(own: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(**own)
    assert words in str(caught.value)


def test_the_url_wins_over_the_endpoint() -> None:
    assert read("https://a:1/influx/", **VERSION_2).address == "https://a:1/influx"
    assert read("https://a:1", **VERSION_2, url="http://b:2").address == "http://b:2"
    assert read(**VERSION_2).address == "http://localhost:8086"


def test_what_a_server_cannot_say_decides_the_format() -> None:
    one = read(version="1.x", database="d").provider_config.line_format
    two = read(**VERSION_2).provider_config.line_format
    numbers = read(version="victoriametrics").provider_config.line_format
    assert (one.unsigned, two.unsigned) == (False, True)
    assert (one.spread, two.spread, numbers.spread) == (True, True, False)
    assert (two.numbers, numbers.numbers) == (False, True)
    assert not read(**VERSION_2, same_time="overwrite").provider_config.line_format.spread
    assert two.values[ValueType.DOUBLE] == "value"


def test_a_target_with_a_key_says_so_and_victoriametrics_has_none() -> None:
    context = Context("g", Path())
    assert read(**VERSION_2).writer(context).limits.has_key
    assert not read(version="victoriametrics").writer(context).limits.has_key
