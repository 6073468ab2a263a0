"""The histogram shows what the client library's own would show."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from processor.adapters.histogram import BulkHistogram

BOUNDS = (0.1, 1.0, 10.0)


@pytest.mark.parametrize(
    "values", [[], [0.1], [0.05, 0.06], [0.05, 0.1, 0.5, 1.0, 3.0, 10.0, 11.0, 1e9]]
)
def test_scrape_is_the_same_as_of_the_library_s_own(values: list[float]):
    mine, theirs = CollectorRegistry(), CollectorRegistry()
    bulk = BulkHistogram("job_seconds", "How long.", ["topic"], bounds=BOUNDS, registry=mine)
    own = Histogram("job_seconds", "How long.", ["topic"], buckets=BOUNDS, registry=theirs)

    bulk.observe_all(("copy",), values)
    bulk.observe_all(("copy",), values)
    for value in [*values, *values]:
        own.labels("copy").observe(value)

    def samples(registry: CollectorRegistry) -> list[str]:
        lines = generate_latest(registry).decode().splitlines()
        return [line for line in lines if "_created" not in line]

    assert samples(mine) == samples(theirs)


def test_one_value_observed_so_often_is_as_many_observations():
    registries = CollectorRegistry(), CollectorRegistry()
    bulk, own = (
        BulkHistogram("attempts", "How many.", ["topic"], bounds=BOUNDS, registry=registry)
        for registry in registries
    )

    for value, count in ((1, 3), (5, 1), (99, 2)):
        bulk.observe_same(("copy",), value, count)
        own.observe_all(("copy",), [float(value)] * count)

    assert generate_latest(registries[0]) == generate_latest(registries[1])


def test_expected_labels_are_shown_as_0_and_kept_when_something_comes():
    registry = CollectorRegistry()
    bulk = BulkHistogram("attempts", "How many.", ["topic"], bounds=BOUNDS, registry=registry)

    bulk.expect(("copy",))
    before = generate_latest(registry).decode()
    bulk.observe_same(("copy",), 1, 4)
    bulk.expect(("copy",))

    assert 'attempts_count{topic="copy"} 0.0' in before
    assert 'attempts_count{topic="copy"} 4.0' in generate_latest(registry).decode()
