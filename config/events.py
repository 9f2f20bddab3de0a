"""Every event that the gateway logs from info on, with a code that stays: what it means, and what to do.

A code is never given to another event; the words of an event may change. A new event gets the next number of its group. The
text is what stands in the call, with its ``%s``; `config.logs` finds the code by it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

NOTHING: Final = "nothing"


@dataclass(frozen=True, slots=True)
class Event:
    """An event.

    Attributes:
        code: Its code: the group, and a number in it.
        level: info, warning or error.
        text: What the log says, before its values are put in.
        meaning: What has happened.
        action: What to do.
    """

    code: str
    level: str
    text: str
    meaning: str
    action: str


GROUPS: Final = {
    "BF-GW": "The gateway",
    "BF-CFG": "The configuration",
    "BF-WEB": "The API and who comes in",
    "BF-SRC": "Sources",
    "BF-UA": "OPC UA",
    "BF-MQ": "MQTT and Sparkplug B",
    "BF-TGT": "Targets",
    "BF-STO": "Journal, spools and dead letters",
    "BF-DSC": "Discovery",
}

EVENTS: Final = (
    # ------------------------------------------------------------------ the gateway
    Event("BF-GW-001", "error", "gateway stops", "A store failed, or it could not be closed; `error` says which and why. The process ends with code 1.", "Mend what `error` names: room, rights or the disk. The journal brings back what was under way."),
    Event("BF-GW-002", "error", "reading stopped, gateway stops", "The thread that reads all sources ended by an error that nobody expected.", "Have it started again (systemd does) and report it with its traceback."),
    Event("BF-GW-003", "warning", "the flow did not finish in time; what it held comes again at the next start", "At the end of the process the dataflow was still busy.", "Nothing; readings may come twice to targets without a key."),
    Event("BF-GW-004", "warning", "the wall clock was set back", "The machine's clock jumped back by `seconds` while the gateway ran.", "Let the clock be slewed and not stepped (chrony, systemd-timesyncd)."),
    Event("BF-GW-005", "error", "no room for the flow's snapshots, it begins again at the last one", "The disk is full: the dataflow's own state cannot be written.", "Make room on the disk of `gateway.directory`."),
    Event("BF-GW-006", "error", "a reading cannot be used", "A step of the dataflow failed on a reading, which has become a dead letter.", "Look at it: `bifrost dlq list`. If the step is not yours, report it."),
    Event("BF-GW-007", "warning", "tags share one path; tell them apart by a mapping or a place", "Two tags have one name at the targets.", "Give one of them another place or mapping, see docs/mapping.md."),
    Event("BF-GW-008", "error", "the port cannot be opened; data flows on without it", "Another process has the HTTP port.", "Set `gateway.port` to a free one, or end the other process."),
    Event("BF-GW-009", "warning", "traces cannot be sent", "The collector does not take them. Data flows on; these spans are lost.", "Look at the collector that `endpoint` names."),
    Event("BF-GW-010", "info", "traces are sent again", "The collector takes them.", NOTHING),
    Event("BF-GW-011", "error", "nothing is sent by OTLP, a library is missing", "`gateway.telemetry.otlp` is set without the extra that speaks OTLP.", "`pip install 'bifrost-gateway[otel]'`"),
    Event("BF-GW-012", "error", "the flow ended", "The dataflow of a gateway inside a Python program ended by `error`.", "Mend what it names; `Gateway` raises it too."),
    Event("BF-GW-013", "warning", "nothing is read, so that what is held can be delivered", "`bifrost drain`, or the end of a pod that leaves: the sources are let go until the process ends or `bifrost drain --undo`.", NOTHING),
    Event("BF-GW-014", "info", "the sources are read again", "`bifrost drain --undo`.", NOTHING),
    Event("BF-GW-015", "warning", "telemetry cannot be sent", "Who is told of the gateway (`endpoint`) does not answer, or not now. Data flows on; what is told waits on disk, as far as `buffer` goes.", "Look at the network, the address and its certificate: `error` says what happened."),
    Event("BF-GW-016", "info", "telemetry is sent again", "What waited goes out, with its own times.", NOTHING),
    Event("BF-GW-017", "warning", "telemetry was refused", "The other side took none or not all of it and will not: `points` are left out and counted. Told once, until something is taken again.", "`error` has its words: a login (401, 403), a wrong path (404), or samples that are too old for it (400, see docs/fleet.md)."),
    Event("BF-GW-018", "warning", "telemetry has no room", "The disk is full: samples and events are left out and counted. Told once.", "Make room on the disk of `gateway.directory`."),
    Event("BF-GW-019", "error", "telemetry stops, its disk fails", "What waits to be sent cannot be written any more. Data flows on.", "Look at the disk of `gateway.directory`; telemetry begins again at the next start."),
    Event("BF-GW-020", "error", "telemetry is not sent, its disk fails", "The folder `telemetry` in the gateway's directory cannot be opened. Data flows on.", "`error` says why; move the folder away to begin anew."),
    Event("BF-GW-021", "warning", "telemetry waits until the clock has caught up", "The machine's clock was set back: a sample now would be older than the one before, and nobody takes that.", "Let the clock be slewed and not stepped (chrony, systemd-timesyncd)."),
    Event("BF-GW-022", "error", "telemetry was not taken", "A look at the metrics met a fault of the gateway; data flows on.", "Report it with its traceback."),
    Event("BF-GW-023", "warning", "telemetry was damaged, some is lost", "Samples or events that waited to be sent could not be read when the gateway was started; readings are not concerned.", "Look at the disk of `gateway.directory`."),
    Event("BF-GW-024", "info", "the cluster's flow runs", "All members of the Bytewax cluster are there, and their flow goes on.", NOTHING),
    Event("BF-GW-025", "warning", "the cluster's flow was left, it begins again when all members are there", "A member of the Bytewax cluster has gone, was stopped, or a step failed (BF-GW-026). Sources are read on into the journal; targets get what waits for them.", "Nothing if the member comes back by itself; else start it. See docs/kubernetes.md."),
    Event("BF-GW-026", "error", "a step of the cluster's flow failed", "The step named `step` raised an exception; all members begin again at the last epoch that all had. After ten times in a row the process ends.", "Mend the step."),
    Event("BF-GW-027", "error", "members of the cluster do not meet", "The members of a Bytewax cluster cannot be connected; `problem` says which and why. Sources are read on into the journal.", "Do what `problem` says: the same addresses, targets, flow and release for all."),
    Event("BF-GW-028", "error", "the members of the cluster were not connected, gateway stops to begin again", "One of the members went just when they were being connected. The process ends with code 1.", "Have it started again (systemd and Kubernetes do)."),
    Event("BF-GW-029", "warning", "readings came too late for a window", "A source of the line named `line` gave nothing for longer than the windows wait for it, and then `readings` that belong into one that has closed. They are delivered, and are missing in the average alone.", "Give the windows more patience, see docs/bytewax.md."),
    # ------------------------------------------------------------------ the configuration
    Event("BF-CFG-001", "warning", "allowed in the configuration, but hardly meant", "`problem` says what, and where it stands.", "Change the place that it names."),
    Event("BF-CFG-002", "warning", "the configuration is not kept in the history", "The folder of the history cannot be written.", "Give the gateway's user the right to write the path that it names."),
    Event("BF-CFG-003", "info", "configuration kept in the history", "The gateway was started with a new configuration.", NOTHING),
    Event("BF-CFG-004", "info", "configuration applied", "The running gateway runs as the changed configuration says.", NOTHING),
    Event("BF-CFG-005", "error", "the configuration was not applied", "The change could not be made; the gateway runs as before.", "Mend what `reason` says and apply it again."),
    Event("BF-CFG-006", "info", "renewed files, connecting anew", "Certificates, keys or secrets of a source or target have changed; it connects with the new ones.", NOTHING),
    Event("BF-CFG-007", "warning", "renewed files cannot be used, the connection stays", "The new certificate or key is not sound; the one before it stays in use.", "Put sound files there: `error` says what is wrong."),
    # ------------------------------------------------------------------ the port and who comes in
    Event("BF-WEB-001", "info", "audit", "Somebody did or tried something at the API; the entry is in the audit too.", NOTHING),
    Event("BF-WEB-002", "error", "the audit has no room for an entry", "The disk is full; what was done is in this line alone.", "Make room on the disk of `gateway.directory`."),
    Event("BF-WEB-003", "error", "a request failed", "A request met a fault of the gateway; data flows on.", "Report it with its traceback."),
    Event("BF-WEB-004", "error", "what came cannot be shown", "The live view met a reading that it cannot show; data flows on.", "Report it with its traceback."),
    Event("BF-WEB-005", "warning", "renewed files cannot be used, the port keeps its certificate", "The new certificate or key of the HTTP port is not sound; the one before it stays in use.", "Put sound files there: `error` says what is wrong."),
    Event("BF-WEB-006", "warning", "a log-in by OpenID Connect came to nothing", "Somebody came back from the provider and was not let in; `reason` says why, `user` who it was if that is known.", "`reason` says it: often a role at the provider, the clock, or a setting of `web_ui.oidc`. See docs/security.md."),
    # ------------------------------------------------------------------ sources
    Event("BF-SRC-001", "warning", "source failed", "The connection ended or could not be made, for the reason in `error`. It is tried again, with growing pauses.", "`bifrost doctor` says what is wrong and what to do."),
    Event("BF-SRC-002", "info", "source", "A source is in another `state`: connecting, connected, down or stopped.", NOTHING),
    Event("BF-SRC-003", "warning", "a source is slow to close; it is read anew as soon as it has", "A source was changed, and its old connection does not end.", "Nothing, unless it stays so."),
    Event("BF-SRC-004", "info", "the source's lease is held", "This gateway reads the source, and no other does.", NOTHING),
    Event("BF-SRC-005", "warning", "the source's lease is lost, it is not read here", "`reason` says why: another gateway has it, or the store of leases does not answer.", "Look at the store where `reason` names it; else nothing: the gateway reads the source again when it gets the lease."),
    Event("BF-SRC-006", "warning", "the source's lease was not let go and ends by itself", "The store did not answer while the gateway stopped; another gateway reads the source when the lease has ended.", NOTHING),
    # ------------------------------------------------------------------ OPC UA
    Event("BF-UA-001", "warning", "source %s: security_policy is none, values travel in clear", "Anybody on the network can read and change them.", "Set `security_policy`, see docs/opcua-security.md."),
    Event("BF-UA-002", "warning", "source %s: trust is all, any server is believed", "Somebody may stand between the gateway and the server.", "Trust the server's certificate (`bifrost certs trust`) and set `trust`."),
    Event("BF-UA-003", "warning", "source %s: the server's certificate is accepted, but %s", "It breaks a rule of OPC UA that is not enforced.", "Let the server have a sound certificate."),
    Event("BF-UA-004", "warning", "the certificate of %s in %s expires on %s; renew it", "A certificate that you brought ends soon.", "Renew it at who issued it."),
    Event("BF-UA-005", "warning", "the certificate expires on %s and is renewed: let the server trust %s (SHA-1 %s) until then", "The gateway has made its next own certificate.", "Trust the named file at the server before that day."),
    Event("BF-UA-006", "warning", "source %s: the server refuses the renewed certificate (%s); the one before it is used until %s", "The server does not trust it yet.", "Trust it at the server before that day."),
    Event("BF-UA-007", "warning", "source %s: %s is no certificate: %s", "A file in the trust store cannot be read.", "Remove it, or put a certificate there."),
    Event("BF-UA-008", "warning", "source %s: %s is no list of revoked certificates: %s", "A file in the trust store cannot be read.", "Remove it, or put a list there."),
    Event("BF-UA-009", "warning", "source %s: a refused certificate cannot be filed: %s", "The folder of refused certificates cannot be written.", "Give the gateway's user that right."),
    Event("BF-UA-010", "warning", "source %s: root %s: the server has no such namespace", "A root of `browse` names a namespace that is not there.", "Correct it: `bifrost browse` shows what there is."),
    Event("BF-UA-011", "warning", "source %s: root %s: nothing is browsed there: %s", "The server refuses to browse a root.", "Correct the root, or give the user the right to browse."),
    Event("BF-UA-012", "warning", "source %s: more than max_nodes = %d variables; the rest is left out", "The server has more variables than may be read.", "Raise `max_nodes`, or narrow `browse`."),
    Event("BF-UA-013", "warning", "source %s: node %s: %s", "A node cannot be read or watched.", "Correct its address, or the user's rights at the server."),
    Event("BF-UA-014", "warning", "source %s: the server does not describe its nodes: %s", "Names, units and types stay unknown.", "Name them by `tags`, see docs/mapping.md."),
    Event("BF-UA-015", "warning", "the server does not define the structure with encoding %s; its bytes are kept", "A value of a type that the server does not describe.", "Nothing, or have the server describe its types."),
    Event("BF-UA-016", "warning", "type dictionary %s cannot be used: %s", "The server's description of its types is wrong.", "Nothing; the values' bytes are kept."),
    Event("BF-UA-017", "warning", "source %s: a deadband in percent needs a range (EURange), which %d nodes do not state; all their changes are read: %s", "The deadband is left out for them.", "Use an absolute `deadband`, or state the range at the server."),
    Event("BF-UA-018", "warning", "source %s: the server filters no changes of %d nodes, all are read: %s: %s", "The server knows no deadband for them.", "Use `report`, which the gateway does itself."),
    Event("BF-UA-019", "warning", "source %s: no events of %s: %s", "The server gives no events of that node.", "Correct the node, or the user's rights."),
    Event("BF-UA-020", "warning", "source %s: the server does not filter the events of %s", "All its events come.", NOTHING),
    Event("BF-UA-021", "warning", "source %s: no further subscription: %s", "The server takes no more subscriptions; the nodes left over are not read.", "Raise the server's limit, or read fewer nodes."),
    Event("BF-UA-022", "warning", "source %s: the server answers, but its subscription is silent: %s", "The subscription is made anew, and what was missed is read from the history.", "If it comes often, look at the load of the server."),
    Event("BF-UA-023", "warning", "source %s: the server reports no changes of %d nodes: %s", "They were read and have other values than it reported (`watchdog`).", "If it comes often, raise the server's sampling limits."),
    Event("BF-UA-024", "warning", "source %s: silent nodes cannot be read: %r", "The watchdog could not ask for them.", NOTHING),
    Event("BF-UA-025", "warning", "source %s: no history is read: %s", "What was missed while away cannot be asked for.", "Let the server keep history, or leave `history` out."),
    Event("BF-UA-026", "warning", "source %s: history of %d nodes: %s", "A part of the history could not be read; the gap is recorded.", "Look at the reason that it names."),
    Event("BF-UA-027", "warning", "source %s: the server's clock is %.1f s %s ours", "Times of readings are the server's.", "Let both have their time from one place."),
    Event("BF-UA-028", "warning", "source %s: no server of the set is healthy; %s has level %d", "Of redundant servers the best one is used, though it says that it is not well.", "Look at the servers."),
    Event("BF-UA-029", "warning", "source %s: a server of the set cannot be used: %s", "The others are used.", "Look at that server."),
    Event("BF-UA-030", "warning", "source %s: %s is not healthy, level %d", "The server in use says that it is not well.", "Look at the server."),
    Event("BF-UA-031", "warning", "the server answers request %d, which is none of ours that is open", "An answer came late, or twice.", NOTHING),
    Event("BF-UA-032", "warning", "%s cannot be used: %s", "The note of how far each node was read is damaged; history is asked for from the journal's state.", NOTHING),
    Event("BF-UA-033", "info", "source %s: the server refreshes no conditions: %s", "Alarms that were active before are seen when they change.", NOTHING),
    Event("BF-UA-034", "info", "source %s: history of %d nodes is complete", "What was missed has been read.", NOTHING),
    Event("BF-UA-035", "info", "the server %s takes %d nodes in one request of kind %s", "Learnt, and kept for the next start.", NOTHING),
    Event("BF-UA-036", "info", "source %s: %s", "The server grants other intervals or queues than were asked for.", NOTHING),
    Event("BF-UA-037", "info", "source %s: %d nodes are there: %s", "Nodes that were missing have come.", NOTHING),
    Event("BF-UA-038", "info", "source %s: the server publishes every %g s, not %g s", "It grants another interval than was asked for.", NOTHING),
    Event("BF-UA-039", "info", "source %s: the server wants %d subscriptions", "It bounds the nodes of one.", NOTHING),
    Event("BF-UA-040", "info", "source %s: subscriptions %s not taken over: %s", "They are made anew; the history fills what was missed.", NOTHING),
    Event("BF-UA-041", "info", "source %s: the server takes %d publish requests", "It bounds them.", NOTHING),
    Event("BF-UA-042", "info", "source %s: %d nodes are new: %s", "The server's address space has grown.", NOTHING),
    # ------------------------------------------------------------------ MQTT
    Event("BF-MQ-001", "warning", "source %s: %s; the next broker is tried", "A broker of several cannot be used.", "Look at that broker."),
    Event("BF-MQ-002", "warning", "source %s: subscription %s", "The broker refuses a subscription, or grants less.", "Give the user the right to it at the broker."),
    Event("BF-MQ-003", "warning", "source %s: its state cannot be read and is begun anew: %s", "Births and sequence numbers are asked for again.", NOTHING),
    Event("BF-MQ-004", "warning", "source %s: somebody said that %s is offline", "Another client publishes under this host application's name; it is said again that it is online.", "Give each primary host an id of its own."),
    Event("BF-MQ-005", "info", "source %s: edge node %s/%s is asked for its births: %s", "Its data cannot be understood without them.", "If one node is asked often, look at its connection."),
    # ------------------------------------------------------------------ targets
    Event("BF-TGT-001", "warning", "target failed", "A write or the connection failed, for the reason in `error`. Its readings wait, and it is tried again.", "`error` says what to do; `error_class` auth or config will not pass by itself."),
    Event("BF-TGT-002", "info", "target takes readings again", "What has waited goes out.", NOTHING),
    Event("BF-TGT-003", "error", "unexpected error from a writer", "The code of a target failed in a way it should not; it is tried again.", "Report it with its traceback."),
    Event("BF-TGT-004", "error", "a writer failed to close", "The connection was left without a good-bye.", NOTHING),
    Event("BF-TGT-005", "error", "forwarder stopped, its store failed", "Nothing goes to this target any more; its spool's disk failed.", "Mend the disk and start the gateway again."),
    Event("BF-TGT-006", "warning", "readings are kept for a target that is not configured", "A target was taken out of the configuration while readings waited for it.", "`bifrost spool attach` gives them to another target, `bifrost spool purge` lets them go."),
    Event("BF-TGT-007", "warning", "values too long for the shadow are left out of it: %s", "AWS bounds a device shadow; the readings themselves were sent.", "Choose fewer or shorter tags for the shadow."),
    Event("BF-TGT-008", "warning", "values that do not fit into the twin are left out of it: %s", "Azure bounds a twin; the readings themselves were sent.", "Choose fewer or shorter tags for the twin."),
    Event("BF-TGT-009", "warning", "%s: a power cut tore %s, which nobody had been told of; it was set aside", "A commit of the Delta table was half written; its readings come again.", NOTHING),
    Event("BF-TGT-010", "warning", "%s: files that were written just now look more than %g h old; nothing is deleted until the clocks of this machine and of the store agree", "One of the two clocks is wrong.", "Set it."),
    Event("BF-TGT-011", "warning", "small files of %s were not merged: %s", "The Delta table stays correct; reading it is slower.", "If it stays so, look at the reason."),
    # ------------------------------------------------------------------ stores
    Event("BF-STO-001", "warning", "disk full, sources wait", "The journal cannot grow: nothing is read until there is room, and nothing is acknowledged.", "Make room on the disk of `gateway.directory`."),
    Event("BF-STO-002", "warning", "disk full, the flow waits", "A spool cannot grow; its overflow policy makes room after a while.", "Make room on the disk of `gateway.directory`."),
    Event("BF-STO-003", "warning", "journal full, sources wait", "The dataflow is slower than the sources, or stands still.", "Look for a target with `overflow: block`, or a slow step."),
    Event("BF-STO-004", "error", "journal failed", "The journal cannot be written; the gateway stops.", "Mend what `error` names."),
    Event("BF-STO-005", "error", "journal damaged, readings may be lost", "Records could not be read when it was opened; they were left out.", "Check the disk. The account shows what is missing."),
    Event("BF-STO-006", "error", "state of a source is lost with a damaged record", "It is read as if for the first time.", "Check the disk."),
    Event("BF-STO-007", "error", "journal is older than the flow, readings may be lost", "Somebody put back an old copy of the journal.", "Put back the whole folder, never a part of it."),
    Event("BF-STO-008", "warning", "journal cannot note what is done yet", "The disk is full; readings may come again after a kill.", "Make room."),
    Event("BF-STO-009", "error", "journal entry unreadable, its tags are damaged", "Readings cannot be told apart without their tags.", "Check the disk."),
    Event("BF-STO-010", "error", "readings refused", "A reader gave readings that cannot be stored.", "Report it with the error."),
    Event("BF-STO-011", "error", "spool damaged, readings may be lost", "Records could not be read when it was opened; they were left out.", "Check the disk. The account shows what is missing."),
    Event("BF-STO-012", "error", "spool entry unreadable, its tags are damaged", "Readings cannot be told apart without their tags.", "Check the disk."),
    Event("BF-STO-013", "warning", "spool cannot note a delivery yet", "The disk is full; readings may come again after a kill.", "Make room."),
    Event("BF-STO-014", "warning", "readings discarded", "A spool was full, or readings expired; counted by `reason`.", "Mend the target, or raise its quota, see docs/buffering.md."),
    Event("BF-STO-015", "warning", "spool upgraded", "A spool of an earlier version was taken over.", NOTHING),
    Event("BF-STO-016", "warning", "dead letters", "Readings came that nobody can use, or that `target` will never take; `reason` is the first one's.", "`bifrost dlq list` shows them; send them again with `bifrost dlq replay` when the reason has gone."),
    Event("BF-STO-017", "warning", "dead letters discarded, their store is full", "The oldest ones are lost for good.", "Look at the letters, then purge or replay them; raise `gateway.dead_letters.quota`."),
    Event("BF-STO-018", "error", "dead letters damaged, some may be lost", "Records could not be read when the store was opened.", "Check the disk."),
    Event("BF-STO-019", "warning", "dead letters upgraded", "The store of an earlier version was taken over.", NOTHING),
    Event("BF-STO-020", "error", "dead letters unreadable, their tags are damaged", "They could not be taken over from an earlier version.", "Check the disk."),
    # ------------------------------------------------------------------ discovery
    Event("BF-DSC-001", "info", "network scan began", "Somebody (`who`), or `discovery.interval`, has the networks in `subnets` scanned.", "Nothing, if it is meant; else stop it and see the audit."),
    Event("BF-DSC-002", "info", "network scan ended", "`result` says whether it is complete, was stopped or failed; `open` ports were found.", NOTHING),
    Event("BF-DSC-003", "info", "network scan found", "A server is new, has changed (`changes` says in what) or is there again.", "See `bifrost discover list`."),
    Event("BF-DSC-004", "error", "what a network scan found is not kept", "`discovery.json` in the gateway's directory cannot be read or written.", "Do what `error` says, and scan again."),
    Event("BF-DSC-005", "error", "network scan by interval failed", "`error` says why; it is tried again after `discovery.interval`.", "Do what `error` says."),
)  # fmt: skip

CODES: Final[Mapping[str, str]] = {event.text: event.code for event in EVENTS}


def page() -> str:
    """docs/reference/events.md."""
    out = [
        "# Events\n",
        "<!-- Written by `python -m config.reference` from config/events.py; change that. -->\n",
        "What the gateway logs has a `code` that stays the same when its words change, on a terminal and in JSON: filter and",
        "alert by it. Names, times and reasons stand beside it in fields of their own, or in the places that are shown as `%s`.",
        "What has no code comes from a library. `gateway.log_level` says from which level on is logged, `gateway.log_format` how.\n",
    ]
    for group, title in GROUPS.items():
        out += [f"## {title}\n", "| code | level | says | means | do |", "|---|---|---|---|---|"]
        out += [
            f"| {one.code} | {one.level} | `{one.text}` | {one.meaning} | {one.action} |"
            for one in EVENTS
            if one.code.rpartition("-")[0] == group
        ]
        out.append("")
    return "\n".join(out).rstrip() + "\n"
