"""Unique ids: UUIDv7 and Snowflake."""
