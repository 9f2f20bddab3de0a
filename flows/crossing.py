"""What crosses from one member of a cluster to another: batches with tags of their own, and the way home."""

import numpy as np
import pyarrow as pa

from flows.cluster import Cluster
from normalization.reading import FACTS, TAG_COLUMNS, Tag, TagTable, view
from normalization.rules import take


def localize(batch: pa.RecordBatch, tags: TagTable) -> pa.RecordBatch:
    """A batch that came from another process, with the tags of this one; other batches as they are."""
    if (batch.schema.metadata or {}).get(b"tags") == tags.token:
        return batch
    facts = [batch.column(name) for name in FACTS.names]
    _, first, row = np.unique(facts[0].to_numpy(), return_index=True, return_inverse=True)
    names = {name: batch.column(name).take(pa.array(first)).to_pylist() for name in TAG_COLUMNS}
    ids = [tags.intern(Tag(**{name: column[tag] for name, column in names.items()})) for tag in range(len(first))]
    facts[0] = pa.array(np.array(ids, np.int32)[row])
    return view(
        facts, batch.column("gateway"), batch.column("shard"), tags, batch.column("value"), batch.column("priority")
    )


def homes(batch: pa.RecordBatch, gateway: str, cluster: Cluster | None) -> list[tuple[str, pa.RecordBatch]]:
    """The batch apart by the member whose spools get it, as keyed items.

    A reading goes to the member whose journal it came from: that one knows when the reading will not come again. What a step
    has made of several stays where it was made.

    Args:
        batch: A batch of `stream_schema`.
        gateway: This gateway.
        cluster: The cluster that it is in.
    """
    if cluster is None:
        return [(gateway, batch)]
    names = batch.column("gateway")
    home = [cluster.members.home(name) for name in names.dictionary.to_pylist()]
    codes = names.indices.to_numpy()
    if len(set(home)) == 1:
        return [(home[0], batch)]
    found = []
    for member in sorted(set(home)):
        rows = np.flatnonzero(np.isin(codes, [code for code, name in enumerate(home) if name == member]))
        if len(rows):
            found.append((member, take(batch, rows)))
    return found
