"""Why a request about links or mirrors was not met, with the codes of the REST contract."""


class LinkError(Exception):
    """A refusal: HTTP status, the contract's error code and a text for the person who asked."""

    def __init__(self, status: int, error_code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code
        self.message = message


def invalid_request(message: str) -> LinkError:
    """What was asked for makes no sense here, or cannot be: 40002."""
    return LinkError(400, 40002, message)


def unsupported(message: str) -> LinkError:
    """Valid, but this version does not do it: 40035."""
    return LinkError(400, 40035, message)


def link_not_found(link_name: str) -> LinkError:
    """There is no such link: 404."""
    return LinkError(404, 404, f"The cluster link doesn't exist: Cluster link '{link_name}' does not exist.")


def link_exists(link_name: str) -> LinkError:
    """The name is taken: 40902."""
    return LinkError(409, 40902, f"Cluster link '{link_name}' already exists.")


def mirror_not_found(link_name: str, mirror_topic_name: str) -> LinkError:
    """The link has no such mirror topic: 404."""
    return LinkError(404, 404, f"Cluster link '{link_name}' has no mirror topic '{mirror_topic_name}'.")


def topic_exists(topic: str) -> LinkError:
    """A mirror topic needs a name that is free on the destination: 40002."""
    return invalid_request(f"Topic '{topic}' already exists.")


def link_in_use(link_name: str, mirror_topic_names: list[str]) -> LinkError:
    """Deleting a link whose mirrors have not all stopped needs `force`: 403."""
    shown = ", ".join(sorted(mirror_topic_names)[:5]) + (", …" if len(mirror_topic_names) > 5 else "")
    message = (
        f"Cluster link '{link_name}' still has mirror topics that are not stopped: {shown}. Force deletes it."
    )
    return LinkError(403, 403, message)


def state_unavailable(reason: str) -> LinkError:
    """The state topic cannot be read or written for now; the same request may succeed later: 50003."""
    return LinkError(503, 50003, reason)
