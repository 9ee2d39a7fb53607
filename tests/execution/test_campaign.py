"""The fault campaign in short, without bad methods, which other tests run; `tox -e faults` is the whole."""

import sys

import pytest
from campaign import campaign, table


@pytest.mark.skipif(sys.platform != "linux", reason="it looks for workers in /proc")
def test_a_short_campaign_loses_nothing() -> None:
    found = campaign(n_parents=1, n_workers=2, n_damages=5, seed=1, seeds=2, bad={})
    tried = {one.fault: one.tried for one in found}
    assert (tried["kill -9 of the parent"], tried["kill -9 of a worker"]) == (1, 2)
    assert sum(count for fault, count in tried.items() if fault.startswith("a record")) == 5
    assert [one for one in found if one.lost or one.wrong] == [], table(found)
