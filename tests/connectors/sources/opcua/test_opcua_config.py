"""What an OPC UA source can be told, and names of nodes."""

import subprocess
import sys
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors.sources.opcua import OpcUaConfig
from connectors.sources.opcua.names import PathFilter, format_node_id, parse_node_id


def config(**more):
    return OpcUaConfig.model_validate({"name": "plant", "endpoint": "opc.tcp://10.1.1.100:4840", **more})


def test_an_endpoint_is_enough_and_browses_everything():
    browsing = config().browsing
    assert browsing is not None
    assert (browsing.roots, browsing.include) == (["i=85"], ["**"])
    assert config(nodes=["i=2258"]).browsing is None


def test_nodes_are_ids_or_mappings():
    nodes = config(nodes=["ns=2;s=A", {"id": "nsu=http://x;i=1", "interval": "100ms", "unit": "bar"}]).nodes
    assert [(node.id, node.interval, node.unit) for node in nodes] == [
        ("ns=2;s=A", None, None),
        ("nsu=http://x;i=1", 0.1, "bar"),
    ]


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"endpoint": "http://x"}, "is not the URL"),
        ({"endpoint": "opc.tcp://user:secret@x"}, "credentials"),
        ({"nodes": ["2;s=A"]}, "is not a node id"),
        ({"browse": {"roots": ["Objects"]}}, "is not a node id"),
        ({"browse": {"include": ["[z-a]"]}}, "is not a pattern"),
        ({"password": "x"}, "without `username`"),
        ({"security_mode": "sign"}, "needs a `security_policy"),
        ({"trust": "everyone"}, "folder"),
        ({"publishing_interval": "0s"}, "greater than 0"),
        ({"publish_interval": 1}, "publish_interval"),
    ],
)
def test_what_is_wrong_is_said(given_, said):
    with pytest.raises(ValidationError, match=said) as caught:
        config(**given_)
    assert "secret" not in said
    assert caught.value.error_count() == 1


def test_secrets_are_not_shown():
    assert "geheim" not in repr(config(username="u", password="geheim"))


def test_a_config_is_checked_without_the_client_library():
    code = "import sys, connectors.sources.opcua as o; o.OpcUaConfig(name='a', endpoint='opc.tcp://x'); assert 'asyncua' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


names = st.one_of(
    st.integers(0, 2**32 - 1),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
    st.uuids(),
    st.binary(min_size=1, max_size=20),
)


@given(st.one_of(st.integers(0, 65535), st.from_regex(r"[a-z:/.;%]{1,20}", fullmatch=True)), names)
def test_node_ids_come_back_from_their_text(namespace, identifier):
    if isinstance(identifier, str) and identifier != identifier.strip():
        identifier = identifier.strip() or "x"
    parsed = parse_node_id(format_node_id(namespace, identifier))
    assert (parsed.namespace, parsed.identifier) == (namespace, identifier)


@pytest.mark.parametrize(
    "text", ["", "ns=2", "s=", "i=-1", "i=4294967296", "g=1", "b=%", "ns=x;i=1", "nsu=;i=1", "x=1"]
)
def test_what_is_no_node_id_is_refused(text):
    with pytest.raises(ValueError, match="is not a node id"):
        parse_node_id(text)


def test_node_ids_of_all_kinds():
    assert parse_node_id("ns=3;s=a;b=c").identifier == "a;b=c"
    guid = uuid.uuid4()
    assert parse_node_id(f"g={guid}") == (0, "g", guid)


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("**", "A/B/C", True),
        ("*", "A", True),
        ("*", "A/B", False),
        ("A/*/C", "A/B/C", True),
        ("A/*/C", "A/B/B/C", False),
        ("A/**/C", "A/B/B/C", True),
        ("A/**/C", "A/C", True),
        ("**/C", "C", True),
        ("**/C", "A/BC", False),
        ("A/**", "A", False),
        ("Line[12]/T?", "Line2/T1", True),
        ("Line[!12]/T?", "Line2/T1", False),
        ("a.b", "axb", False),
        ("[[]x", "[x", True),
    ],
)
def test_patterns(glob, path, matches):
    assert PathFilter([glob], []).selects(path) is matches
    assert PathFilter(["**"], [glob]).selects(path) is not matches
