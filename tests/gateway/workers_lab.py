"""A parent with workers that behave as the command line says, run as a program by `test_workers`.

Each worker writes `start INDEX PID` to standard output, and `end INDEX` when it drains.
"""

import os
import signal
import sys
import time

from gateway import observe
from gateway.config import Config
from gateway.listeners.endpoints import Endpoints, bind
from gateway.peers import Worker
from gateway.workers import RestartPolicy, Supervisor


def main(config: Config, worker: Worker) -> int:
    """One worker."""
    behaviour = sys.argv[1]
    if behaviour in {"crash", "refuse"} and worker.index == 1:
        say(f"start {worker.index} {os.getpid()}")
    if behaviour == "crash" and worker.index == 1:
        raise RuntimeError("worker 1 cannot stand it")
    if behaviour == "refuse" and worker.index == 1:
        return 1
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: end(worker))
    signal.signal(signal.SIGUSR1, lambda *_: end(worker))
    sockets = [bind(each, backlog=1) for each in Endpoints(config.listeners[0], shared=True).bound]
    say(f"start {worker.index} {os.getpid()}")
    assert sockets
    while True:
        time.sleep(60)


def end(worker: Worker) -> None:
    """In order."""
    say(f"end {worker.index}")
    sys.exit(0)


def say(line: str) -> None:
    """In one piece, whoever else writes."""
    os.write(1, f"{line}\n".encode())


def config(port: int) -> Config:
    """Two workers behind one port."""
    return Config.model_validate(
        {
            "cluster": {"bootstrap_servers": ["127.0.0.1:1"]},
            "authorization": "none",
            "workers": 2,
            "listeners": [
                {
                    "name": "plain",
                    "bind": "127.0.0.1",
                    "port": port,
                    "node_ids": "1",
                    "advertised_host": "localhost",
                    "insecure": True,
                    "authentication": "none",
                }
            ],
        }
    )


if __name__ == "__main__":
    observe.configure_logging()
    supervisor = Supervisor(config(int(sys.argv[2])), main, lambda: RestartPolicy(first_delay_s=0.01))
    sys.exit(supervisor.run())
