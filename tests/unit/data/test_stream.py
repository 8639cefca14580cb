from __future__ import annotations

import numpy as np
import pyarrow as pa
from chatsearch.data.config import StreamConfig
from chatsearch.data.steps import StepBuilder
from chatsearch.data.stream import batch_of, to_table


def test_batches_pass_through_arrow_without_pickled_objects(make_shards, caption_sample, tokenizer) -> None:
    uri = make_shards([caption_sample(i) for i in range(5)])
    builder = StepBuilder((StreamConfig(shards=uri, per_step=5),), tokenizer, 3, 64, preprocess=np.asarray)
    for build in (builder, StepBuilder(builder.streams, tokenizer, 3, 64, num_micro_batches=7)):
        batches = build.build(3, 0, 1)
        table = to_table(3, batches)
        assert table.schema == to_table(4, []).schema
        assert not any(isinstance(f.type, pa.ExtensionType) for f in table.schema)
        for row, batch in zip(table.to_pylist(), batches, strict=True):
            assert row["step"] == 3
            back = batch_of(row)
            assert back.image_hashes == batch.image_hashes
            assert back.labels.flags.writeable
            assert back.to_arrays().keys() == batch.to_arrays().keys()
            for name, array in batch.to_arrays().items():
                np.testing.assert_array_equal(back.to_arrays()[name], array)
