"""Pools: many workers of one actor class behind one handle. See `pool` for the node and `backlog` for the queue."""
