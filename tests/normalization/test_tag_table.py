import sys
import threading

import numpy as np
import pytest

from normalization.reading import Tag, TagTable


@pytest.fixture
def impatient() -> object:
    """Threads take turns as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_sources_are_counted_while_other_threads_add_some(impatient: None) -> None:
    table, ended = TagTable(), threading.Event()
    wrong: list[object] = []

    def count() -> None:
        while not ended.is_set():
            size = len(table)
            try:
                counts = table.count_sources(np.arange(size))
                arrays = table.arrays()
            except (RuntimeError, IndexError) as error:
                wrong.append(error)
                return
            if sum(counts.values()) != size or len({len(array) for array in arrays.values()}) != 1:
                wrong.append(counts)

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(2000):
        table.intern(Tag(f"source{n}", "mqtt", "device", f"a{n}", f"tag{n}"))
    ended.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert table.count_sources(np.array([0, 1999, 1999])) == {"source0": 1, "source1999": 2}
