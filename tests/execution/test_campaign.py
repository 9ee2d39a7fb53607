"""The fault campaign in short; `tox -e faults` is the whole."""

import sys

import pytest
from campaign import BAD, campaign, table


@pytest.mark.skipif(sys.platform != "linux", reason="it looks for workers in /proc")
def test_a_short_campaign_loses_nothing() -> None:
    quick = {name: message for name, message in BAD.items() if name not in ("Hangs", "Deaf")}
    found = campaign(n_kills=4, n_damages=5, seed=1, bad=quick)
    tried = {one.fault: one.tried for one in found}
    assert sum(count for fault, count in tried.items() if fault.startswith("kill")) == 4
    assert sum(count for fault, count in tried.items() if fault.startswith("a record")) == 5
    assert [one for one in found if one.lost or one.wrong] == [], table(found)
