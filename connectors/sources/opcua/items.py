"""What a subscription asks for, item by item, and what the server makes of it (OPC 10000-4 clause 5.13). Pure, no I/O."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.status_codes import StatusCodes

from connectors.sources.opcua.config import OpcUaConfig
from connectors.sources.opcua.nodes import Described

FILTER_REFUSED: Final = {
    StatusCodes.BadMonitoredItemFilterInvalid,
    StatusCodes.BadMonitoredItemFilterUnsupported,
    StatusCodes.BadFilterNotAllowed,
    StatusCodes.BadDeadbandFilterInvalid,
}
_FEWEST: Final = 10  # values in a queue
_FASTEST: Final = 0.01  # seconds; a server that samples faster, or sends each change, is told by `queue_size`
_TRIGGERS: Final = {
    "status": ua.DataChangeTrigger.Status,
    "status_value": ua.DataChangeTrigger.StatusValue,
    "status_value_timestamp": ua.DataChangeTrigger.StatusValueTimestamp,
}


def setting(config: OpcUaConfig, described: Described, name: str) -> Any:
    """A setting of a node: its own, or the source's."""
    node = described.variable.config
    own = getattr(node, name) if node is not None else None
    return own if own is not None else getattr(config, name)


def monitored(
    config: OpcUaConfig, described: Described, handle: int, *, filtered: bool = True
) -> ua.MonitoredItemCreateRequest:
    """The item of a node.

    Args:
        config: The source.
        described: The node.
        handle: Its client handle.
        filtered: Whether the server is asked to filter changes, where that is configured.
    """
    sampling = _sampling(config, described)
    return ua.MonitoredItemCreateRequest(
        ItemToMonitor=ua.ReadValueId(NodeId=described.variable.id or ua.NodeId(), AttributeId=AttributeIds.Value),
        MonitoringMode=ua.MonitoringMode.Reporting,
        RequestedParameters=ua.MonitoringParameters(
            ClientHandle=ua.IntegerId(handle),
            SamplingInterval=-1.0 if sampling is None else sampling * 1000,
            Filter=_filter(config, described) if filtered else None,
            QueueSize=ua.Counter(
                setting(config, described, "queue_size") or _enough(config.publishing_interval, sampling)
            ),
            DiscardOldest=setting(config, described, "discard_oldest"),
        ),
    )


def _sampling(config: OpcUaConfig, described: Described) -> float | None:
    node = described.variable.config
    own = node.interval if node is not None else None
    return own if own is not None else config.sampling_interval


def _enough(publishing: float, sampling: float | None) -> int:
    """Values that a queue must hold for a notification that is late by a whole interval."""
    between = publishing / max(sampling, _FASTEST) if sampling is not None else 1
    return max(_FEWEST, 2 * math.ceil(between))


def has_no_range(config: OpcUaConfig, described: Described) -> bool:
    """Whether a deadband in percent is asked for, of a node that does not say its range (OPC 10000-8 clause 6.2)."""
    percent = str(setting(config, described, "server_deadband") or "").endswith("%")
    return percent and "EURange" not in (described.variable.properties or {})


def _filter(config: OpcUaConfig, described: Described) -> ua.DataChangeFilter | None:
    trigger = _TRIGGERS[setting(config, described, "trigger")]
    deadband = setting(config, described, "server_deadband")
    if has_no_range(config, described):
        deadband = None
    if deadband is None and trigger == ua.DataChangeTrigger.StatusValue:
        return None  # as it is without a filter, which not every server knows
    kind, size = ua.DeadbandType.None_, 0.0
    if isinstance(deadband, str):
        kind, size = ua.DeadbandType.Percent, float(deadband[:-1])
    elif deadband is not None:
        kind, size = ua.DeadbandType.Absolute, float(deadband)
    return ua.DataChangeFilter(Trigger=trigger, DeadbandType=ua.UInt32(kind.value), DeadbandValue=ua.Double(size))


def digest(timestamps: ua.TimestampsToReturn, items: Iterable[ua.MonitoredItemCreateRequest], more: str = "") -> str:
    """What is subscribed to, in few letters: a handle means the same node as long as they are the same."""
    said = [[str(timestamps), more]]
    for item in items:
        asked = item.RequestedParameters
        node = item.ItemToMonitor.NodeId.to_string()
        filtered = asked.Filter
        line = [node, str(asked.ClientHandle), str(asked.SamplingInterval), str(asked.QueueSize)]
        if filtered is not None or not asked.DiscardOldest:
            line += [str(filtered), str(asked.DiscardOldest)]
        said.append(line)
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def revisions(
    items: Sequence[ua.MonitoredItemCreateRequest], results: Sequence[ua.MonitoredItemCreateResult], publishing: float
) -> str:
    """What the server does otherwise than it was asked, in words; empty when nothing.

    Args:
        items: What was asked for.
        results: What it answered.
        publishing: The publishing interval in ms, which an item without a sampling interval of its own is sampled at.
    """
    sampling: Counter[tuple[float, float]] = Counter()
    queues: Counter[tuple[int, int]] = Counter()
    for item, result in zip(items, results, strict=True):
        if not result.StatusCode.is_good():
            continue
        asked = item.RequestedParameters
        wanted = publishing if asked.SamplingInterval < 0 else asked.SamplingInterval
        if result.RevisedSamplingInterval > wanted:
            sampling[wanted, result.RevisedSamplingInterval] += 1
        if result.RevisedQueueSize < asked.QueueSize:
            queues[int(asked.QueueSize), int(result.RevisedQueueSize)] += 1
    said = [f"samples {n} nodes every {is_ / 1000:g} s, not {was / 1000:g} s" for (was, is_), n in sampling.items()]
    said += [f"keeps {is_} values of {n} nodes, not {was}" for (was, is_), n in queues.items()]
    return f"the server {', and '.join(said)}" if said else ""
