"""Public test suites of clients, run straight against Kafka and through a gateway: `make client-suites`."""
