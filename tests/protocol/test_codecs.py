"""The codecs: round trips, Kafka's framings, bounds, and broken input."""

import struct
import zlib
from contextlib import suppress

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codecs import Codec, OutputTooLarge, compress, decompress
from protocol.errors import DecodeError

COMPRESSING = [codec for codec in Codec if codec is not Codec.NONE]
MEBIBYTE = 1 << 20


@given(st.sampled_from(list(Codec)), st.binary(max_size=2000), st.integers(1, 60))
def test_round_trip(codec: Codec, data: bytes, times: int) -> None:
    data *= times
    compressed = compress(codec, data)
    for wrapped in (compressed, bytearray(compressed), memoryview(compressed)):
        assert decompress(codec, wrapped, len(data)) == data


@pytest.mark.parametrize("codec", COMPRESSING)
def test_it_compresses(codec: Codec) -> None:
    assert len(compress(codec, bytes(MEBIBYTE))) < MEBIBYTE / 10


@pytest.mark.parametrize("codec", Codec)
def test_output_above_the_limit(codec: Codec) -> None:
    compressed = compress(codec, bytes(MEBIBYTE))
    for limit_bytes in (0, 1, 1000, MEBIBYTE - 1):
        with pytest.raises(OutputTooLarge, match=str(limit_bytes)) as caught:
            decompress(codec, compressed, limit_bytes)
        assert caught.value.limit_bytes == limit_bytes


@pytest.mark.parametrize("codec", COMPRESSING)
def test_a_bomb_costs_no_more_than_the_limit(codec: Codec) -> None:
    bomb = compress(codec, bytes(64 * MEBIBYTE))
    with pytest.raises(OutputTooLarge):
        decompress(codec, bomb, 1000)


@pytest.mark.parametrize("codec", COMPRESSING)
def test_truncated_anywhere(codec: Codec) -> None:
    compressed = compress(codec, bytes(range(256)) * 5)
    for length in range(len(compressed)):
        # Snappy's framing has no end, so that its header alone is nothing, compressed.
        if codec is Codec.SNAPPY and length == 16:
            assert decompress(codec, compressed[:length], MEBIBYTE) == b""
        else:
            with pytest.raises(DecodeError):
                decompress(codec, compressed[:length], MEBIBYTE)


@given(st.sampled_from(COMPRESSING), st.binary(max_size=300))
def test_arbitrary_bytes(codec: Codec, data: bytes) -> None:
    _never_fails_otherwise(codec, data)


@given(st.sampled_from(COMPRESSING), st.data())
def test_mutated_bytes(codec: Codec, data: st.DataObject) -> None:
    mutated = bytearray(compress(codec, b"key and value " * 40 + bytes(range(256))))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(mutated) - 1))
        mutated[position] = data.draw(st.integers(0, 255))
    _never_fails_otherwise(codec, mutated)


def _never_fails_otherwise(codec: Codec, data: bytes | bytearray) -> None:
    with suppress(DecodeError):
        assert len(decompress(codec, data, 5000)) <= 5000


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_numbers_without_a_codec(codec: int) -> None:
    with pytest.raises(ValueError, match=str(codec)):
        compress(codec, b"")
    with pytest.raises(DecodeError, match=f"codec {codec}"):
        decompress(codec, b"", 10)


def test_gzip_followed_by_bytes() -> None:
    with pytest.raises(DecodeError, match="follow"):
        decompress(Codec.GZIP, compress(Codec.GZIP, b"abc") * 2, 100)


def test_gzip_without_its_wrapping_is_refused() -> None:
    with pytest.raises(DecodeError, match="gzip"):
        decompress(Codec.GZIP, zlib.compress(b"abc"), 100)


def test_snappy_is_framed_as_the_java_client_does() -> None:
    data = bytes(range(256)) * 300
    compressed = compress(Codec.SNAPPY, data)
    assert compressed.startswith(b"\x82SNAPPY\0\0\0\0\1\0\0\0\1")
    position, blocks = 16, []
    while position < len(compressed):
        (length,) = struct.unpack_from(">i", compressed, position)
        blocks.append(bytes(cramjam.snappy.decompress_raw(compressed[position + 4 : position + 4 + length])))
        position += 4 + length
    assert [len(block) for block in blocks] == [32768, 32768, 11264]
    assert b"".join(blocks) == data


def test_raw_snappy() -> None:
    data = b"as librdkafka sends it " * 10
    assert decompress(Codec.SNAPPY, bytes(cramjam.snappy.compress_raw(data)), len(data)) == data


@pytest.mark.parametrize("length", [-1, 4, 2**31 - 1])
def test_a_snappy_block_that_lies(length: int) -> None:
    header = compress(Codec.SNAPPY, b"")
    with pytest.raises(DecodeError, match=f"block of {length} bytes in 3"):
        decompress(Codec.SNAPPY, header + struct.pack(">i", length) + b"abc", 100)


def test_lz4_blocks_are_independent() -> None:
    # FLG: version 01, block independence; Kafka's reader refuses frames without it.
    assert compress(Codec.LZ4, b"abc" * 100)[4] & 0xE0 == 0x60
