"""Configuration of Google Cloud Pub/Sub."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal

import pyarrow as pa
from pydantic import AfterValidator, Field, model_validator
from typing_extensions import override

from connectors.contract import Context, Writer
from connectors.dry_run import Written, refuse
from connectors.settings import Settings, Size, TargetConfig
from connectors.wire.messages import Template
from normalization.reading import TAG_COLUMNS

SERVICE: Final = "pubsub.googleapis.com:443"
MOST_BYTES: Final = 10_000_000  # of a message and of a request, as the service has it
MOST_MESSAGES: Final = 1_000  # in a request
_ENDPOINT = re.compile(r"(?:https?://)?(?:[A-Za-z0-9._\-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_TOPIC = re.compile(r"(?!goog)[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}")


def _endpoint(value: str) -> str:
    if not _ENDPOINT.fullmatch(value.strip().rstrip("/")):
        msg = f"is not the service's address; write a host such as europe-west1-{SERVICE}, or http://<host>:<port> of an emulator"
        raise ValueError(msg)
    return value.strip().rstrip("/")


def _template(value: str) -> str:
    Template(value)
    return value


def topic_fault(name: str) -> str:
    """What is wrong with the name of a topic; empty when nothing is."""
    if _TOPIC.fullmatch(name):
        return ""
    return (
        f"`{name[:300]}` cannot be the name of a topic: 3 to 255 letters, digits and `-_.~+%`, a letter first, and not goog in "
        "front"
    )


Endpoint = Annotated[str, AfterValidator(_endpoint)]
TemplateText = Annotated[str, AfterValidator(_template)]


class PubSubSettings(Settings):
    """What only a Pub/Sub target has."""

    project: str | None = Field(
        None, min_length=1, description="id of the project; that of the credentials when absent"
    )
    topic: TemplateText = Field(
        "readings",
        description="name of the topic, with columns of the tag in braces: plant-{site}; what a name cannot hold becomes `-`",
    )
    create: Literal["auto", "never"] = Field(
        "auto", description="`auto`: a topic that is missing is made; `never`: it is an error"
    )
    credentials_file: Path | None = Field(
        None,
        description="key file of a service account; the application default credentials when absent, which workload identity "
        "has too",
    )
    ca_file: Path | None = Field(
        None,
        description="PEM file of the authorities to trust, such as that of a proxy that looks into TLS; those of Google's library "
        "when absent",
    )
    ordering_key: TemplateText = Field(
        "{path}",
        description="messages of one key arrive in order, where the subscription asks for order; columns of the tag in braces, "
        "empty for no order",
    )
    attributes: list[str] = Field(
        ["path"], description="columns of the tag that become attributes, by which subscriptions can be filtered"
    )
    payload: Literal["reading", "array"] = Field(
        "reading",
        description="what a message holds: one `reading` as a JSON object, or an `array` of readings of one ordering key",
    )
    message_size: Size = Field(
        64 * 1024, ge=1024, le=MOST_BYTES, description="bytes of readings in one message, with payload array"
    )
    request_size: Size = Field(4 * 1024**2, ge=64 * 1024, le=MOST_BYTES, description="bytes of messages in one request")
    requests_in_flight: int = Field(
        4, ge=1, le=64, description="requests under way at once; those of one ordering key never are"
    )

    @model_validator(mode="after")
    def _names_are_sound(self) -> "PubSubSettings":
        if unknown := sorted(set(self.attributes) - set(TAG_COLUMNS)):
            msg = f"`attributes`: {', '.join(unknown)} is no column of a tag; there are {', '.join(TAG_COLUMNS)}"
            raise ValueError(msg)
        if "{" not in self.topic and (wrong := topic_fault(self.topic)):
            raise ValueError(wrong)
        return self


class PubSubConfig(TargetConfig):
    """Topics of Google Cloud Pub/Sub, or of its emulator. It takes the place of Google's IoT Core, which ended in 2023."""

    type: Literal["google-pubsub"] = Field("google-pubsub", description="type of the target")
    endpoint: Endpoint | None = Field(
        None,
        description=f"address of the service ({SERVICE} when absent), or http://<host>:<port> of an emulator, as "
        "PUBSUB_EMULATOR_HOST names it too",
    )
    provider_config: PubSubSettings = Field(
        PubSubSettings.model_validate({}), description="topics, and what the messages are like"
    )

    @override
    def writer(self, context: Context) -> Writer:
        """The writer of these topics."""
        from connectors.targets.pubsub.writer import PubSubWriter

        return PubSubWriter(self)

    @override
    def written(self, batch: pa.RecordBatch, context: Context) -> list[Written]:
        """The requests; a project that only the credentials name is not in them."""
        from connectors.targets.pubsub.encode import MessageEncoder

        found = MessageEncoder(self.provider_config).encode(batch)
        if found.rejected:
            refuse(found.rejected)
        project = self.provider_config.project or ""
        return [
            Written(request.topic, request.message(project), {"messages": len(request)})
            for lane in found.lanes
            for request in lane
        ]
