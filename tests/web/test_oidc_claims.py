"""Roles and names of the claims of an ID token, and what the configuration of a provider takes."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.loader import load
from config.oidc import OidcSection
from config.yaml_nodes import ProblemsError
from tests.web.served import write_config
from web.access.oidc.claims import OidcError, claim, identity, role_of, values_of
from web.access.roles import ROLES

VALUES = st.text(max_size=8)
MAPPINGS = st.dictionaries(VALUES, st.sampled_from(ROLES), max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def section(**more: Any) -> OidcSection:
    given = {"issuer": "https://login.plant.example", "client_id": "c", "public_url": "https://gateway.plant.example"}
    return OidcSection.model_validate({**given, "roles": {"ops": "operator"}, **more})


# ---------------------------------------------------------------------- roles


@given(st.lists(VALUES), MAPPINGS)
def test_a_role_is_the_highest_of_those_that_are_mapped_and_none_without_one(values: list[str], roles: Any) -> None:
    found = role_of(values, roles)
    mapped = [roles[value] for value in values if value in roles]
    assert (found is None) == (not mapped)
    assert found is None or (found in mapped and all(ROLES.index(found) >= ROLES.index(one) for one in mapped))


@given(st.lists(VALUES), st.lists(VALUES), MAPPINGS)
def test_more_values_never_take_a_role_away_and_their_order_is_nothing(
    values: list[str], more: list[str], roles: Any
) -> None:
    rank = {None: -1, **{role: number for number, role in enumerate(ROLES)}}
    assert rank[role_of([*values, *more], roles)] == max(rank[role_of(values, roles)], rank[role_of(more, roles)])
    mixed = random.Random(len(values)).sample(values, len(values))
    assert role_of(mixed, roles) == role_of(values, roles) == role_of(set(values), roles)


@given(st.lists(VALUES, min_size=1), MAPPINGS)
def test_a_value_that_is_almost_one_of_the_mapping_stands_for_nothing(values: list[str], roles: Any) -> None:
    near = {f"{value}{end}" for value in values for end in (" ", "\0", "x")} | {f" {value}" for value in values}
    assert role_of(near - set(roles), roles) is None


@given(JSON)
def test_whatever_stands_at_the_claim_only_texts_count(found: Any) -> None:
    values = values_of(found)
    assert all(isinstance(value, str) for value in values)
    if not isinstance(found, str | list):
        assert values == frozenset()


@given(st.just("olga") | JSON, st.just(["x", "ops"]) | JSON)
def test_any_claims_give_an_identity_of_the_mapping_or_a_refusal(name: Any, roles: Any) -> None:
    own = section()
    claims = {"preferred_username": name, "roles": roles, "sub": "s"}
    named = isinstance(name, str) and name.strip() != "" and name.isprintable()
    if named and (roles == "ops" or (isinstance(roles, list) and "ops" in roles)):
        who = identity(claims, own)
        assert (who.name, who.role, who.subject) == (f"oidc:{name.strip()}", "operator", "s")
    else:
        with pytest.raises(OidcError):
            identity(claims, own)


@pytest.mark.parametrize(
    ("claims", "path", "found"),
    [
        ({"roles": ["a"]}, "roles", ["a"]),
        ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", ["a"]),
        ({"resource_access": {"bifrost": {"roles": ["a"]}}}, "resource_access.bifrost.roles", ["a"]),
        ({"https://plant.example/roles": ["a"]}, "https://plant.example/roles", ["a"]),
        ({"a.b": 1, "a": {"b": 2}}, "a.b", 1),
        ({"a": ["b"]}, "a.b", None),
        ({"a": "b"}, "a.b.c", None),
        ({}, "roles", None),
    ],
)
def test_a_claim_is_found_by_its_name_or_by_its_path(claims: dict[str, Any], path: str, found: Any) -> None:
    assert claim(claims, path) == found


@pytest.mark.parametrize("name", [None, "", "  ", 7, ["olga"], "x" * 101, "ol\nga", "ol\u202ega", "ol\x00ga"])
def test_without_a_usable_name_nobody_gets_in(name: Any) -> None:
    with pytest.raises(OidcError, match=r"set web_ui\.oidc\.username_claim"):
        identity({"preferred_username": name, "roles": ["ops"]}, section())


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({}, "has no claim `roles`"),
        ({"roles": []}, "the claim `roles` says nothing"),
        ({"roles": ["Ops", "ops "]}, "the claim `roles` says `Ops`, `ops `, which stands for no role"),
        ({"roles": {"ops": True}}, "the claim `roles` says nothing"),
        ({"_claim_names": {"roles": "src1"}}, "has more `roles` than the provider puts into an ID token"),
    ],
)
def test_a_refusal_names_what_to_do(claims: dict[str, Any], words: str) -> None:
    with pytest.raises(OidcError) as caught:
        identity({"preferred_username": "olga", **claims}, section())
    assert words in str(caught.value)
    assert "`ops` (operator)" in str(caught.value) or "roles of the application" in str(caught.value)
    assert caught.value.name == "oidc:olga"


# ---------------------------------------------------------------------- the configuration

GOOD = {"issuer": "https://login.example", "client_id": "c", "public_url": "https://gw.example", "roles": "{a: admin}"}


def loaded(folder: Path, **changes: str) -> Any:
    lines = "".join(f"    {key}: {value}\n" for key, value in (GOOD | changes).items() if value != "-")
    return load(write_config(folder, 8080, f"web_ui:\n  oidc:\n{lines}"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"issuer": "http://login.example"}, "should begin with https"),
        ({"issuer": "https://u:p@login.example"}, "without login, query or fragment"),
        ({"issuer": "https://login.example/?x=1"}, "without login, query or fragment"),
        ({"issuer": "ftp://login.example"}, "should be a URL as"),
        ({"issuer": "https://login.example:x"}, "should be a URL as"),
        ({"issuer": "-"}, "is needed"),
        ({"public_url": "http://gw.example"}, "should begin with https"),
        ({"public_url": "gw.example"}, "should be a URL as"),
        ({"roles": "{}"}, "web_ui.oidc.roles"),
        ({"roles": "{a: root}"}, "should be 'viewer', 'operator' or 'admin', not `root`"),
        ({"scopes": "[profile]"}, "add `openid`"),
        ({"scopes": "['openid profile']"}, "web_ui.oidc.scopes.0"),
        ({"session_time": "2d"}, "web_ui.oidc.session_time"),
        ({"leeway": "1h"}, "web_ui.oidc.leeway"),
        ({"hosts": "['https://x']"}, "web_ui.oidc.hosts.0"),
        ({"client_secrets": "x"}, "did you mean `client_secret`?"),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    with pytest.raises(ProblemsError) as caught:
        loaded(tmp_path, **changes)
    assert words in str(caught.value)
    assert "web_ui.oidc" in str(caught.value)


def test_a_provider_on_this_machine_may_do_without_tls(tmp_path: Path) -> None:
    found = loaded(tmp_path, issuer="http://localhost:8090/realms/plant", public_url="http://127.0.0.1:8080/").web.oidc
    assert (found.public_url, found.secure, found.session_time) == ("http://127.0.0.1:8080", False, 8 * 3600)
