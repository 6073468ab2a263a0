"""Which topics a command looks at: those named, or all that are declared and exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from processor.errors import UsageError

if TYPE_CHECKING:
    from processor.contracts.topics import Topic
    from processor.settings import Settings


def declared_topics(settings: Settings, names: Sequence[str] = ()) -> list[Topic]:
    """Give the named topics; with none named all declared ones, without those never applied.

    A project that does not use the built-in jobs never applies their topic. Raises UsageError for
    a name that is not declared, and where nothing was applied at all.
    """
    from processor.adapters.reader import TopicReader
    from processor.contracts.builtin import topic_directories
    from processor.contracts.topics import TopicSet

    topics = TopicSet.load(topic_directories(settings))
    if names:
        return [topics.get(name) for name in names]
    with TopicReader(settings.kafka) as reader:
        existing = reader.existing(topics.names())
    if not existing:
        raise UsageError(
            f"none of the declared topics exists: {', '.join(topics.names())}",
            hint="run `processor topics apply`",
        )
    return [topic for topic in topics if topic.name in existing]
