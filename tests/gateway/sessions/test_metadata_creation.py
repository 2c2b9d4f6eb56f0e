"""What is created for a Metadata request of a client that may not create all that it names."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

from gateway.sessions.metadata_creation import without_creation
from gateway.sessions.topic_questions import TopicQuestions
from protocol.acls import Operation, ResourceType
from protocol.api_keys import ApiKey
from protocol.authorize_topics import not_creatable
from tests.e2e.raw_client import make
from tests.protocol.judges import FakeJudge


class Questions:
    """A cluster that creates what is missing."""

    def __init__(self) -> None:
        self.created: set[str] = set()

    async def creates_topics(self, _node_id: int | None) -> bool:
        return True

    async def create_missing(self, names: Collection[str]) -> None:
        self.created.update(names)


async def test_nothing_reserved_is_created_whatever_acls_say() -> None:
    def may(operation: Operation, resource: ResourceType, name: str) -> bool:
        return resource is ResourceType.TOPIC and (operation is not Operation.CREATE or name != "shut")

    judge, questions = FakeJudge(may), Questions()
    request = make(
        ApiKey.METADATA,
        9,
        topics=[{"name": name} for name in ("shut", "open", "_causeway-other")],
        allow_auto_topic_creation=True,
    )
    names = not_creatable(request, judge)
    assert names == {"shut"}
    sent, _ = await without_creation(request, names, judge, cast("TopicQuestions", questions), None)
    assert not sent.allow_auto_topic_creation
    assert questions.created == {"open"}
