"""When memory is given back."""

from gateway.listeners.memory import Trimmer


def test_it_is_given_back_when_many_have_gone() -> None:
    now = 0
    trimmed: list[int] = []
    trimmer = Trimmer(lambda: now, lambda: trimmed.append(now))
    for connections, expected in (
        (50, []),
        (0, []),
        (1000, []),
        (600, []),
        (500, [500]),
        (450, [500]),
        (250, [500, 250]),
        (150, [500, 250]),
        (60, [500, 250, 60]),
    ):
        now = connections
        trimmer.look()
        assert trimmed == expected


def test_the_c_library_is_asked() -> None:
    connections = 1000
    trimmer = Trimmer(lambda: connections)
    trimmer.look()
    connections = 0
    trimmer.look()
