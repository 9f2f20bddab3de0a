from collections.abc import Iterator

import pytest

from tests.connectors.targets.zerobus_emulator import Emulator, no_proxy


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with no_proxy():
        emulator = Emulator(tmp_path_factory.mktemp("zerobus"))
        yield emulator
        emulator.kill()


@pytest.fixture
def emulator(shared: Emulator) -> Iterator[Emulator]:
    yield shared
    shared.call("DELETE", "/admin/faults")
