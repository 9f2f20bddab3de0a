"""A gateway goes on where one of an earlier version was killed: stores, Bytewax's recovery store and all."""

import tarfile
from pathlib import Path

import pytest
from numbered import read
from running import HERE, WAYS, acknowledged, check_account, missing, raw, recovery, repeated, running, settle

ARCHIVES = sorted(HERE.glob("gateway_*.tar.xz"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def test_nothing_that_an_earlier_version_acknowledged_is_lost_or_gets_another_identity(
    tmp_path: Path, archive: Path, way: str
) -> None:
    with tarfile.open(archive) as files:
        files.extractall(tmp_path, filter="data")
    before = acknowledged(tmp_path)
    assert all(newest > 50 for newest in before.values())
    assert missing(tmp_path, "second", before), "it was to get what waits"
    assert recovery(tmp_path).is_dir()
    with running(tmp_path, way=way) as gateway:
        gateway.opened().deliver(100)
        gateway.stop()
    settle(tmp_path, way=way)
    after = acknowledged(tmp_path)
    assert all(after[protocol] > before[protocol] for protocol in before), "sources go on"
    for target in ("first", "second"):
        assert missing(tmp_path, target, after) == {}
        again = repeated(tmp_path, target)
        assert again <= (100 if target == "first" else 0), "only what was on its way when the earlier one was killed"
    assert {protocol for protocol, *_ in raw(read(tmp_path / "second.jsonl"))} == set(before)
    check_account(tmp_path)
