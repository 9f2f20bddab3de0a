"""Writes the Grafana dashboards beside it; with ``--check`` it only compares.

python k8s/observability/dashboards.py [--check]

Calm by intent: grey and blue while all is well, yellow and red for what is not, and the worst first.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "dashboards"
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH: Final = 24
_CALM: Final = {"mode": "shades", "fixedColor": "semi-dark-blue"}
_PLAIN, _ODD, _BAD = "text", "dark-yellow", "dark-red"

Panel = dict[str, Any]
Query = tuple[str, str]  # expression, legend


# ---------------------------------------------------------------------- panels


def _thresholds(odd: float | None, bad: float | None) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": _PLAIN, "value": None}]
    steps += [{"color": color, "value": at} for color, at in ((_ODD, odd), (_BAD, bad)) if at is not None]
    return {"mode": "absolute", "steps": steps}


def _at_least(odd: float | None, bad: float | None) -> dict[str, Any]:
    """Thresholds of what is bad when it is small."""
    steps: list[dict[str, Any]] = [{"color": _BAD, "value": None}]
    steps += [{"color": color, "value": at} for color, at in ((_ODD, bad), (_PLAIN, odd)) if at is not None]
    return {"mode": "absolute", "steps": steps}


def _targets(queries: tuple[Query, ...], *, instant: bool) -> list[dict[str, Any]]:
    how = {"instant": True, "range": False, "format": "table"} if instant else {"range": True}
    return [
        {"refId": chr(ord("A") + at), "datasource": _SOURCE, "expr": expression, "legendFormat": legend} | how
        for at, (expression, legend) in enumerate(queries)
    ]


def number(
    title: str, query: str, what: str, *, unit: str = "none", odd: float | None = None, bad: float | None = None
) -> Panel:
    """One figure, grey until it reaches a threshold."""
    targets = _targets(((query, ""),), instant=True)
    targets[0]["format"] = "time_series"
    return {
        "type": "stat",
        "title": title,
        "description": what,
        "size": (4, 4),
        "targets": targets,
        "fieldConfig": {
            "defaults": {"unit": unit, "color": {"mode": "thresholds"}, "thresholds": _thresholds(odd, bad)},
            "overrides": [],
        },
        "options": {
            "colorMode": "value",
            "graphMode": "none",
            "textMode": "value",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        },
    }


def least(
    title: str, query: str, what: str, *, unit: str = "none", odd: float | None = None, bad: float | None = None
) -> Panel:
    """One figure, which is bad when it is small."""
    panel = number(title, query, what, unit=unit)
    panel["fieldConfig"]["defaults"]["thresholds"] = _at_least(odd, bad)
    return panel


def curves(
    title: str,
    what: str,
    *queries: Query,
    unit: str = "short",
    odd: float | None = None,
    bad: float | None = None,
    stacked: bool = False,
    wide: bool = False,
) -> Panel:
    """Curves over time; a threshold is a line."""
    drawn = {
        "lineWidth": 1,
        "fillOpacity": 20 if stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "off" if odd is None and bad is None else "line"},
    }
    return {
        "type": "timeseries",
        "title": title,
        "description": what,
        "size": (24 if wide else 12, 8),
        "targets": _targets(queries, instant=False),
        "fieldConfig": {
            "defaults": {
                "unit": unit,
                "min": 0 if unit not in ("s", "none") else None,
                "color": _CALM,
                "thresholds": _thresholds(odd, bad),
                "custom": drawn,
            },
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def states(title: str, what: str, query: Query, words: dict[int, tuple[str, str]]) -> Panel:
    """What was so when: a bar per source or target, with a word and a color for each value."""
    return {
        "type": "state-timeline",
        "title": title,
        "description": what,
        "size": (24, 7),
        "targets": _targets((query,), instant=False),
        "fieldConfig": {
            "defaults": {
                "mappings": [{"type": "value", "options": _words(words)}],
                "color": {"mode": "thresholds"},
                "thresholds": _thresholds(None, None),
                "custom": {"fillOpacity": 70, "lineWidth": 0},
            },
            "overrides": [],
        },
        "options": {"mergeValues": True, "showValue": "auto", "rowHeight": 0.8, "legend": {"showLegend": False}},
    }


def lines(title: str, what: str, key: str, columns: dict[str, tuple[str, str, float | None, float | None]]) -> Panel:
    """A table with a line per source or target, the worst first.

    Args:
        title: Its title.
        what: What it shows.
        key: The label that names a line.
        columns: Query, unit and thresholds of each column; lines are ordered by the first one, largest first.
    """
    names = [f"Value #{chr(ord('A') + at)}" for at in range(len(columns))]
    overrides = [
        {
            "matcher": {"id": "byName", "options": title_of},
            "properties": [
                {"id": "unit", "value": unit},
                {"id": "thresholds", "value": _thresholds(odd, bad)},
                {"id": "custom.cellOptions", "value": {"type": "color-text"}},
            ],
        }
        for title_of, (_, unit, odd, bad) in columns.items()
    ]
    # without by, each figure would keep its own name and labels, and a line would be one figure
    queries = tuple((f"max by (instance, {key}) ({query})", "") for query, *_ in columns.values())
    return {
        "type": "table",
        "title": title,
        "description": what,
        "size": (24, 8),
        "targets": _targets(queries, instant=True),
        "transformations": [
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time": True},
                    "indexByName": {"instance": 0, key: 1} | {name: at + 2 for at, name in enumerate(names)},
                    "renameByName": {"instance": "gateway at"} | dict(zip(names, columns, strict=True)),
                },
            },
        ],
        "fieldConfig": {"defaults": {"color": {"mode": "thresholds"}}, "overrides": overrides},
        "options": {"showHeader": True, "sortBy": [{"displayName": next(iter(columns)), "desc": True}]},
    }


def gateways(
    title: str,
    what: str,
    seen: tuple[str, str],
    columns: dict[str, tuple[str, str, dict[str, Any] | None]],
    words: dict[int, tuple[str, str]],
) -> Panel:
    """A table with a line per gateway, the one that was last seen longest ago first.

    Args:
        title: Its title.
        what: What it shows.
        seen: Title and query of when it was last seen; the query's labels are its version and where it stands.
        columns: Query, unit and thresholds of each further column.
        words: What the values of the column `state` are called.
    """
    names = [f"Value #{chr(ord('A') + at)}" for at in range(len(columns) + 1)]
    titles = [seen[0], *columns]
    known = {seen[0]: ("s", _thresholds(120, 600)), **{name: of for name, (_, *of) in columns.items()}}
    overrides = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [
                {"id": "unit", "value": unit},
                *([{"id": "thresholds", "value": steps}] if steps else []),
                *(
                    [{"id": "mappings", "value": [{"type": "value", "options": _words(words)}]}]
                    if name == "state"
                    else []
                ),
                {"id": "custom.cellOptions", "value": {"type": "color-text"}},
            ],
        }
        for name, (unit, steps) in known.items()
    ]
    link = {"title": "overview", "url": "/d/bifrost-overview?var-gateway=${__value.text}"}
    overrides.append(
        {"matcher": {"id": "byName", "options": "gateway"}, "properties": [{"id": "links", "value": [link]}]}
    )
    labels = ("instance", "site", "area", "version")
    return {
        "type": "table",
        "title": title,
        "description": what,
        "size": (24, 14),
        "targets": _targets(((seen[1], ""), *((query, "") for query, *_ in columns.values())), instant=True),
        "transformations": [
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time": True},
                    "indexByName": {name: at for at, name in enumerate((*labels, *names))},
                    "renameByName": {"instance": "gateway"} | dict(zip(names, titles, strict=True)),
                },
            },
        ],
        "fieldConfig": {"defaults": {"color": {"mode": "thresholds"}}, "overrides": overrides},
        "options": {"showHeader": True, "sortBy": [{"displayName": seen[0], "desc": True}]},
    }


def _words(words: dict[int, tuple[str, str]]) -> dict[str, Any]:
    return {str(value): {"text": text, "color": color, "index": value} for value, (text, color) in words.items()}


# ---------------------------------------------------------------------- variables and dashboards


def _variable(name: str, label: str, query: str, *, hidden: bool = False) -> dict[str, Any]:
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "refresh": 2,
        "sort": 1,
        "hide": 2 if hidden else 0,
    }


_DATASOURCE: Final = {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus"}
_GATEWAY: Final = (
    _variable("gateway", "Gateway", "label_values(bifrost_gateway_info, gateway)"),
    _variable("instance", "", 'label_values(bifrost_gateway_info{gateway=~"$gateway"}, instance)', hidden=True),
)
_SOURCES: Final = _variable("source", "Source", 'label_values(bifrost_source_connected{instance=~"$instance"}, source)')
_CONNECTORS: Final = _variable(
    "target", "Target", 'label_values(bifrost_cloud_buffer_size{instance=~"$instance"}, connector)'
)
_ZEROBUS: Final = _variable(
    "target", "Target", 'label_values(bifrost_zerobus_circuit_breaker_state{instance=~"$instance"}, connector)'
)


def dashboard(name: str, title: str, variables: tuple[dict[str, Any], ...], panels: list[Panel]) -> dict[str, Any]:
    """A dashboard; panels flow from left to right in the order of their importance."""
    x = y = height = 0
    placed = []
    for number_of, panel in enumerate(panels, 1):
        width, tall = panel["size"]
        if x + width > _WIDTH:
            x, y, height = 0, y + height, 0
        rest = {key: value for key, value in panel.items() if key != "size"}
        place = {"gridPos": {"x": x, "y": y, "w": width, "h": tall}, "datasource": _SOURCE}
        placed.append({"id": number_of} | rest | place)
        x, height = x + width, max(height, tall)
    links = [{"type": "dashboards", "tags": ["bifrost"], "asDropdown": False, "title": "", "keepTime": True, "includeVars": True}]  # fmt: skip
    return {
        "uid": f"bifrost-{name}",
        "title": title,
        "tags": ["bifrost"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "links": links,
        "templating": {"list": [_DATASOURCE, *_GATEWAY, *variables]},
        "annotations": {"list": []},
        "panels": placed,
    }


_I: Final = 'instance=~"$instance"'
_S: Final = f'{_I},source=~"$source"'
_T: Final = f'{_I},connector=~"$target"'
_AGE: Final = "time() - (bifrost_source_last_reading_timestamp_seconds{%s} > 0)"
_AHEAD: Final = 'what="server_clock_ahead_seconds"'


def fleet() -> dict[str, Any]:
    """Many gateways on one page, from what they write: which is silent, which is not well, which fills up."""
    i = "{" + _I + "}"
    seen = f"max by (instance, site, area, version) (max_over_time(timestamp(bifrost_gateway_info{i})[1d:1m]))"
    by = "by (instance)"
    silent = f"count(group {by} (last_over_time(bifrost_gateway_info{i}[1d])) unless group {by} (last_over_time(bifrost_gateway_info{i}[10m])))"
    never = f"0 * max {by} (bifrost_spool_full_seconds{i}) + 31536000"
    return dashboard("fleet", "Bifrost: fleet", (), [
        number("Gateways", f"count(group {by} (last_over_time(bifrost_gateway_info{i}[1d])))", "Gateways that were heard of in the last day."),
        number("Silent", f"{silent} or vector(0)", "Gateways that were heard of in the last day, and not in the last ten minutes: the gateway or its link is down.", bad=1),
        number("Not well", f"count(bifrost_gateway_state{i} == 1) or vector(0)", "Gateways with a source that is not connected, a target that refuses, or a store that discards.", odd=1),
        number("Readings/s", f"sum(rate(bifrost_bridge_records_received_total{i}[$__rate_interval]))", "Readings that came to all gateways.", unit="cps"),
        number("Waiting", f"sum(bifrost_cloud_buffer_size{i})", "Readings in the spools of all gateways.", unit="short"),
        number("Unaccounted", f"sum(abs(bifrost_unaccounted{i}))", "Readings that an account cannot explain. Anything but 0 is a fault of a gateway.", unit="short", bad=1),
        gateways("Gateways, the longest silent first", "What `bifrost status` says, of every gateway that was heard of in the last day. The name leads to its overview.",
            ("silent for", f"time() - topk by (instance) (1, {seen})"), {
                "state": (f"max {by} (bifrost_gateway_state{i})", "none", _thresholds(1, None)),
                "sources ok": (f"avg {by} (bifrost_source_connected{i})", "percentunit", _at_least(1, 0.5)),
                "targets ok": (f"avg {by} (bifrost_cloud_circuit_breaker_state{i} == bool 0)", "percentunit", _at_least(1, 0.5)),
                "readings/s": (f"sum {by} (rate(bifrost_bridge_records_received_total{i}[$__rate_interval]))", "cps", None),
                "backlog": (f"sum {by} (bifrost_cloud_buffer_size{i})", "short", None),
                "oldest unsent": (f"max {by} (bifrost_spool_oldest_seconds{i})", "s", _thresholds(60, 900)),
                "full in": (f"min {by} (bifrost_spool_full_seconds{i} >= 0) or {never}", "s", _at_least(86400, 14400)),
                "dead letters": (f"sum {by} (bifrost_backpressure_dlq_messages{i})", "short", _thresholds(1, None)),
                "unaccounted": (f"sum {by} (abs(bifrost_unaccounted{i}))", "short", _thresholds(None, 1)),
                "up for": (f"time() - max {by} (process_start_time_seconds{i})", "s", None),
            }, {0: ("ok", _PLAIN), 1: ("degraded", _ODD), 2: ("stops", _ODD)}),
        curves("Readings in", "Readings that came, by gateway.", (f"sum {by} (rate(bifrost_bridge_records_received_total{i}[$__rate_interval]))", "{{instance}}"), unit="cps"),
        curves("Oldest unsent", "Age of the oldest reading that waits, by gateway.", (f"max {by} (bifrost_spool_oldest_seconds{i})", "{{instance}}"), unit="s", odd=60, bad=900),
        curves("Told late", "Age of the oldest sample or event that waits to be sent here: after an outage it falls as what waited comes.", (f"bifrost_telemetry_oldest_seconds{i}", "{{instance}}: {{what}}"), unit="s"),
        curves("Waiting to be told", "Bytes of samples and events on the gateways' disks.", (f"bifrost_telemetry_bytes{i}", "{{instance}}: {{what}}"), unit="bytes"),
        curves("Told", "Samples and events that were taken.", (f"rate(bifrost_telemetry_sent_total{i}[$__rate_interval])", "{{instance}}: {{what}}"), unit="cps"),
        curves("Not told", "Samples and events that are not sent any more, by reason.", (f"rate(bifrost_telemetry_dropped_total{i}[$__rate_interval])", "{{instance}}: {{what}} {{reason}}"), unit="cps"),
    ])  # fmt: skip


def overview() -> dict[str, Any]:
    """Ten seconds: is all well, and if not, where."""
    i = "{" + _I + "}"
    return dashboard("overview", "Bifrost: overview", (), [
        number("Sources not connected", f"sum(1 - bifrost_source_connected{i})", "Sources that are configured and not connected.", bad=1),
        number("Targets that refuse", f"count(bifrost_cloud_circuit_breaker_state{i} > 0) or vector(0)", "Targets whose breaker is not closed: readings wait on disk.", odd=1),
        number("Fullest spool", f"max(bifrost_spool_filled_ratio{i})", "How full the fullest spool is. At 100 % its overflow policy decides.", unit="percentunit", odd=0.5, bad=0.8),
        number("Oldest unsent", f"max(bifrost_spool_oldest_seconds{i})", "Age of the oldest reading that waits for a target.", unit="s", odd=60, bad=900),
        number("Dead letters", f"sum(bifrost_backpressure_dlq_messages{i})", "Readings that no target takes, kept with their reason.", unit="short", odd=1),
        number("Unaccounted", f"sum(abs(bifrost_unaccounted{i}))", "Readings that the account cannot explain. Anything but 0 is a fault of the gateway.", unit="short", bad=1),
        lines("Sources, the longest silent first", "Every source: how long it is silent, whether it is connected, what it gives.", "source", {
            "silent for": (_AGE % _I, "s", 60, 300),
            "not connected": (f"1 - bifrost_source_connected{i}", "none", None, 1),
            "readings/s": (f"rate(bifrost_bridge_records_received_total{i}[$__rate_interval])", "cps", None, None),
            "gaps": (f"increase(bifrost_source_gaps_total{i}[$__range])", "none", 1, None),
        }),
        lines("Targets, the longest backlog first", "Every target: how old the oldest waiting reading is, how much waits, what goes out.", "connector", {
            "oldest unsent": (f"bifrost_spool_oldest_seconds{i}", "s", 60, 900),
            "breaker": (f"bifrost_cloud_circuit_breaker_state{i}", "none", 1, 2),
            "filled": (f"bifrost_spool_filled_ratio{i}", "percentunit", 0.5, 0.8),
            "waiting": (f"bifrost_cloud_buffer_size{i}", "short", None, None),
            "delivered/s": (f"rate(bifrost_cloud_data_points_sent_total{i}[$__rate_interval])", "cps", None, None),
        }),
        curves("Readings in", "Readings that sources gave.", (f"sum by (source) (rate(bifrost_bridge_records_received_total{i}[$__rate_interval]))", "{{source}}"), unit="cps", stacked=True),
        curves("Readings out", "Readings that targets acknowledged.", (f"sum by (connector) (rate(bifrost_cloud_data_points_sent_total{i}[$__rate_interval]))", "{{connector}}"), unit="cps"),
        least("Next certificate ends in", f"min(bifrost_certificate_days_left{i})", "Days until the first certificate in use ends.", unit="d", odd=30, bad=7),
        number("Gateways", f"count(bifrost_gateway_info{i})", "Gateways that answer."),
        number("Store damage", f"sum(bifrost_store_damage_total{i})", "Places in journal, spools and dead letters where records were lost since the start.", bad=1),
        number("Clock set back", f"sum(increase(bifrost_clock_set_back_total{i}[$__range]))", "Times that the machine's clock was set back while the gateway ran.", odd=1),
        curves("Memory", "What the gateway has in RAM.", (f"process_resident_memory_bytes{i}", "{{instance}}"), unit="bytes"),
        curves("CPU", "Cores that the gateway uses.", (f"rate(process_cpu_seconds_total{i}[$__rate_interval])", "{{instance}}"), unit="short"),
    ])  # fmt: skip


def source() -> dict[str, Any]:
    """One source: is it there, what does it give, what does it miss."""
    s = "{" + _S + "}"
    return dashboard("source", "Bifrost: source", (_SOURCES,), [
        number("Not connected", f"sum(1 - bifrost_source_connected{s})", "Of the sources chosen above.", bad=1),
        number("Silent for", f"max({_AGE % _S})", "Longest time since a reading came.", unit="s", odd=60, bad=300),
        number("Readings/s", f"sum(rate(bifrost_bridge_records_received_total{s}[$__rate_interval]))", "Readings that came.", unit="cps"),
        number("Connected again", f"sum(increase(bifrost_bridge_reconnections_total{s}[$__range]))", "Times in the range shown.", odd=1),
        number("Gaps", f"sum(increase(bifrost_source_gaps_total{s}[$__range]))", "Times that readings were missed which will never come.", odd=1),
        number("Clock differs by", f"max(abs(bifrost_source_measure{{{_S},{_AHEAD}}}))", "How far the server's clock is from the gateway's.", unit="s", odd=1, bad=5),
        number("Tags", f"sum(bifrost_source_tags{s})", "Tags that gave a reading since the gateway was started.", unit="short"),
        number("Last gap", f"max(bifrost_source_last_gap_timestamp_seconds{s}) * 1000", "When the last gap ended; 1970 for none since the start.", unit="dateTimeFromNow"),
        states("Connection", "Connected or not, over time.", (f"bifrost_source_connected{s}", "{{source}}"), {0: ("down", _BAD), 1: ("connected", "semi-dark-blue")}),
        curves("Readings in", "Readings that came from the device.", (f"rate(bifrost_bridge_records_received_total{s}[$__rate_interval])", "{{source}}"), unit="cps"),
        curves("Silent for", "Time since the last reading.", (_AGE % _S, "{{source}}"), unit="s", odd=60, bad=300),
        curves("Left out by report by exception", "Readings that did not change enough, by reason.", (f"rate(bifrost_bridge_records_filtered_total{s}[$__rate_interval])", "{{source}}: {{reason}}"), unit="cps"),
        curves("Oddities", "What the reader counts: rebirth requests, messages out of order, overflows of the server's queues.", (f"sum by (source, what) (bifrost_source_oddities{s})", "{{source}}: {{what}}")),
        curves("Clock of the server", "Seconds that it is ahead of the gateway's.", (f"bifrost_source_measure{{{_S},{_AHEAD}}}", "{{source}}"), unit="s"),
        curves("What became of them", "The account of the source since the journal was begun.", (f"sum by (source, state) (bifrost_ledger_records{s})", "{{source}}: {{state}}"), unit="short"),
    ])  # fmt: skip


def target() -> dict[str, Any]:
    """One target: does it take readings, how quickly, what does it refuse."""
    t = "{" + _T + "}"
    p = "histogram_quantile(%s, sum by (connector, le) (rate(bifrost_cloud_response_time_seconds_bucket{%s}[$__rate_interval])))"
    return dashboard("target", "Bifrost: target", (_CONNECTORS,), [
        number("Breaker", f"max(bifrost_cloud_circuit_breaker_state{t})", "0 closed: all is well. 1 half open: one write is tried. 2 open: it is left alone for a while.", odd=1, bad=2),
        number("Oldest unsent", f"max(bifrost_spool_oldest_seconds{t})", "Age of the oldest reading that waits.", unit="s", odd=60, bad=900),
        number("Waiting", f"sum(bifrost_cloud_buffer_size{t})", "Readings in the spool.", unit="short"),
        number("Delivered/s", f"sum(rate(bifrost_cloud_data_points_sent_total{t}[$__rate_interval]))", "Readings that the target acknowledged.", unit="cps"),
        number("Refused for good", f"sum(increase(bifrost_cloud_data_points_failed_total{t}[$__range]))", "Readings that became dead letters in the range shown.", odd=1),
        number("Slowest 1 %", f"max({p % ('0.99', _T)})", "A unit in a hundred takes longer than this until the target has it.", unit="s", odd=5, bad=30),
        number("Not connected", f"sum(1 - bifrost_cloud_connected{t})", "Of the targets chosen above; one that is not written to may be idle.", odd=1),
        number("Last success", f"min(bifrost_cloud_last_success_timestamp_seconds{t}) * 1000", "When a target last took a unit; 1970 for never since the start.", unit="dateTimeFromNow"),
        number("Under way", f"sum(bifrost_cloud_in_flight{t})", "Writes that were sent and are not acknowledged yet.", unit="short"),
        states("Breaker", "Whether the target takes readings, over time.", (f"bifrost_cloud_circuit_breaker_state{t}", "{{connector}}"), {0: ("takes readings", "semi-dark-blue"), 1: ("is tried", _ODD), 2: ("refuses", _BAD)}),
        curves("Readings out", "Readings that the target acknowledged, and those put into its spool.", (f"rate(bifrost_cloud_data_points_sent_total{t}[$__rate_interval])", "{{connector}} delivered"), (f"rate(bifrost_bridge_records_enqueued_total{t}[$__rate_interval])", "{{connector}} queued"), unit="cps"),
        curves("Time until acknowledged", "From sending a unit until the target has it durably.", (p % ("0.5", _T), "{{connector}} median"), (p % ("0.99", _T), "{{connector}} 99 %"), unit="s"),
        curves("Writes by result", "ok, rejected, or the class of the error.", (f"rate(bifrost_cloud_batch_operations_total{t}[$__rate_interval])", "{{connector}}: {{result}}"), unit="ops"),
        curves("Connections by result", "Connections tried.", (f"rate(bifrost_cloud_connection_attempts_total{t}[$__rate_interval])", "{{connector}}: {{result}}"), unit="ops"),
        curves("Errors by class", "Writes and connections that failed since the gateway was started.", (f"bifrost_cloud_errors{t}", "{{connector}}: {{reason}}")),
        curves("Success", "Share of the last 1,000 writes and connections that went well.", (f"bifrost_cloud_success_ratio{t}", "{{connector}}"), unit="percentunit"),
        curves("Units out", "Units of readings delivered.", (f"rate(bifrost_bridge_batches_sent_total{t}[$__rate_interval])", "{{connector}}"), unit="ops"),
        curves("Pool of connections", "Of targets that have one: how many are in use of how many, and what waits for one.", (f"bifrost_cloud_pool_in_use{t}", "{{connector}} in use"), (f"bifrost_cloud_pool_open{t}", "{{connector}} open"), (f"bifrost_cloud_pool_size{t}", "{{connector}} at most"), (f"bifrost_cloud_pool_waiting{t}", "{{connector}} writes that wait")),
        curves("What became of them", "The account of the target by state, since its spool was begun.", (f"sum by (connector, state) (bifrost_ledger_route_records{t})", "{{connector}}: {{state}}"), wide=True),
    ])  # fmt: skip


def buffer() -> dict[str, Any]:
    """What waits, for how long, and how long there is room."""
    i, t = "{" + _I + "}", "{" + _T + "}"
    return dashboard("buffer", "Bifrost: buffers and dead letters", (_CONNECTORS,), [
        number("Fullest spool", f"max(bifrost_spool_filled_ratio{t})", "Share of its quota.", unit="percentunit", odd=0.5, bad=0.8),
        least("Full in", f"min(bifrost_spool_full_seconds{t} >= 0) or vector(31536000)", "Time until the first spool is full, as it grows now; a year stands for never.", unit="s", odd=86400, bad=14400),
        number("Oldest unsent", f"max(bifrost_spool_oldest_seconds{t})", "Age of the oldest reading that waits.", unit="s", odd=60, bad=900),
        number("Spools in alarm", f"sum(bifrost_spool_alarm{t})", "Spools that discard readings or stop the flow.", bad=1),
        number("Dead letters", f"sum(bifrost_backpressure_dlq_messages{i})", "Readings that no target takes.", unit="short", odd=1),
        number("On disk", f"sum(bifrost_backpressure_disk_spooled_bytes{i})", "Bytes of journal and spools.", unit="bytes"),
        number("Dead letters in alarm", f"sum(bifrost_dead_letters_alarm{i})", "Gateways whose store of dead letters is full and lets some go.", bad=1),
        number("Kept", f"sum(bifrost_spool_kept_records{i}) or vector(0)", "Readings kept for targets that are not in the configuration.", unit="short", odd=1),
        number("Kept on disk", f"sum(bifrost_spool_kept_bytes{i}) or vector(0)", "Bytes of them.", unit="bytes"),
        least("Disk lasts", f"min(bifrost_disk_years_left{i}) * 31557600", "Until the disk is worn out at the present pace; of gateways with gateway.endurance.", unit="s", odd=94672800, bad=31557600),
        curves("Filled", "Share of its quota that each spool has used; the lines are 50 and 80 %.", (f"bifrost_spool_filled_ratio{t}", "{{connector}}"), unit="percentunit", odd=0.5, bad=0.8),
        curves("Oldest unsent", "Age of the oldest reading that waits, by target.", (f"bifrost_spool_oldest_seconds{t}", "{{connector}}"), unit="s", odd=60, bad=900),
        curves("Readings that wait", "By target.", (f"bifrost_cloud_buffer_size{t}", "{{connector}}")),
        curves("Bytes that wait, and quota", "By target.", (f"bifrost_spool_bytes{t}", "{{connector}}"), (f"bifrost_spool_quota_bytes{t}", "{{connector}} quota"), unit="bytes"),
        curves("Discarded", "Readings that spools let go, by reason, since they were begun.", (f"sum by (connector, reason) (bifrost_spool_discarded_records{t})", "{{connector}}: {{reason}}")),
        curves("Time until full", "At the present growth; -1 is never.", (f"bifrost_spool_full_seconds{t}", "{{connector}}"), unit="s"),
        curves("Between journal and flow", "Readings in memory, and how many may be.", (f"bifrost_backpressure_queue_size{i}", "{{instance}} waiting"), (f"bifrost_backpressure_queue_capacity{i}", "{{instance}} at most")),
        curves("Normalized, routed, left out", "Readings in the flow.", (f"rate(bifrost_bridge_records_normalized_total{i}[$__rate_interval])", "{{instance}} normalized"), (f"rate(bifrost_bridge_records_defaulted_total{i}[$__rate_interval])", "{{instance}} to the default"), (f"rate(bifrost_bridge_records_passed_late_total{i}[$__rate_interval])", "{{instance}} let out late"), unit="cps"),
        curves("No target gets them", "Readings that match no rule while the default is none.", (f"rate(bifrost_bridge_records_dropped_total{i}[$__rate_interval])", "{{instance}}: {{reason}}"), unit="cps"),
        curves("Dead letters", "In the store, and let go because it was full.", (f"bifrost_backpressure_dlq_messages{i}", "{{instance}}"), (f"bifrost_dead_letters_discarded_records{i}", "{{instance}} let go")),
        curves("Bytes of dead letters", "On disk.", (f"bifrost_dead_letters_bytes{i}", "{{instance}}"), (f"bifrost_dead_letters_quota_bytes{i}", "{{instance}} at most"), unit="bytes"),
        curves("Writing to disk", "Bytes a second that the process makes the disk write: what wears it out.", (f"rate(bifrost_disk_written_bytes{i}[$__rate_interval])", "{{instance}}"), unit="Bps"),
        curves("Syncs", "Files made durable a second.", (f"rate(bifrost_disk_syncs_total{i}[$__rate_interval])", "{{instance}}"), unit="ops"),
        curves("Paths that more than one tag has", "Two tags that cannot be told apart at a target.", (f"bifrost_path_collisions{i}", "{{instance}}")),
    ])  # fmt: skip


def zerobus() -> dict[str, Any]:
    """Databricks ZeroBus: the seed's figures, and what belongs to them."""
    t = "{" + _T + "}"
    of = f"and on (instance, connector) bifrost_zerobus_circuit_breaker_state{t}"
    p = f"histogram_quantile(%s, sum by (connector, le) (rate(bifrost_cloud_response_time_seconds_bucket{t}[$__rate_interval]) {of}))"
    return dashboard("zerobus", "Bifrost: ZeroBus", (_ZEROBUS,), [
        number("Breaker", f"max(bifrost_zerobus_circuit_breaker_state{t})", "0 closed: all is well. 1 half open. 2 open.", odd=1, bad=2),
        number("Rows/s", f"sum(rate(bifrost_cloud_data_points_sent_total{t}[$__rate_interval]) {of})", "Rows that ZeroBus acknowledged.", unit="cps"),
        number("Units not taken", f"sum(increase(bifrost_zerobus_batches_failed_total{t}[$__range]))", "In the range shown; they are sent again.", odd=1),
        number("Refused for good", f"sum(increase(bifrost_cloud_data_points_failed_total{t}[$__range]) {of})", "Rows that became dead letters.", odd=1),
        number("Oldest unsent", f"max(bifrost_spool_oldest_seconds{t} {of})", "Age of the oldest row that waits.", unit="s", odd=60, bad=900),
        number("Slowest 1 %", f"max({p % '0.99'})", "A unit in a hundred takes longer than this until it is acknowledged.", unit="s", odd=5, bad=30),
        states("Breaker", "Whether ZeroBus takes rows, by table.", (f"bifrost_zerobus_circuit_breaker_state{t}", "{{connector}}"), {0: ("takes rows", "semi-dark-blue"), 1: ("is tried", _ODD), 2: ("refuses", _BAD)}),
        curves("Units", "Acknowledged and not taken.", (f"rate(bifrost_zerobus_batches_sent_total{t}[$__rate_interval])", "{{connector}} sent"), (f"rate(bifrost_zerobus_batches_failed_total{t}[$__rate_interval])", "{{connector}} failed"), unit="ops"),
        curves("Time until acknowledged", "From sending a unit until its offset is acknowledged.", (p % "0.5", "{{connector}} median"), (p % "0.99", "{{connector}} 99 %"), unit="s"),
        curves("Rows that wait", "By table.", (f"bifrost_cloud_buffer_size{t} {of}", "{{connector}}")),
        curves("Streams opened", "Connections tried, by result.", (f"rate(bifrost_cloud_connection_attempts_total{t}[$__rate_interval]) {of}", "{{connector}}: {{result}}"), unit="ops"),
    ])  # fmt: skip


def files() -> dict[Path, str]:
    """What is generated, by file."""
    made = [fleet(), overview(), source(), target(), buffer(), zerobus()]
    return {
        FOLDER / f"{one['uid'].removeprefix('bifrost-')}.json": json.dumps(one, indent=1, ensure_ascii=False) + "\n"
        for one in made
    }


def main() -> int:
    """Write or compare; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the Grafana dashboards.")
    parser.add_argument("--check", action="store_true", help="compare only; exit code 1 when one is stale")
    check = parser.parse_args().check
    stale = [path for path, text in files().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if check:
            print(f"{path} is stale; run `python k8s/observability/dashboards.py`", file=sys.stderr)  # noqa: T201
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(files()[path], encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
