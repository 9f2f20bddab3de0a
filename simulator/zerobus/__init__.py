"""A local stand-in for Databricks ZeroBus Ingest that the unmodified official SDK works against.

One process serves the gRPC endpoint (``EphemeralStream`` and Arrow Flight ``DoPut`` on one port) and an HTTP endpoint
(OAuth tokens, Unity Catalog tables, an admin API with fault knobs). Records are checked against the declared Delta table
before they are written to a log that is synced before the acknowledgement; real Delta tables are filled from that log in
the background, each record exactly once, also after a SIGKILL.

``wire``
    the protobuf messages of both RPCs
``schema``
    Delta column types and how a table is declared
``proto_rows`` (``proto_descriptor``), ``json_rows``, ``arrow_rows``
    one record format each: check a request against the table, and turn logged requests into columns
``log``
    the durable log
``tables``
    the Delta tables and the thread that fills them
``auth``, ``faults``
    tokens and grants; fault knobs and counters
``ingest``
    the two RPCs
``admin``
    the HTTP endpoint
``server``, ``cli``
    the process and its command line
"""
