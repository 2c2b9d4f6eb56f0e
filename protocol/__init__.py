"""Kafka's wire protocol: bytes in, decisions out; nothing here waits, logs or reads a clock."""
