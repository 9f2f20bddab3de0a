"""A serial line as an asyncio transport, by termios: raw, exclusive, and never waiting."""

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from dataclasses import dataclass
from typing import Final, Literal

from typing_extensions import override

_CHUNK: Final = 1024
_SIZES: Final = {7: termios.CS7, 8: termios.CS8}
_PSEUDO_TERMINALS: Final = range(136, 144)  # major numbers of Linux
_TIOCSRS485: Final = 0x542F  # Linux
_RS485_ENABLED: Final = 1
_RS485_RTS_ON_SEND: Final = 2
_RS485_RTS_AFTER_SEND: Final = 4


@dataclass(frozen=True, slots=True)
class SerialFormat:
    """How characters travel.

    Attributes:
        baud_rate: Bits per second.
        parity: Parity bit.
        stop_bits: Stop bits.
        data_bits: Bits of a character.
        rs485: Who switches the sender on: `none`, or the driver by RTS that is high or low while it sends.
        rts_delay: Seconds that RTS leads and follows a frame.
    """

    baud_rate: int = 19200
    parity: Literal["none", "even", "odd"] = "even"
    stop_bits: Literal[1, 2] = 1
    data_bits: Literal[7, 8] = 8
    rs485: Literal["none", "rts_high", "rts_low"] = "none"
    rts_delay: float = 0.0

    @property
    def character(self) -> float:
        """Seconds that a character takes."""
        bits = 1 + self.data_bits + (self.parity != "none") + self.stop_bits
        return bits / self.baud_rate

    @property
    def silence(self) -> float:
        """Seconds of silence between two RTU frames: 3.5 characters, above 19,200 Bd 1.75 ms."""
        return 0.00175 if self.baud_rate > 19200 else 3.5 * self.character


class SerialTransport(asyncio.Transport):
    """A serial line for a protocol that takes `data_received` and `connection_lost`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, fd: int) -> None:
        super().__init__()
        self._loop, self._protocol, self._fd = loop, protocol, fd
        self._waiting = b""
        loop.add_reader(fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(error)
            return
        if data:
            self._protocol.data_received(data)
        else:
            self._lose(None)

    @override
    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._fd < 0:
            return
        self._waiting += bytes(data)
        self._send()

    def _send(self) -> None:
        try:
            sent = os.write(self._fd, self._waiting)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._lose(error)
            return
        self._waiting = self._waiting[sent:]
        if self._waiting:
            self._loop.add_writer(self._fd, self._send)
        else:
            self._loop.remove_writer(self._fd)

    def _lose(self, error: OSError | None) -> None:
        self.abort()
        self._loop.call_soon(self._protocol.connection_lost, error)

    @override
    def close(self) -> None:
        self.abort()

    @override
    def abort(self) -> None:
        """Let the line go at once; the protocol hears nothing of it."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1

    @override
    def is_closing(self) -> bool:
        return self._fd < 0


def open_serial(
    loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol, path: str, line: SerialFormat
) -> SerialTransport:
    """Open a line; what lies in its buffers is dropped.

    Raises:
        OSError: The line cannot be opened, is in use, or cannot be set as asked for.
    """
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two masters on one line would answer each other
        _set(fd, line)
        if line.rs485 != "none":
            _set_rs485(fd, line)
        termios.tcflush(fd, termios.TCIOFLUSH)
    except BlockingIOError as error:
        os.close(fd)
        raise OSError(error.errno, "the line is in use by another process or source") from error
    except termios.error as error:
        os.close(fd)
        raise OSError(error.args[0], f"it is no serial line: {error.args[-1]}") from error
    except OSError:
        os.close(fd)
        raise
    return SerialTransport(loop, protocol, fd)


def _set(fd: int, line: SerialFormat) -> None:
    speed = getattr(termios, f"B{line.baud_rate}", None)
    if speed is None:
        raise OSError(0, f"{line.baud_rate} Bd is no speed of this system")
    control = termios.CREAD | termios.CLOCAL | _SIZES[line.data_bits]
    control |= termios.CSTOPB if line.stop_bits == 2 else 0
    if line.parity != "none":
        control |= termios.PARENB | (termios.PARODD if line.parity == "odd" else 0)
    check = termios.INPCK if line.parity != "none" else 0
    special = termios.tcgetattr(fd)[6]
    special[termios.VMIN], special[termios.VTIME] = b"\0", b"\0"
    with contextlib.suppress(termios.error):  # what the line has taken is looked at
        termios.tcsetattr(fd, termios.TCSADRAIN, [check, 0, control, 0, speed, speed, special])
    taken = termios.tcgetattr(fd)
    frame = termios.CSIZE | termios.CSTOPB | termios.PARENB | termios.PARODD
    virtual = os.major(os.fstat(fd).st_rdev) in _PSEUDO_TERMINALS  # there are no bits that parity could be of
    if taken[4:6] != [speed, speed] or (taken[2] & frame != control & frame and not virtual):
        raise OSError(0, f"the line does not take {line.baud_rate} Bd, {line.data_bits} bits, parity {line.parity}")


def _set_rs485(fd: int, line: SerialFormat) -> None:
    on_send = line.rs485 == "rts_high"
    flags = _RS485_ENABLED | (_RS485_RTS_ON_SEND if on_send else _RS485_RTS_AFTER_SEND)
    delay = round(line.rts_delay * 1000)
    try:
        fcntl.ioctl(fd, _TIOCSRS485, struct.pack("8I", flags, delay, delay, 0, 0, 0, 0, 0))
    except OSError as error:
        raise OSError(error.errno, f"its driver cannot switch RS-485: {error.strerror}") from error
