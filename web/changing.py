"""Changing a gateway's configuration by the API: the desk's answers in the API's words."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, Field

from config import edit
from config.desk import ConfigDesk, OutdatedError, UnknownNumberError
from config.edit import EditError
from config.history import texts_of
from config.models import Configuration
from config.shown import told
from flows.change import ChangeRefusedError
from web.errors import ApiError

if TYPE_CHECKING:
    from config.desk import Applied


Plain = dict[str, Any]


class Changeable(Protocol):
    """A gateway whose configuration is changed."""

    config: Configuration
    desk: ConfigDesk | None


class Change(BaseModel):
    """What differs in one part of a configuration."""

    kind: str = Field(description="gateway, source, target or rule")
    name: str
    what: str = Field(description="added, removed or changed")
    place: str = Field(description="where it stands in the files; empty where it does not")
    keys: dict[str, dict[str, str]] = Field(description="what each key said before and says now")


class AppliedChange(BaseModel):
    """A change that was made."""

    gateway: str = Field(description="name of the gateway")
    number: int | None = Field(description="number of the configuration in the history")
    base: str = Field(description="tells the files as they are now from others")
    changes: list[Change]
    next_start: list[str] = Field(description="what of it holds from the gateway's next start on")
    took: float = Field(description="seconds")


def desk_of(gateway: Changeable) -> ConfigDesk:
    """Where the configuration is changed.

    Raises:
        ApiError: It came from no file.
    """
    if gateway.desk is None:
        raise ApiError(409, "the configuration of this gateway came from no file: there is nothing to change it in")
    return gateway.desk


def applied(desk: ConfigDesk, done: "Applied") -> AppliedChange:
    """A change that was made, as it is answered."""
    return AppliedChange(
        gateway=desk.gateway,
        number=done.number,
        base=desk.current().base,
        changes=[Change(**told(one, {})) for one in done.changes],
        next_start=list(done.next_start),
        took=round(done.took, 3),
    )


@contextmanager
def worded() -> Iterator[None]:
    """Says in the API's words why a change was not made."""
    try:
        yield
    except OutdatedError as error:
        raise ApiError(409, str(error)) from error
    except ChangeRefusedError as error:
        raise ApiError(409, str(error)) from error
    except UnknownNumberError as error:
        raise ApiError(404, str(error)) from error
    except EditError as error:
        raise ApiError(422, str(error)) from error


def edited(
    desk: ConfigDesk, edit: Callable[[Mapping[str, str]], dict[str, str]], base: str | None = None
) -> AppliedChange:
    """Edit the files and apply them; whoever changes them in between is not overwritten.

    Args:
        desk: The desk.
        edit: Gives the files as they should be for those that are there.
        base: What the caller's look at the files was told by; the present ones when None.
    """
    with worded():
        before = desk.current()
        done = desk.apply(edit(before.files), base or before.base)
    return applied(desk, done)


class Written:
    """The sources and targets as they are written, read again only when the files have changed: that takes a while.

    Args:
        gateway: Whose.
    """

    def __init__(self, gateway: Changeable) -> None:
        self._gateway = gateway
        self._lock = threading.Lock()
        self._texts: dict[str, str] | None = None
        self._sources: dict[str, Plain] = {}
        self._targets: dict[str, Plain] = {}

    def sources(self) -> dict[str, Plain]:
        """The sources by name; none where the configuration came from no file, or a file is no YAML at the moment."""
        with self._lock:
            self._look()
            return self._sources

    def targets(self) -> dict[str, Plain]:
        """The targets by name, likewise."""
        with self._lock:
            self._look()
            return self._targets

    def _look(self) -> None:
        desk = self._gateway.desk
        texts = {} if desk is None else texts_of(desk.path)
        if texts == self._texts:
            return
        self._texts = texts
        try:
            self._sources, self._targets = edit.sources(texts), edit.targets(texts)
        except edit.EditError:  # somebody is writing them by hand
            self._sources, self._targets = {}, {}
