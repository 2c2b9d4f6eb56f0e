import asyncio
import itertools
import socket
import tracemalloc
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import DecodeError, FrameTooLarge
from protocol.framing import FrameDecoder, frame_size_prefix

LIMIT = 100 << 20
# Empty, tiny, larger than the first buffer, and one that gets a bytearray of its own.
FRAMES = [b"", b"a", b"second", bytes(range(256)) * 20, b"", b"x" * 33_000, b"last"]


def stream(frames: Iterable[bytes]) -> bytes:
    return b"".join(frame_size_prefix(len(frame)) + frame for frame in frames)


Data = bytes | memoryview


def by_feed(decoder: FrameDecoder, data: Data) -> None:
    decoder.feed(data)


def by_buffer(decoder: FrameDecoder, data: Data) -> None:
    """Write as an event loop does: as much as fits, and drain after each read."""
    while data:
        buffer = decoder.get_buffer(-1)
        assert len(buffer) > 0
        read = min(len(buffer), len(data))
        buffer[:read] = data[:read]
        decoder.buffer_updated(read)
        decoder.settle()
        data = data[read:]


Path = Callable[[FrameDecoder, Data], None]
both_paths = pytest.mark.parametrize("receive", [by_feed, by_buffer])


def one(decoder: FrameDecoder) -> bytes:
    frame = decoder.next_frame()
    assert frame is not None
    return bytes(frame)


def taken(decoder: FrameDecoder) -> list[bytes]:
    frames = []
    while (frame := decoder.next_frame()) is not None:
        assert type(frame) is bytearray
        frames.append(bytes(frame))
    return frames


@both_paths
def test_a_stream_split_at_every_byte(receive: Path) -> None:
    data = stream(FRAMES)
    for split in range(len(data) + 1):
        decoder = FrameDecoder(LIMIT)
        receive(decoder, data[:split])
        frames = taken(decoder)
        receive(decoder, data[split:])
        assert frames + taken(decoder) == FRAMES


@both_paths
def test_one_byte_at_a_time(receive: Path) -> None:
    decoder = FrameDecoder(LIMIT)
    frames = []
    for byte in stream(FRAMES):
        receive(decoder, bytes([byte]))
        frames += taken(decoder)
    assert frames == FRAMES


@both_paths
@given(
    sizes=st.lists(st.integers(0, 60) | st.integers(0, 150_000), max_size=12),
    chunks=st.lists(st.integers(1, 70_000), min_size=1, max_size=30),
    drained=st.booleans(),
)
@settings(deadline=None)
def test_any_frames_in_any_chunks(receive: Path, sizes: list[int], chunks: list[int], drained: bool) -> None:
    frames = [bytes([number]) * size for number, size in enumerate(sizes)]
    data = stream(frames)
    decoder = FrameDecoder(LIMIT)
    received = []
    at = 0
    for chunk in itertools.cycle(chunks):
        receive(decoder, data[at : at + chunk])
        at += chunk
        if drained:
            received += taken(decoder)
        if at >= len(data):
            break
    assert received + taken(decoder) == frames


def test_a_frame_is_the_callers_own() -> None:
    decoder = FrameDecoder(LIMIT)
    decoder.feed(stream([b"abc", b"def"]))
    first = decoder.next_frame()
    assert first is not None
    first[:] = b"xxxx"
    assert one(decoder) == b"def"


@pytest.mark.parametrize("size", [LIMIT + 1, 2**31 - 1])
def test_a_frame_over_the_limit(size: int) -> None:
    decoder = FrameDecoder(LIMIT)
    decoder.feed(stream([b"before"]) + frame_size_prefix(size))
    assert one(decoder) == b"before"
    with pytest.raises(FrameTooLarge) as caught:
        decoder.next_frame()
    assert (caught.value.size_bytes, caught.value.limit_bytes) == (size, LIMIT)


def test_a_frame_of_just_the_limit() -> None:
    decoder = FrameDecoder(5)
    decoder.feed(stream([b"12345"]))
    assert one(decoder) == b"12345"


@pytest.mark.parametrize("size", [-1, -(2**31)])
def test_a_negative_size(size: int) -> None:
    decoder = FrameDecoder(LIMIT)
    decoder.feed(frame_size_prefix(size))
    with pytest.raises(DecodeError, match="negative"):
        decoder.next_frame()


@both_paths
def test_it_stays_broken_and_keeps_nothing(receive: Path) -> None:
    junk = memoryview(stream([b"good"]) * 100_000)
    decoder = FrameDecoder(10)
    receive(decoder, frame_size_prefix(11) + b"x")
    for _ in range(2):
        with pytest.raises(FrameTooLarge):
            decoder.next_frame()
        tracemalloc.start()
        receive(decoder, junk)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 50_000


def test_the_limit_may_change_between_frames() -> None:
    decoder = FrameDecoder(3)
    decoder.feed(stream([b"abc", b"abcd", b"abcde"]))
    assert one(decoder) == b"abc"
    decoder.max_frame_bytes = 4
    assert one(decoder) == b"abcd"
    with pytest.raises(FrameTooLarge):
        decoder.next_frame()


def test_a_claimed_size_takes_no_memory() -> None:
    tracemalloc.start()
    decoders = [FrameDecoder(LIMIT) for _ in range(10)]
    for decoder in decoders:
        decoder.feed(frame_size_prefix(LIMIT) + b"x")
        assert decoder.next_frame() is None
        decoder.get_buffer(-1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 50_000


def test_memory_follows_the_bytes_received() -> None:
    decoder = FrameDecoder(LIMIT)
    decoder.feed(frame_size_prefix(10 << 20))
    assert decoder.next_frame() is None
    received = 0
    while received < 10 << 20:
        buffer = decoder.get_buffer(-1)
        assert len(buffer) <= max(received, 32 << 10)
        read = min(len(buffer), 100_000)
        del buffer
        decoder.buffer_updated(read)
        received += read
    frame = decoder.next_frame()
    assert frame is not None
    assert len(frame) == 10 << 20


def test_the_buffer_stops_growing_when_frames_are_taken() -> None:
    decoder = FrameDecoder(LIMIT)
    frame = bytes(999)
    data = stream([frame] * 2_000)
    largest = received = at = 0
    while at < len(data):
        buffer = decoder.get_buffer(-1)
        largest = max(largest, len(buffer))
        read = min(len(buffer), len(data) - at)
        buffer[:read] = data[at : at + read]
        decoder.buffer_updated(read)
        at += read
        received += len(taken(decoder))
    assert received == 2_000
    assert largest <= 64 << 10


def test_a_large_frame_is_received_in_place() -> None:
    size = 8 << 20
    chunk = bytes(64 << 10)
    decoder = FrameDecoder(LIMIT)
    tracemalloc.start()
    decoder.feed(frame_size_prefix(size))
    while (frame := decoder.next_frame()) is None:
        decoder.feed(chunk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(frame) == size
    # Half of the frame as zeros for a moment, when it is doubled last; a copy would be all of it again.
    assert peak < 1.6 * size


def test_a_trusted_size_is_allocated_at_once() -> None:
    size = 8 << 20
    decoder = FrameDecoder(LIMIT, trusted_bytes=LIMIT)
    content = bytes(range(256)) * (size >> 8)
    rest = memoryview(stream([b"before", content, b"after"]))
    tracemalloc.start()
    decoder.feed(rest[:1_000])
    assert one(decoder) == b"before"
    assert decoder.next_frame() is None
    # All that is missing fits where the next bytes go.
    assert len(decoder.get_buffer(-1)) == size - (1_000 - 10 - 4)
    decoder.feed(rest[1_000:])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken(decoder) == [content, b"after"]
    assert peak < 1.1 * size


def test_of_a_frame_above_the_trust_only_that_much_is_allocated() -> None:
    decoder = FrameDecoder(LIMIT, trusted_bytes=1 << 20)
    content = bytes(range(256)) * (4 << 12)
    rest = memoryview(stream([content]))
    decoder.feed(rest[:1_000])
    assert decoder.next_frame() is None
    assert len(decoder.get_buffer(-1)) == (1 << 20) - (1_000 - 4)
    decoder.feed(rest[1_000:])
    assert taken(decoder) == [content]


@pytest.mark.parametrize("size", [0, 1, 5_000, 31_000, 33_000, 70_000])
def test_decoders_do_not_mix_what_they_receive(size: int) -> None:
    contents = [bytes([number]) * size for number in range(3)]
    streams = [memoryview(stream([b"before", content, b"after"])) for content in contents]
    decoders = [FrameDecoder(LIMIT) for _ in contents]
    frames: list[list[bytes]] = [[] for _ in contents]
    step = max(1, len(streams[0]) // 7)
    for start in range(0, len(streams[0]), step):
        for decoder, data, own in zip(decoders, streams, frames, strict=True):
            by_buffer(decoder, data[start : start + step])
            own += taken(decoder)
    assert frames == [[b"before", content, b"after"] for content in contents]


def test_a_decoder_that_waits_for_nothing_holds_no_memory() -> None:
    decoders = []
    tracemalloc.start()
    for _ in range(100):
        decoder = FrameDecoder(LIMIT)
        # In two pieces, so that it has had a buffer of its own.
        by_buffer(decoder, stream([b"x" * 100])[:50])
        assert decoder.next_frame() is None
        by_buffer(decoder, stream([b"x" * 100])[50:])
        assert one(decoder) == b"x" * 100
        by_buffer(decoder, b"")
        decoder.settle()
        decoders.append(decoder)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 100 * 1_000


def test_frames_that_are_not_taken_at_once_are_kept() -> None:
    decoder = FrameDecoder(LIMIT)
    frames = [bytes([number]) * 3_000 for number in range(30)]
    by_buffer(decoder, memoryview(stream(frames)))
    by_buffer(FrameDecoder(LIMIT), memoryview(stream([b"y" * 20_000])))
    assert taken(decoder) == frames


def test_growing_while_the_old_bytes_are_viewed() -> None:
    decoder = FrameDecoder(LIMIT)
    content = bytes(range(256)) * 1024
    views = []
    rest = stream([content])
    frame = None
    while frame is None:
        views.append(decoder.get_buffer(-1))
        read = min(len(views[-1]), len(rest))
        views[-1][:read] = rest[:read]
        decoder.buffer_updated(read)
        rest = rest[read:]
        frame = decoder.next_frame()
    assert frame == content


class Receiver(asyncio.BufferedProtocol):
    def __init__(self, expected: int) -> None:
        self.decoder = FrameDecoder(LIMIT)
        self.frames: list[bytes] = []
        self.expected = expected
        self.done = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.decoder.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        self.decoder.buffer_updated(nbytes)
        self.frames += taken(self.decoder)
        if len(self.frames) == self.expected:
            self.done.set_result(None)


async def test_behind_a_real_socket() -> None:
    ours, theirs = socket.socketpair()
    frames = [*FRAMES, bytes(3 << 20), *FRAMES]
    loop = asyncio.get_running_loop()
    transport, receiver = await loop.create_connection(lambda: Receiver(len(frames)), sock=ours)
    sender = asyncio.create_task(send(theirs, stream(frames)))
    async with asyncio.timeout(30):
        await receiver.done
        await sender
    assert receiver.frames == frames
    transport.close()
    theirs.close()


async def send(to: socket.socket, data: bytes) -> None:
    to.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(to, data)


@both_paths
@pytest.mark.parametrize(
    ("first", "name"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH"),
        (b"\x7f\xff\xff\xff rest", None),
        (b"\x06\x40\x00\x01 one byte too many", None),
    ],
)
def test_a_size_that_is_the_beginning_of_something_else(
    receive: Path, first: bytes, name: str | None
) -> None:
    decoder = FrameDecoder(LIMIT)
    receive(decoder, first)
    with pytest.raises(FrameTooLarge) as error:
        decoder.next_frame()
    assert error.value.looks_like == name


def test_a_trusted_size_is_believed_only_where_there_is_room_for_it() -> None:
    decoder = FrameDecoder(LIMIT, trusted_bytes=LIMIT)
    asked: list[int] = []

    def may_allocate(size: int) -> bool:
        asked.append(size)
        return size < 1 << 20

    decoder.may_allocate = may_allocate
    for size, allocated in ((1 << 19, 1 << 19), (1 << 21, 32 << 10)):
        assert decoder.large_bytes == 0
        decoder.feed(frame_size_prefix(size) + bytes(100))
        assert decoder.next_frame() is None
        assert decoder.large_bytes == allocated
        decoder.feed(bytes(size - 100))
        assert one(decoder) == bytes(size)
    # Then it asks before it doubles, and grows by little where it may not.
    assert asked == [1 << 19, 1 << 21, 1 << 18, 1 << 19, 1 << 20, (1 << 20) - (1 << 17)]
