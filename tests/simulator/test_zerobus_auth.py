"""The token endpoint of the emulator: what a request must say, what a token is good for."""

import base64
import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from simulator.zerobus.auth import Authority, OAuthError
from simulator.zerobus.errors import Refused

TABLE = "main.plant.readings"
RESOURCE = "api://databricks/workspaces/127/zerobusDirectWriteApi"


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def details(**left_out: str) -> list[dict[str, Any]]:
    """What the official SDK asks for, without one privilege of a kind of securable."""
    asked = (("CATALOG", "main", ["USE CATALOG"]), ("SCHEMA", "main.plant", ["USE SCHEMA"]))
    return [
        {
            "type": "unity_catalog_privileges",
            "object_type": kind,
            "object_full_path": name,
            "privileges": [p for p in privileges if p != left_out.get(kind)],
        }
        for kind, name, privileges in (*asked, ("TABLE", TABLE, ["SELECT", "MODIFY"]))
    ]


def form(**changes: Any) -> dict[str, str]:
    whole = {
        "grant_type": "client_credentials",
        "scope": "all-apis",
        "resource": RESOURCE,
        "authorization_details": json.dumps(details()),
    }
    return whole | changes


@pytest.fixture
def clock() -> list[float]:
    return [1_000.0]


@pytest.fixture
def authority(tmp_path: Path, clock: list[float]) -> Authority:
    return Authority(tmp_path / "key", {"app": "secret"}, workspace="127", now=lambda: clock[0])


def bearer(authority: Authority, **changes: Any) -> str:
    return "Bearer " + str(authority.mint(basic("app:secret"), form(**changes))["access_token"])


def test_the_answer_is_a_bearer_token_with_its_life(authority: Authority) -> None:
    answer = authority.mint(basic("app:secret"), form())
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 3600)
    assert set(answer) == {"access_token", "token_type", "expires_in", "scope"}


@pytest.mark.parametrize(
    ("authorization", "changes", "status", "error"),
    [
        (basic("app:wrong"), {}, 401, "invalid_client"),
        (basic("nobody:secret"), {}, 401, "invalid_client"),
        ("Bearer x", {}, 401, "invalid_client"),
        ("", {}, 401, "invalid_client"),
        (basic("app:secret"), {"grant_type": "password"}, 400, "unsupported_grant_type"),
        (basic("app:secret"), {"scope": "sql"}, 400, "invalid_scope"),
        (basic("app:secret"), {"resource": ""}, 400, "invalid_target"),
        (basic("app:secret"), {"resource": RESOURCE.replace("127", "128")}, 400, "invalid_target"),
        *(
            (basic("app:secret"), {"authorization_details": text}, 400, "invalid_authorization_details")
            for text in ("not JSON", "5", "[{}]", json.dumps(details()[:2]), json.dumps(details(TABLE="MODIFY")))
        ),
    ],
)
def test_a_request_that_is_not_as_the_service_wants_it_is_refused(
    authority: Authority, authorization: str, changes: dict[str, str], status: int, error: str
) -> None:
    with pytest.raises(OAuthError) as refused:
        authority.mint(authorization, form(**changes))
    assert (refused.value.status, refused.value.error) == (status, error)


@pytest.mark.parametrize(
    ("securable", "privilege"),
    [("main", "USE CATALOG"), ("main.plant", "USE SCHEMA"), (TABLE, "SELECT"), (TABLE, "MODIFY")],
)
def test_a_privilege_that_the_client_lacks_is_named(authority: Authority, securable: str, privilege: str) -> None:
    authority.grants.revoked.add(("app", securable, privilege))
    with pytest.raises(OAuthError, match=f"app lacks {privilege} on [A-Z]+ {securable}$"):
        authority.mint(basic("app:secret"), form())


def test_a_token_is_good_for_its_table_and_its_time(authority: Authority, clock: list[float]) -> None:
    token = bearer(authority)
    claims = authority.verify(token)
    authority.check_write(claims, TABLE)
    with pytest.raises(Refused, match="not main.plant.other") as refused:
        authority.check_write(claims, "main.plant.other")
    assert refused.value.status is grpc.StatusCode.PERMISSION_DENIED
    clock[0] += 3_600
    with pytest.raises(Refused, match="expired") as refused:
        authority.verify(token)
    assert refused.value.status is grpc.StatusCode.UNAUTHENTICATED


def test_a_token_of_the_workspace_alone_may_read_the_catalog_and_write_nothing(authority: Authority) -> None:
    claims = authority.verify(bearer(authority, authorization_details=""))
    with pytest.raises(Refused, match="for no table"):
        authority.check_write(claims, TABLE)


def test_a_token_is_still_good_after_a_restart_and_not_when_it_was_changed(
    authority: Authority, tmp_path: Path, clock: list[float]
) -> None:
    token = bearer(authority)
    again = Authority(tmp_path / "key", {"app": "secret"}, now=lambda: clock[0])
    assert again.verify(token).table == TABLE
    head, body, signature = token.split(".")
    padded = body + "=" * (-len(body) % 4)
    claims = json.loads(base64.urlsafe_b64decode(padded)) | {"table": "main.plant.other"}
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    with pytest.raises(Refused, match="not valid"):
        again.verify(f"{head}.{forged}.{signature}")


def test_the_key_is_for_its_owner_alone(authority: Authority, tmp_path: Path) -> None:
    assert authority.ttl > 0
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
