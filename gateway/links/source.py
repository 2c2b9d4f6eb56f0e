"""Reading a link's source: Fetch as a consumer, up to the last stable offset.

Whether the connection was dialled or is a bound one of the source half makes no difference here.
"""

from collections.abc import Sequence
from typing import Final

from gateway.upstreams.connection import BrokerConnection
from protocol.api_keys import ApiKey
from protocol.replication import (
    FETCH_BY_ID,
    FETCH_BY_NAME,
    READ_COMMITTED,
    READ_UNCOMMITTED,
    FetchedPartition,
    FetchTopic,
    decode_fetch,
    encode_fetch,
)

MAX_WAIT_MS: Final = 500


async def fetch(
    connection: BrokerConnection,
    topics: Sequence[FetchTopic],
    *,
    max_bytes: int,
    max_wait_ms: int = MAX_WAIT_MS,
    timeout_s: float,
    read_committed: bool = True,
) -> tuple[int, list[FetchedPartition]]:
    """Error code and partitions of one Fetch; by topic id where the broker can and every id is known.

    DecodeError, ConnectionClosed, TimeoutError and UnsupportedVersion as `BrokerConnection`.
    """
    _, newest = connection.api_versions.get(ApiKey.FETCH, (0, 0))
    if newest >= FETCH_BY_ID and all(topic.topic_id is not None for topic in topics):
        version = FETCH_BY_ID
    else:
        version = connection.pick_version(ApiKey.FETCH, *FETCH_BY_NAME)
    body = encode_fetch(
        version,
        topics,
        max_wait_ms=max_wait_ms,
        max_bytes=max_bytes,
        isolation_level=READ_COMMITTED if read_committed else READ_UNCOMMITTED,
    )
    response = await connection.request_raw(ApiKey.FETCH, version, [body], timeout_s=timeout_s)
    return decode_fetch(version, response)
