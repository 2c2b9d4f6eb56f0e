"""The demo: `make demo`, or `python -m demo.run`. KEEP=1 leaves everything up.

Two real Kafka clusters, a gateway in front of each. The on-prem one listens to no client; it opens a link to
the cloud, and a topic with 100,000 records appears there, record for record at its offset. Ends with 1 and a
reason if anything is not as it must be.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaException

from compose.gateway_process import GatewayFailed
from compose.java_tools import ToolFailed
from compose.kafka import ROOT, KafkaUnavailable
from demo import keep
from demo.keep import DIRECTORY
from demo.play import play, shown
from demo.screen import DemoFailed, Screen

FAILED: Final = 1
INTERRUPTED: Final = 130


def run(kept: Callable[[], None] | None) -> int:
    """The demo with its end, whatever that is; returns the exit code."""
    screen = Screen()
    # SIGTERM ends it in the same order as Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        keep.claim()
        play(screen, kept)
    except KeyboardInterrupt:
        screen.failure("Stopped. Nothing is left running.")
        return INTERRUPTED
    except keep.AlreadyUp as error:
        screen.failure(str(error))
        return FAILED
    except (DemoFailed, GatewayFailed, KafkaUnavailable, KafkaException, ToolFailed) as error:
        screen.failure(str(error))
        _say_where_logs_are(screen)
        return FAILED
    except Exception:
        _say_where_logs_are(screen)
        raise
    return 0


def _say_where_logs_are(screen: Screen) -> None:
    screen.note(
        f"Logs of the gateways: {shown(DIRECTORY)}/*.log; of the brokers: {shown(ROOT / 'build' / 'logs')}/"
    )
    screen.note("Nothing is left running.")


def main() -> int:
    """Runs the demo as the environment says."""
    if os.environ.get("KEEP", "0") in {"", "0"}:
        return run(None)
    return keep.in_background(run)


if __name__ == "__main__":
    sys.exit(main())
