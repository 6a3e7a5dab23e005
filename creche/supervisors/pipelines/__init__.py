"""Pipelines: items go through stages of workers. See `flow` for how they go, and `pipeline` for the specs."""
