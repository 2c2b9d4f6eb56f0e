"""Real Kafka clusters for tests, demo and benchmarks."""
