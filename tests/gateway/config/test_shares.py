"""What each worker process has of the limits."""

import pytest

from gateway.config import Config, LimitsConfig, ListenerConfig
from gateway.config.shares import DIVIDED_LIMITS, DIVIDED_OF_LISTENERS, share

PER_CONNECTION = {
    "authentication_failure_delay_ms",
    "authentication_timeout_ms",
    "frame_timeout_ms",
    "idle_timeout_ms",
    "ipv6_prefix_bits",
    "max_decoded_request_bytes",
    "max_frame_bytes",
    "max_frame_bytes_before_authentication",
    "max_in_flight",
    "max_in_flight_bytes",
}


def config(**limits: int) -> Config:
    return Config.model_validate(
        {
            "cluster": {"bootstrap_servers": ["kafka:9092"]},
            "authorization": "none",
            "limits": limits,
            "listeners": [
                {
                    "name": name,
                    "port": port,
                    "node_ids": "1",
                    "advertised_host": "gateway",
                    "insecure": True,
                    "authentication": "none",
                    "max_connections": limit,
                }
                for name, port, limit in (("one", 9092, 9), ("two", 9192, None))
            ],
        }
    )


def test_every_limit_is_either_divided_or_holds_per_connection() -> None:
    assert set(LimitsConfig.model_fields) == DIVIDED_LIMITS | PER_CONNECTION
    of_listeners = {name for name in ListenerConfig.model_fields if name.startswith("max_")}
    assert of_listeners == DIVIDED_OF_LISTENERS


def test_what_is_for_all_is_divided_and_rounded_up() -> None:
    whole = config(max_connections=10, max_connections_per_ip=2, max_in_flight=7)
    part = share(whole, 4)
    assert (part.limits.max_connections, part.limits.max_connections_per_ip) == (3, 1)
    assert part.limits.connections_per_second_per_ip is None
    assert [listener.max_connections for listener in part.listeners] == [3, None]
    per_connection = {name: getattr(part.limits, name) for name in PER_CONNECTION}
    assert per_connection == {name: getattr(whole.limits, name) for name in PER_CONNECTION}
    assert part.cluster == whole.cluster


@pytest.mark.parametrize("workers", [1, 3])
def test_the_shares_make_up_the_whole(workers: int) -> None:
    part = share(config(max_connections=9), workers)
    assert part.limits.max_connections * workers == 9
