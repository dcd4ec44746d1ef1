"""The published sizes of Bloom, and `tiny` for tests and the demo, as YAML."""
