"""Structures by type dictionary, as servers describe them that know no DataTypeDefinition."""

import json
import struct
from collections.abc import Iterator

import pytest
from asyncua import ua
from asyncua.common.type_dictionary_builder import DataTypeDictionaryBuilder
from hypothesis import given
from hypothesis import strategies as st

from connectors.sources.opcua.binary import EXTENSION_OBJECT, StructureField, Types, variant
from connectors.sources.opcua.typedict import parse
from tests.connectors.sources.opcua.conftest import MACHINE, PlantServer, Reading, source
from tests.ports import free_port

XML = b"""<?xml version="1.0" encoding="utf-8"?>
<opc:TypeDictionary xmlns:opc="http://opcfoundation.org/BinarySchema/" xmlns:ua="http://opcfoundation.org/UA/"
 xmlns:tns="http://plant.test/" TargetNamespace="http://plant.test/" DefaultByteOrder="LittleEndian">
 <!-- as a vendor writes it -->
 <opc:Import Namespace="http://opcfoundation.org/UA/"/>
 <opc:EnumeratedType Name="State" LengthInBits="32">
  <opc:EnumeratedValue Name="Off" Value="0"/><opc:EnumeratedValue Name="On" Value="7"/>
 </opc:EnumeratedType>
 <opc:StructuredType Name="Job" BaseType="ua:ExtensionObject">
  <opc:Field Name="Order" TypeName="opc:String"/>
  <opc:Field Name="At" TypeName="tns:Point"/>
  <opc:Field Name="NoOfPath" TypeName="opc:Int32"/>
  <opc:Field Name="Path" TypeName="tns:Point" LengthField="NoOfPath"/>
  <opc:Field Name="State" TypeName="tns:State"/>
  <opc:Field Name="Text" TypeName="ua:LocalizedText"/>
 </opc:StructuredType>
 <opc:StructuredType Name="Point" BaseType="ua:ExtensionObject">
  <opc:Field Name="X" TypeName="opc:Double"/><opc:Field Name="Y" TypeName="opc:Double"/>
 </opc:StructuredType>
 <opc:StructuredType Name="Optional" BaseType="ua:ExtensionObject">
  <opc:Field Name="ASpecified" TypeName="opc:Bit"/><opc:Field Name="BSpecified" TypeName="opc:Bit"/>
  <opc:Field Name="Reserved1" TypeName="opc:Bit" Length="30"/>
  <opc:Field Name="Always" TypeName="opc:Int16"/>
  <opc:Field Name="A" TypeName="opc:Int32" SwitchField="ASpecified"/>
  <opc:Field Name="B" TypeName="opc:Byte" SwitchField="BSpecified"/>
 </opc:StructuredType>
 <opc:StructuredType Name="Either" BaseType="ua:Union">
  <opc:Field Name="SwitchField" TypeName="opc:UInt32"/>
  <opc:Field Name="Number" TypeName="opc:Int32" SwitchField="SwitchField" SwitchValue="1"/>
  <opc:Field Name="Words" TypeName="opc:CharArray" SwitchField="SwitchField" SwitchValue="2"/>
 </opc:StructuredType>
 <opc:StructuredType Name="Odd"><opc:Field Name="Rest" TypeName="opc:Byte" Terminator="00"/></opc:StructuredType>
 <opc:StructuredType Name="OfOdd"><opc:Field Name="Odd" TypeName="tns:Odd"/></opc:StructuredType>
</opc:TypeDictionary>\0"""


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<i", len(raw)) + raw


def value_of(name: str, body: bytes) -> object:
    types = Types(structures={"ns=2;i=1": parse(XML).structures[name]})
    data = b"\x16\x01\x02\x01\x00\x01" + struct.pack("<i", len(body)) + body
    value, pos = variant(data, 0, types)
    assert (pos, types.problems) == (len(data), [])
    return value


@pytest.mark.parametrize(
    ("name", "body", "value"),
    [
        (
            "Job",
            text("A-1") + struct.pack("<ddi4di", 1, 2, 2, 3, 4, 5, 6, 7) + b"\x02" + text("läuft"),
            {
                "Order": "A-1",
                "At": {"X": 1, "Y": 2},
                "Path": [{"X": 3, "Y": 4}, {"X": 5, "Y": 6}],
                "State": 7,
                "Text": "läuft",
            },
        ),
        ("Optional", struct.pack("<Ihb", 2, -3, 9), {"Always": -3, "B": 9}),
        ("Optional", struct.pack("<Ihi", 1, -3, 9), {"Always": -3, "A": 9}),
        ("Either", struct.pack("<Ii", 1, 5), {"Number": 5}),
        ("Either", struct.pack("<I", 2) + text("x"), {"Words": "x"}),
    ],
)
def test_a_dictionary_says_how_a_structure_is_read(name: str, body: bytes, value: object) -> None:
    assert value_of(name, body) == value


def test_what_cannot_be_said_is_left_out_with_what_is_made_of_it() -> None:
    found = parse(XML)
    assert set(found.structures) == {"Job", "Point", "Optional", "Either"}
    assert found.enumerations == {"State": {0: "Off", 7: "On"}}
    point = found.structures["Point"]
    assert found.structures["Job"].fields[1] == StructureField("At", EXTENSION_OBJECT, point)


@pytest.mark.parametrize("wrong", [b"", b"<a", b"\xff", b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', b"x" * 17_000_000])
def test_what_is_no_dictionary_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="the dictionary is"):
        parse(wrong)


@given(st.binary(max_size=400), st.integers(0, len(XML)))
def test_any_bytes_are_a_dictionary_or_refused(raw: bytes, at: int) -> None:
    for data in (raw, XML[:at] + raw + XML[at:]):
        try:
            parse(data)
        except ValueError:
            continue


@pytest.fixture
def old_server() -> Iterator[PlantServer]:
    """A server with a structure that a type dictionary alone describes."""
    running = PlantServer(free_port()).start()
    running.call(_describe(running))
    yield running
    running.stop()


async def _describe(plant: PlantServer) -> None:
    server = plant.server
    index = await server.get_namespace_index(MACHINE)
    builder = DataTypeDictionaryBuilder(server, index, MACHINE, "Machine")
    await builder.init()
    made = await builder.create_data_type("Reach")
    made.add_field("Left", "Double")
    made.add_field("Steps", "Int32", is_array=True)
    await builder.set_dict_byte_string()
    (encoding,) = await server.get_node(made.data_type).get_referenced_nodes(ua.ObjectIds.HasEncoding)
    body = struct.pack("<diii", 1.5, 2, 3, 4)
    value = ua.ExtensionObject(TypeId=encoding.nodeid, Body=body)
    node = ua.NodeId("Reach", index)
    await server.nodes.objects.add_variable(
        node, f"{index}:Reach", value, ua.VariantType.ExtensionObject, made.data_type
    )


async def test_a_structure_that_a_dictionary_describes_is_read_by_name(old_server, tmp_path):
    async with Reading(source(old_server.endpoint, nodes=[f"nsu={MACHINE};s=Reach"]), tmp_path) as intake:
        await intake.until(lambda: intake.last("Reach"))
        assert json.loads(intake.last("Reach").value) == {"Left": 1.5, "Steps": [3, 4]}
