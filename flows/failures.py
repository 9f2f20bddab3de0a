"""What fails in a step, told before Bytewax ends the flow: in a cluster it says only that the connections have gone."""

from collections.abc import Callable, Iterable
from typing import Any

from bytewax.operators import StatefulBatchLogic
from typing_extensions import override

Tell = Callable[[str, BaseException], None]


def tell_failures(flow: Any, tell: Tell) -> None:
    """Have every step of a flow tell when it fails; it fails all the same.

    Args:
        flow: The flow, or a step with others inside.
        tell: Is given the step's id and the exception.
    """
    for step in flow.substeps:
        tell_failures(step, tell)
        if step.substeps:
            continue
        for name, watched in (("mapper", _watched_list), ("predicate", _watched), ("builder", _watched_logic)):
            if hasattr(step, name):
                object.__setattr__(step, name, watched(getattr(step, name), step.step_id, tell))  # a frozen dataclass


def _watched(call: Callable[..., Any], step: str, tell: Tell) -> Callable[..., Any]:
    def watched(*arguments: Any) -> Any:
        try:
            return call(*arguments)
        except BaseException as error:
            tell(step, error)
            raise

    return watched


def _watched_list(call: Callable[..., Iterable[Any]], step: str, tell: Tell) -> Callable[..., list[Any]]:
    return _watched(lambda *arguments: list(call(*arguments)), step, tell)  # what it makes, it makes here


def _watched_logic(build: Callable[..., Any], step: str, tell: Tell) -> Callable[..., Any]:
    return _watched(lambda *state: _WatchedLogic(build(*state), step, tell), step, tell)


class _WatchedLogic(StatefulBatchLogic[Any, Any, Any]):
    def __init__(self, logic: StatefulBatchLogic[Any, Any, Any], step: str, tell: Tell) -> None:
        def made(call: Callable[..., tuple[Iterable[Any], bool]]) -> Callable[..., tuple[list[Any], bool]]:
            def listed(*arguments: Any) -> tuple[list[Any], bool]:
                items, discards = call(*arguments)
                return list(items), discards

            return _watched(listed, step, tell)

        self._batch, self._notify, self._eof = made(logic.on_batch), made(logic.on_notify), made(logic.on_eof)
        self._notify_at, self._snapshot = (_watched(call, step, tell) for call in (logic.notify_at, logic.snapshot))

    @override
    def on_batch(self, values: list[Any]) -> tuple[Iterable[Any], bool]:
        return self._batch(values)

    @override
    def on_notify(self) -> tuple[Iterable[Any], bool]:
        return self._notify()

    @override
    def on_eof(self) -> tuple[Iterable[Any], bool]:
        return self._eof()

    @override
    def notify_at(self) -> Any:
        return self._notify_at()

    @override
    def snapshot(self) -> Any:
        return self._snapshot()
