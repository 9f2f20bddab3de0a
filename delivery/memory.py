"""A log in memory, for targets whose readings need not survive the process: the same records, and no disk."""

import os
from pathlib import Path

from typing_extensions import override

from delivery.log import Log, Segment


class MemoryLog(Log):
    """A log whose segments are anonymous files; what it holds is gone with the process."""

    @override
    def _find(self) -> list[Segment]:
        return []

    @override
    def _create(self, path: Path) -> tuple[int, Path]:
        kept = os.memfd_create(path.name, os.MFD_CLOEXEC)
        return os.dup(kept), Path(f"/proc/self/fd/{kept}")

    @override
    def _remove(self, path: Path) -> None:
        os.close(int(path.name))

    @override
    def _sync_names(self) -> None:
        pass

    @override
    def _sync_file(self, fd: int) -> None:
        pass

    @override
    def _keep_reserve(self) -> None:
        pass

    @override
    def close(self) -> None:
        super().close()
        for segment in self._segments:
            self._remove(segment.path)
