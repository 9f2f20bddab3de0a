"""A listener in a thread that takes connections and says nothing."""

import contextlib
import socket
import threading


class SilentListener:
    """Listens on a free port until the end of the block.

    Attributes:
        port: Where.
        taken: Connections so far.
        open: Connections that are open now.
    """

    def __enter__(self) -> "SilentListener":
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.taken = self.open = 0
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.taken += 1
                self.open += 1
                with connection, contextlib.suppress(OSError):
                    while connection.recv(65536):
                        pass
                self.open -= 1
