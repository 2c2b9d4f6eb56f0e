"""Benchmarks on real Kafka: `make bench`."""
