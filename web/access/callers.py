"""What a route asks of the request that the guard let in."""

from typing import Annotated

from fastapi import Depends, Request

from web.access.gate import Caller, Gate


def _caller(request: Request) -> Caller | None:
    found: Caller | None = getattr(request.state, "caller", None)
    return found


def _gate(request: Request) -> Gate:
    found: Gate = request.state.gate
    return found


def _address(request: Request) -> str:
    return str(request.state.address)


MaybeCaller = Annotated[Caller | None, Depends(_caller)]
TheGate = Annotated[Gate, Depends(_gate)]
Address = Annotated[str, Depends(_address)]
