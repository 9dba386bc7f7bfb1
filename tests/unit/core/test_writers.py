"""The usual writer of a bucket."""

from __future__ import annotations

from collections import Counter

import pytest

from director.core.placement.users import BUCKETS
from director.core.protocol.writers import Writers
from tests.unit.core.cores import D1, D2, D3


@pytest.mark.shows("rule 32")
def test_every_member_gets_about_its_share() -> None:
    writers = Writers()
    shares = Counter(writers.of(bucket, [D1, D2, D3]) for bucket in range(BUCKETS))
    assert min(shares[member] for member in (D1, D2, D3)) > BUCKETS / 3 * 0.9


def test_all_members_name_the_same_writer_whatever_the_order_they_know_each_other_in() -> None:
    one, other = Writers(), Writers()
    assert all(one.of(n, [D1, D2, D3]) == other.of(n, [D3, D1, D2]) for n in range(200))


@pytest.mark.shows("rule 32")
def test_when_a_member_goes_only_its_buckets_get_another_writer() -> None:
    writers = Writers()
    before = [writers.of(n, [D1, D2, D3]) for n in range(500)]
    after = [writers.of(n, [D1, D2]) for n in range(500)]
    assert all(new == old for new, old in zip(after, before, strict=True) if old != D3)
    assert D3 not in after
    assert [writers.of(n, [D1, D2, D3]) for n in range(500)] == before
