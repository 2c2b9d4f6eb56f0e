"""Decodes hostile bodies of every message that kio knows. A program of its own, run by test_message_guard.

If the guard let one of them through, kio would abort the process or take all memory: so it runs apart, and
after a first round, which fills every cache, under a limit of address space a little above what it has.
Prints how many bodies of each sort were tried.
"""

import random
import resource
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

from kio.serial import entity_reader

from protocol.errors import DecodeError
from protocol.messages import decode_request, decode_response, encode_request
from tests.protocol.schema_bytes import all_messages, build, hostile_variants

HEADROOM_BYTES = 24 << 20
TRACED_EVERY = 23


def main() -> None:
    messages = all_messages()
    for number, (message, request) in enumerate(messages):
        body, _ = build(message, number)
        decoded = decode(message, request, body)
        if encode_request(decoded) != body:
            sys.exit(f"{message.__module__}: encoding what was decoded gives other bytes")
    limit_address_space()
    tried = Counter[str]()
    for number, (message, request) in enumerate(messages):
        sweep(message, request, number, tried)
    print(*(f"{what}={count}" for what, count in tried.items()))


def limit_address_space() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def decode(message: Any, request: bool, body: bytes) -> Any:
    decoder = decode_request if request else decode_response
    return decoder(message.__api_key__, message.__version__, body)


def sweep(message: Any, request: bool, seed: int, tried: Counter[str]) -> None:
    body, marks = build(message, seed)
    for hostile in hostile_variants(marks):
        mutated, _ = build(message, seed, hostile)
        what = f"{marks[hostile.mark]} {hostile.data.hex()}"
        refused(message, request, mutated, what, traced=sum(tried.values()) % TRACED_EVERY == 0)
        tried["hostile"] += 1
    if message.__flexible__:
        newer, _ = build(message, seed, unknown_tags=True)
        if request:
            refused(message, request, newer, "unknown tags")
        elif decode(message, request, newer) != decode(message, request, body):
            sys.exit(f"{message.__module__}: unknown tags change the message: {newer.hex()}")
        tried["unknown tags"] += 1
    for length in range(len(body)):
        refused(message, request, body[:length], f"cut at {length}")
        tried["truncated"] += 1
    refused(message, request, body + b"\x00", "a byte too many")
    rng = random.Random(seed)
    for _ in range(40):
        noisy = bytearray(body or b"\x00")
        for _ in range(rng.randint(1, 3)):
            noisy[rng.randrange(len(noisy))] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        decoded_or_refused(message, request, bytes(noisy), tried)
        decoded_or_refused(message, request, rng.randbytes(rng.randrange(60)), tried)


def refused(message: Any, request: bool, body: bytes, what: str, *, traced: bool = False) -> None:
    if traced:
        tracemalloc.start()
    try:
        decode(message, request, body)
    except DecodeError:
        pass
    else:
        sys.exit(f"{message.__module__}: {what} was decoded: {body.hex()}")
    if traced:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if peak > 8 * len(body) + (1 << 20):
            sys.exit(f"{message.__module__}: {what} took {peak} bytes for {len(body)}")


def decoded_or_refused(message: Any, request: bool, body: bytes, tried: Counter[str]) -> None:
    try:
        decode(message, request, body)
    except DecodeError:
        tried["random refused"] += 1
        return
    tried["random decoded"] += 1
    # In a request nothing is dropped: kio must have read exactly what the guard has walked.
    if request and entity_reader(message)(body, 0)[1] != len(body):
        sys.exit(f"{message.__module__}: kio and the guard disagree about {body.hex()}")


if __name__ == "__main__":
    main()
