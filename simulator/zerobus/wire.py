"""Protobuf messages of the two RPCs, built at import from their field numbers (no generated code).

``EphemeralStream`` speaks proto2 ``databricks.zerobus``; Arrow Flight speaks ``arrow.flight.protocol``. Only the fields
that the emulator reads or writes are declared; others are skipped as unknown fields.
"""

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
INT32: Final = _Field.TYPE_INT32
INT64: Final = _Field.TYPE_INT64
STRING: Final = _Field.TYPE_STRING
BYTES: Final = _Field.TYPE_BYTES

EPHEMERAL_STREAM_SERVICE: Final = "databricks.zerobus.Zerobus"
EPHEMERAL_STREAM_METHOD: Final = "EphemeralStream"
FLIGHT_SERVICE: Final = "arrow.flight.protocol.FlightService"
DO_PUT_METHOD: Final = "DoPut"

RECORD_TYPE_PROTO: Final = 1
RECORD_TYPE_JSON: Final = 2


def _message(
    file: descriptor_pb2.FileDescriptorProto, name: str, *fields: tuple[str, int, Any], oneof: str | None = None
) -> None:
    """Add a message; a field's type is a scalar type, the name of a message, or a one-element list of either."""
    message = file.message_type.add(name=name)
    if oneof:
        message.oneof_decl.add(name=oneof)
    for field_name, number, kind in fields:
        repeated = isinstance(kind, list)
        scalar_or_name = kind[0] if repeated else kind
        field = message.field.add(
            name=field_name, number=number, label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
        )
        if isinstance(scalar_or_name, str):
            field.type = _Field.TYPE_MESSAGE
            field.type_name = scalar_or_name if scalar_or_name.startswith(".") else f".{file.package}.{scalar_or_name}"
        else:
            field.type = scalar_or_name
        if oneof:
            field.oneof_index = 0


def _classes() -> dict[str, Any]:
    zerobus = descriptor_pb2.FileDescriptorProto(
        name="databricks/zerobus.proto",
        package="databricks.zerobus",
        syntax="proto2",
        dependency=["google/protobuf/duration.proto"],
    )
    _message(
        zerobus,
        "CreateIngestStreamRequest",
        ("table_name", 1, STRING),
        ("descriptor_proto", 3, BYTES),
        ("record_type", 4, INT32),
        ("avro_schema", 5, STRING),
    )
    _message(
        zerobus,
        "IngestRecordRequest",
        ("offset_id", 1, INT64),
        ("proto_encoded_record", 2, BYTES),
        ("json_record", 3, BYTES),
        ("avro_record", 4, BYTES),
    )
    _message(zerobus, "RecordBatch", ("records", 1, [BYTES]))
    _message(
        zerobus,
        "IngestRecordBatchRequest",
        ("offset_id", 1, INT64),
        ("proto_encoded_batch", 2, "RecordBatch"),
        ("json_batch", 3, "RecordBatch"),
        ("avro_batch", 4, "RecordBatch"),
    )
    _message(
        zerobus,
        "EphemeralStreamRequest",
        ("create_stream", 1, "CreateIngestStreamRequest"),
        ("ingest_record", 2, "IngestRecordRequest"),
        ("ingest_record_batch", 3, "IngestRecordBatchRequest"),
        oneof="payload",
    )
    _message(zerobus, "CreateIngestStreamResponse", ("stream_id", 1, STRING))
    _message(zerobus, "IngestRecordResponse", ("durability_ack_up_to_offset", 1, INT64))
    _message(zerobus, "CloseStreamSignal", ("duration", 1, ".google.protobuf.Duration"))
    _message(
        zerobus,
        "EphemeralStreamResponse",
        ("create_stream_response", 1, "CreateIngestStreamResponse"),
        ("ingest_record_response", 2, "IngestRecordResponse"),
        ("close_stream_signal", 3, "CloseStreamSignal"),
        oneof="payload",
    )
    flight = descriptor_pb2.FileDescriptorProto(
        name="arrow/flight.proto", package="arrow.flight.protocol", syntax="proto3"
    )
    _message(flight, "FlightData", ("data_header", 2, BYTES), ("app_metadata", 3, BYTES), ("data_body", 1000, BYTES))
    _message(flight, "PutResult", ("app_metadata", 1, BYTES))
    rpc = descriptor_pb2.FileDescriptorProto(name="google/rpc.proto", package="google.rpc", syntax="proto3")
    _message(rpc, "Any", ("type_url", 1, STRING), ("value", 2, BYTES))
    _message(rpc, "Status", ("code", 1, INT32), ("message", 2, STRING), ("details", 3, ["Any"]))
    _message(rpc, "Entry", ("key", 1, STRING), ("value", 2, STRING))
    _message(rpc, "ErrorInfo", ("reason", 1, STRING), ("domain", 2, STRING), ("metadata", 3, ["Entry"]))

    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(duration_pb2.DESCRIPTOR.serialized_pb)
    classes: dict[str, Any] = {}
    for file in (zerobus, flight, rpc):
        pool.Add(file)
        for message in file.message_type:
            full_name = f"{file.package}.{message.name}"
            classes[message.name if file is not rpc else f"Rpc{message.name}"] = message_factory.GetMessageClass(
                pool.FindMessageTypeByName(full_name)
            )
    return classes


_CLASSES: Final = _classes()
EphemeralStreamRequest: Final[Any] = _CLASSES["EphemeralStreamRequest"]
EphemeralStreamResponse: Final[Any] = _CLASSES["EphemeralStreamResponse"]
FlightData: Final[Any] = _CLASSES["FlightData"]
PutResult: Final[Any] = _CLASSES["PutResult"]


def error_details(code: int, message: str, reason: str, metadata: dict[str, str]) -> bytes:
    """A ``google.rpc.Status`` with one ``ErrorInfo``, as the trailer ``grpc-status-details-bin`` carries it."""
    info = _CLASSES["RpcErrorInfo"](reason=reason, domain="zerobus.databricks.com")
    for key, value in metadata.items():
        info.metadata.add(key=key, value=value)
    status = _CLASSES["RpcStatus"](code=code, message=message)
    status.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=info.SerializeToString())
    return bytes(status.SerializeToString())
