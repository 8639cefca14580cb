"""Document shards: write, tokenise, pack, plan and stream."""
