"""The compression codecs of record batches: gzip, snappy, lz4 (frames), zstd (KIP-110), with bounded output.

Snappy is written in the framing of the Java client (xerial's SnappyOutputStream) and read in this framing
and raw, as librdkafka and others send it. LZ4 frames are written with independent blocks, the only ones that
Kafka's `Lz4BlockInputStream` reads (KIP-57).
"""

import struct
import zlib
from collections.abc import Callable
from enum import IntEnum
from typing import Final

import cramjam

from protocol.errors import DecodeError

Buffer = bytes | bytearray | memoryview


class Codec(IntEnum):
    """The low three bits of a batch's attributes (Kafka: `CompressionType`)."""

    NONE = 0
    GZIP = 1
    SNAPPY = 2
    LZ4 = 3
    ZSTD = 4


class OutputTooLarge(DecodeError):
    """Compressed records that grow above `limit_bytes`: a bomb, or only more than the caller can use."""

    def __init__(self, codec: str, limit_bytes: int) -> None:
        super().__init__(f"{codec} records decompress to more than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


def compress(codec: int, data: bytes) -> bytes:
    """Compress a records section; ValueError for a codec that Kafka does not have."""
    if codec == Codec.NONE:
        return data
    if codec not in _COMPRESS:
        raise ValueError(f"no codec has the number {codec}")
    return _COMPRESS[codec](data)


def decompress(codec: int, data: Buffer, limit_bytes: int) -> bytes:
    """Decompress a records section, to at most `limit_bytes`. Raises OutputTooLarge, DecodeError."""
    if codec == Codec.NONE:
        if len(data) > limit_bytes:
            raise OutputTooLarge("uncompressed", limit_bytes)
        return bytes(data)
    if codec not in _DECOMPRESS:
        raise DecodeError(f"records are compressed with codec {codec}, which Kafka does not have")
    return _DECOMPRESS[codec](data, limit_bytes)


_GZIP_WINDOW_BITS: Final = 31  # zlib: a window of 2**15, in gzip's wrapping
_GZIP_LEVEL: Final = 6


def _compress_gzip(data: bytes) -> bytes:
    return zlib.compress(data, _GZIP_LEVEL, _GZIP_WINDOW_BITS)


def _decompress_gzip(data: Buffer, limit_bytes: int) -> bytes:
    stream = zlib.decompressobj(_GZIP_WINDOW_BITS)
    try:
        # zlib takes a bound of 0 for no bound, hence the one byte more.
        output = stream.decompress(data, limit_bytes + 1)
    except zlib.error as error:
        raise DecodeError(f"gzip records are broken: {error}") from error
    if len(output) > limit_bytes:
        raise OutputTooLarge("gzip", limit_bytes)
    if not stream.eof:
        raise DecodeError("gzip records are cut short")
    if stream.unused_data:
        raise DecodeError("bytes follow the end of gzip records")
    return output


_XERIAL_MAGIC: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER: Final = _XERIAL_MAGIC + struct.pack(">ii", 1, 1)
_XERIAL_BLOCK_BYTES: Final = 32 * 1024
_INT32: Final = struct.Struct(">i")


def _compress_snappy(data: bytes) -> bytes:
    view = memoryview(data)
    parts = [_XERIAL_HEADER]
    for start in range(0, len(view), _XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(view[start : start + _XERIAL_BLOCK_BYTES]))
        parts += (_INT32.pack(len(block)), block)
    return b"".join(parts)


def _decompress_snappy(data: Buffer, limit_bytes: int) -> bytes:
    view = memoryview(data)
    framed = bytes(view[: len(_XERIAL_MAGIC)]) == _XERIAL_MAGIC
    try:
        blocks = [
            (block, cramjam.snappy.decompress_raw_len(block))
            for block in (_xerial_blocks(view) if framed else [view])
        ]
        total_bytes = sum(length for _, length in blocks)
        if total_bytes > limit_bytes:
            raise OutputTooLarge("snappy", limit_bytes)
        output = bytearray(total_bytes)
        free = memoryview(output)
        for block, length in blocks:
            cramjam.snappy.decompress_raw_into(block, free[:length])
            free = free[length:]
    except cramjam.DecompressionError as error:
        raise DecodeError(f"snappy records are broken: {error}") from error
    return bytes(output)


def _xerial_blocks(view: memoryview) -> list[memoryview]:
    blocks = []
    position = len(_XERIAL_HEADER)
    if position > len(view):
        raise DecodeError("snappy records end within their header")
    while position < len(view):
        start = position + _INT32.size
        if start > len(view):
            raise DecodeError("snappy records end within the length of a block")
        (length,) = _INT32.unpack_from(view, position)
        position = start + length
        if length < 0 or position > len(view):
            raise DecodeError(f"a snappy block of {length} bytes in {len(view) - start} bytes")
        blocks.append(view[start:position])
    return blocks


# Levels that cost little: merging is in the replicator's hot path.
_LZ4_LEVEL: Final = 1
_ZSTD_LEVEL: Final = 3
# What Rust's `Write for &mut [u8]` says when the slice is full; cramjam has no type of its own for it.
_BUFFER_FULL: Final = "failed to write whole buffer"
_FIRST_GUESS_FACTOR: Final = 8


def _compress_lz4(data: bytes) -> bytes:
    stream = cramjam.lz4.Compressor(level=_LZ4_LEVEL, content_checksum=False, block_linked=False)
    stream.compress(data)
    return bytes(stream.finish())


def _decompress_lz4(data: Buffer, limit_bytes: int) -> bytes:
    return _decompress_into("lz4", cramjam.lz4.decompress_into, data, limit_bytes)


def _compress_zstd(data: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(data, _ZSTD_LEVEL))


def _decompress_zstd(data: Buffer, limit_bytes: int) -> bytes:
    return _decompress_into("zstd", cramjam.zstd.decompress_into, data, limit_bytes)


def _decompress_into(
    name: str, into: Callable[[Buffer, bytearray], int], data: Buffer, limit_bytes: int
) -> bytes:
    # Frames need not say how long their output is, and if they do, may lie: so guess, and grow to the limit.
    size = min(limit_bytes, _FIRST_GUESS_FACTOR * len(data))
    while True:
        output = bytearray(size)
        try:
            written = into(data, output)
        except cramjam.DecompressionError as error:
            if _BUFFER_FULL not in str(error):
                raise DecodeError(f"{name} records are broken: {error}") from error
            if size >= limit_bytes:
                raise OutputTooLarge(name, limit_bytes) from error
            size = min(limit_bytes, size * _FIRST_GUESS_FACTOR)
        else:
            return bytes(memoryview(output)[:written])


_COMPRESS: Final[dict[int, Callable[[bytes], bytes]]] = {
    Codec.GZIP: _compress_gzip,
    Codec.SNAPPY: _compress_snappy,
    Codec.LZ4: _compress_lz4,
    Codec.ZSTD: _compress_zstd,
}
_DECOMPRESS: Final[dict[int, Callable[[Buffer, int], bytes]]] = {
    Codec.GZIP: _decompress_gzip,
    Codec.SNAPPY: _decompress_snappy,
    Codec.LZ4: _decompress_lz4,
    Codec.ZSTD: _decompress_zstd,
}
