"""A small bank, and the tests with chaos that it has to pass. See docs/guides/chaos.md."""
