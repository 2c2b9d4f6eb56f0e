"""Record batches of real producers, as a real broker returned them, and the records that were in them."""

from pathlib import Path
from typing import Final

from protocol.record_batches import BatchView, read_batches
from protocol.records import Record

_LINES = (Path(__file__).parent / "data" / "record_batches.txt").read_text().splitlines()
RAW: Final = {
    name: bytes.fromhex(data) for name, data in (line.split() for line in _LINES if not line.startswith("#"))
}
CODECS: Final = ("none", "gzip", "snappy", "lz4", "zstd")
# kafka-python has only these without further packages.
PRODUCED: Final = tuple(
    f"{producer}-{codec}"
    for producer in ("java", "librdkafka", "aiokafka", "kafka-python")
    for codec in CODECS
    if producer != "kafka-python" or codec in ("none", "gzip")
)
_FIRST_TIMESTAMP = 1_700_000_000_000


def captured(name: str) -> list[BatchView]:
    """The batches of one line."""
    return list(read_batches(RAW[name]))


def produced_records(name: str) -> list[Record]:
    """What the producers sent; the Python ones cannot send a header without a value."""
    null = None if name.startswith(("java", "librdkafka")) else b""
    records: list[Record] = []
    for batch, count in enumerate((1, 6, 1)):
        step = -7 if batch == 1 else 1
        for index in range(count):
            records.append(
                Record(
                    len(records),
                    _FIRST_TIMESTAMP + batch * 1000 + index * step,
                    None if index == 2 else f"key-{batch}-{index}".encode(),
                    None if index == 3 else ("value " * 8 + f"{batch} {index}").encode(),
                    (("hé", b"\0\1"), ("nul", null)) if index == 0 else (),
                )
            )
    return records
