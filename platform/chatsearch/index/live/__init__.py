"""A gallery that changes while it is searched: an immutable base, a log of immutable batches, and readers that follow it.

    log/00000000000000000007.entry     one commit: a batch of items and deletions, a state, or the mark of a new writer
    lease/0000000003.json              who writes, under which fencing number, until when
    bases/<number>-<nonce>/features    raw f_CLS of the live pictures at one version, a feature store like any other
    bases/<number>-<nonce>/index       the shards built over it, a gallery index like any other

**Commit.** An entry is written with put-if-absent under the next number. That one request makes a write durable, gives it its place
and refuses every writer that does not know the latest entry; there is no pointer that could lag behind. Version ``n`` of the gallery
is what entries 1 to ``n`` make. Delta Lake commits in this way.

**Fence.** A new writer takes a lease with the next fencing number and then commits an ``open`` entry. A writer that was overtaken
finds its next number taken. Should that entry have been collected meanwhile, it finds the newer lease, for which it looks after
every write and before it acknowledges. Clocks decide only when a silent holder may be replaced, never which write counts. SlateDB
fences its log in this way.

**State.** A ``state`` entry says all by itself what the gallery is: base, ranges of batches to apply over it, projection, snapshots.
Compaction, rollback, snapshots and ``forget`` are one such entry each, so each happens whole or not at all. A reader walks back from
the newest entry to the newest state and applies what it passed.

**Checks.** Every entry and lease ends in its sha256, holds its gallery and number, and the sha256 of the entry before it. States
hold the sha256 of the manifests of their base, manifests those of their files. Nothing is given to FAISS, Arrow or a parser
unchecked.

**Rows.** A batch holds raw f_CLS; readers project with the M_Q that the state names, as ``build_index`` does. The log of a gallery is
tied to one encoder and preprocessing, a base to one M_Q: another is refused with both fingerprints.

What these checks cannot see: the newest entry taken away whole leaves a valid older version.
"""
