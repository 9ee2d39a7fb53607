"""How memories choose: inclusion over many streams, balance, equal shares, and herding by brute force."""

import random
from collections import Counter

import pytest
import scipy.stats
import torch

from clbench.method.choices import Contents, class_balanced, greedy, herding, reservoir, shares


def offer(choose, size: int, stream: list[int], draws: random.Random) -> tuple[Contents, dict[int, int]]:  # type: ignore[no-untyped-def]
    """Offer a stream of groups to a memory; return it and which sample each place has."""
    contents, held = Contents(size), dict[int, int]()
    for number, group in enumerate(stream):
        place = choose(contents, group, draws.random(), draws.random())
        if place is not None:
            contents.take(place, group)
            held[place] = number
        contents.seen += 1
        contents.met[group] = contents.met.get(group, 0) + 1
    return contents, held


def test_the_reservoir_includes_every_sample_alike_over_ten_thousand_streams() -> None:
    draws, streams, size, offered = random.Random(0), 10_000, 8, 30
    counts = Counter(n for _ in range(streams) for n in offer(reservoir, size, [0] * offered, draws)[1].values())
    expected = streams * size / offered
    # drawn without replacement: a count's variance is n p (1 − p), where chi-squared takes it to be n p
    statistic = sum((counts[n] - expected) ** 2 for n in range(offered)) / (expected * (1 - size / offered))
    assert scipy.stats.chi2.sf(statistic * (offered - 1) / offered, offered - 1) > 0.001


def test_the_class_balanced_reservoir_keeps_all_of_a_rare_class_and_is_fair_within_a_common_one() -> None:
    """Of classes that were never the largest, nothing is lost; within those that were, each sample is as likely."""
    draws, stream = random.Random(1), [0] * 40 + [1] * 3 + [2] * 20
    counts: Counter[int] = Counter()
    for _ in range(2000):
        contents, held = offer(class_balanced, 12, stream, draws)
        assert len(contents.members[1]) == 3
        assert {40, 41, 42} <= set(held.values())
        assert abs(len(contents.members[0]) - len(contents.members[2])) <= 1
        counts.update(n for n in held.values() if n < 40)
    expected = counts.total() / 40
    assert max(abs(counts[n] - expected) for n in range(40)) < 5 * expected**0.5


def test_greedy_fills_up_to_equal_shares() -> None:
    draws = random.Random(2)
    contents, held = offer(greedy, 9, [0] * 20, draws)
    assert sorted(held.values()) == list(range(9))  # the first ones, and no more
    contents, _ = offer(greedy, 9, [0] * 20 + [1] * 20 + [2] * 20, draws)
    assert {group: len(places) for group, places in contents.members.items()} == {0: 3, 1: 3, 2: 3}
    contents, _ = offer(greedy, 9, [0] * 20 + [1] * 2 + [2] * 20, draws)
    assert len(contents.members[1]) == 2  # there were no more
    assert len(contents) == 9


@pytest.mark.parametrize(("size", "groups", "expected"), [(10, 3, [4, 3, 3]), (3, 5, [1, 1, 1, 0, 0]), (6, 3, [2] * 3)])
def test_shares_are_equal_and_leave_nothing_over(size: int, groups: int, expected: list[int]) -> None:
    assert shares(size, groups) == expected


def test_herding_is_the_greedy_choice_by_brute_force() -> None:
    features = torch.randn(12, 5, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    chosen: list[int] = []
    for _ in range(7):
        left = [n for n in range(12) if n not in chosen]
        chosen.append(min(left, key=lambda n: (features.mean(0) - features[[*chosen, n]].mean(0)).norm().item()))
    assert herding(features, 7).tolist() == chosen
    assert sorted(herding(features, 99).tolist()) == list(range(12))
