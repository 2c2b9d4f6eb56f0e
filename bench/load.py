"""The clients of `bench.client`: librdkafka for records, a bare socket for single requests."""

from __future__ import annotations

import math
import os
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Any, Final, Self

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.cimpl import OFFSET_BEGINNING
from kio.schema.list_offsets.v5.request import ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic
from kio.schema.types import BrokerId, TopicName
from kio.static.primitive import i8, i32, i64

from bench.client_rig import Way
from bench.proxies import HOST
from protocol.api_keys import ApiKey
from protocol.headers import encode_request_header, response_body_offset
from protocol.messages import decode_response, encode_request, request_class

RECORD_BYTES: Final = 1024
PARTITIONS: Final = 8
_STALLED_AFTER_S: Final = 60.0
# Handed to librdkafka at once, so that Python is not what is measured.
_CHUNK: Final = 8_000
# Random, so that nothing gains from compressing it, and taken from one pool at changing places.
_POOL: Final = os.urandom(1 << 20)
_LIST_OFFSETS_VERSION: Final = 5
_LATEST: Final = i64(-1)
_CONSUMER: Final = BrokerId(-1)


def produce(way: Way, topic: str, records: int) -> float:
    """Seconds for that many records, acknowledged by all in-sync replicas; librdkafka's defaults."""
    failed: list[Any] = []
    chunk = [
        {"value": _POOL[start : start + RECORD_BYTES], "partition": number % PARTITIONS}
        for number in range(_CHUNK)
        for start in (number * 8_191 % (len(_POOL) - RECORD_BYTES),)
    ]
    producer = Producer(
        {
            **way.librdkafka(),
            "acks": "all",
            "delivery.report.only.error": True,
            "queue.buffering.max.kbytes": 256 << 10,
            "queue.buffering.max.messages": 1_000_000,
            "error_cb": failed.append,
            "on_delivery": lambda error, _: failed.append(error),
        }
    )
    # Connected and with the topic's leaders known before the clock starts.
    producer.list_topics(topic, timeout=_STALLED_AFTER_S)
    began = time.monotonic()
    sent = 0
    while sent < records:
        wanted = chunk[: records - sent]
        queued = producer.produce_batch(topic, wanted)
        sent += queued
        if queued < len(wanted):
            # The queue is full; those that were not taken go again.
            producer.poll(0.005)
    if producer.flush(_STALLED_AFTER_S) or failed:
        raise RuntimeError(f"{way.path}: not produced: {failed[:3]}")
    return time.monotonic() - began


def consume(way: Way, topic: str, records: int) -> float:
    """Seconds for that many records, from the arrival of the first one; librdkafka's defaults."""
    consumer = Consumer(
        {
            **way.librdkafka(),
            "group.id": "bench",
            "enable.auto.commit": False,
            "queued.min.messages": 1_000_000,
            "queued.max.messages.kbytes": 256 << 10,
        }
    )
    with closing(consumer):
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(PARTITIONS)])
        seen = len(consumer.consume(1, timeout=_STALLED_AFTER_S))
        began = time.monotonic()
        while seen < records:
            messages = consumer.consume(min(10_000, records - seen), timeout=_STALLED_AFTER_S)
            if not messages or any(message.error() for message in messages):
                raise RuntimeError(f"{way.path}: {seen} of {records} records consumed")
            seen += len(messages)
        return time.monotonic() - began


class RequestClient:
    """One blocking connection that asks for one partition's end, over and over; logged in if need be."""

    def __init__(self, way: Way, topic: str, context: ssl.SSLContext | None) -> None:
        self._socket = socket.create_connection((HOST, way.port), timeout=_STALLED_AFTER_S)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                self._socket = context.wrap_socket(self._socket, server_hostname=HOST)
            if way.user is not None:
                self._log_in(way.user, way.password)
        except BaseException:
            self._socket.close()
            raise
        self._request = _frame(_list_offsets(topic))

    def call(self) -> int:
        """The partition's end, once there is a leader who knows it."""
        deadline = time.monotonic() + _STALLED_AFTER_S
        while True:
            body = self._exchange(self._request)
            response = decode_response(ApiKey.LIST_OFFSETS, _LIST_OFFSETS_VERSION, body[4:])
            partition = response.topics[0].partitions[0]
            if not partition.error_code:
                return int(partition.offset)
            if time.monotonic() > deadline:
                raise RuntimeError(f"ListOffsets: {partition.error_code!r}")
            time.sleep(0.05)

    def time(self, seconds: float) -> tuple[float, list[float]]:
        """One request after the other for a while: how long in fact, and how long each took, in seconds."""
        request, send, receive = self._request, self._socket.sendall, self._socket.recv
        clock = time.perf_counter
        took = []
        began = before = clock()
        while before - began < seconds:
            send(request)
            # An answer is some 60 bytes: it comes in one piece.
            if len(receive(4096)) < 8:
                raise RuntimeError("the connection was closed")
            now = clock()
            took.append(now - before)
            before = now
        return before - began, took

    def _log_in(self, user: str, password: str) -> None:
        for message in (
            request_class(ApiKey.SASL_HANDSHAKE, 1)(mechanism="PLAIN"),
            request_class(ApiKey.SASL_AUTHENTICATE, 1)(auth_bytes=f"\0{user}\0{password}".encode()),
        ):
            key, version = int(message.__api_key__), int(message.__version__)
            frame = self._exchange(_frame(message))
            response = decode_response(key, version, frame[response_body_offset(key, version, frame) :])
            if response.error_code:
                raise RuntimeError(f"not logged in: {response.error_code!r}")

    def _exchange(self, framed: bytes) -> bytes:
        self._socket.sendall(framed)
        (size,) = struct.unpack(">i", self._exactly(4))
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise RuntimeError("the connection was closed")
            data += piece
        return data

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hold_connections(way: Way, topic: str, count: int, stack: ExitStack) -> None:
    """Opens connections that stay until the stack ends; each has had one request answered."""
    context = way.ssl_context()
    for _ in range(count):
        stack.enter_context(RequestClient(way, topic, context)).call()


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed; of at least one."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _list_offsets(topic: str) -> ListOffsetsRequest:
    partition = ListOffsetsPartition(partition_index=i32(0), current_leader_epoch=i32(-1), timestamp=_LATEST)
    asked = ListOffsetsTopic(name=TopicName(topic), partitions=(partition,))
    return ListOffsetsRequest(replica_id=_CONSUMER, isolation_level=i8(0), topics=(asked,))


def _frame(message: Any) -> bytes:
    key, version = int(message.__api_key__), int(message.__version__)
    frame = encode_request_header(key, version, 1, "bench") + encode_request(message)
    return struct.pack(">i", len(frame)) + frame
