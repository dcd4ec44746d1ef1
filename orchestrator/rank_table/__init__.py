"""HCCL rank tables."""
