"""How a memory chooses its samples: while training goes on, one sample after another, or once a task is learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

OnlineChoice = Literal["reservoir", "class-balanced", "greedy"]
TaskChoice = Literal["random", "herding"]
Choice = Literal["reservoir", "class-balanced", "greedy", "random", "herding"]


@dataclass
class Contents:
    """Which places of a memory are taken, by group. A group is a class, or a task where tasks share their classes."""

    size: int
    seen: int = 0  # samples offered so far
    met: dict[int, int] = field(default_factory=dict)  # samples offered so far, by group
    full: set[int] = field(default_factory=set)  # groups that have been a largest one of a full memory
    members: dict[int, list[int]] = field(default_factory=dict)  # places by group, the most wanted first
    group_of: dict[int, int] = field(default_factory=dict)  # group by place

    def __len__(self) -> int:
        return len(self.group_of)

    @property
    def has_room(self) -> bool:
        return len(self) < self.size

    def take(self, place: int, group: int) -> None:
        """Give a place to a sample of a group, whoever had it."""
        self.leave(place)
        self.members.setdefault(group, []).append(place)
        self.group_of[place] = group

    def leave(self, place: int) -> None:
        """Empty a place, if it is taken."""
        if place in self.group_of:
            self.members[self.group_of.pop(place)].remove(place)

    def of_largest(self) -> list[int]:
        """Return the places of the largest group, or of all of them if several are as large."""
        most = max(map(len, self.members.values()))
        return [place for places in self.members.values() if len(places) == most for place in places]


def reservoir(contents: Contents, group: int, u: float, v: float) -> int | None:
    """Return the place of a sample, each one seen so far being as likely to be kept (Vitter 1985, algorithm R)."""
    if contents.has_room:
        return len(contents)
    place = int(u * (contents.seen + 1))
    return place if place < contents.size else None


def class_balanced(contents: Contents, group: int, u: float, v: float) -> int | None:
    """Return the place of a sample by class-balancing reservoir sampling (Chrysakis & Moens 2020, algorithm 1)."""
    if contents.has_room:
        return len(contents)
    most = max(map(len, contents.members.values()))
    contents.full |= {other for other, places in contents.members.items() if len(places) == most}
    if group not in contents.full:
        return _pick(contents.of_largest(), u)
    own = contents.members[group]
    return _pick(own, v) if u <= len(own) / (contents.met[group] + 1) else None


def greedy(contents: Contents, group: int, u: float, v: float) -> int | None:
    """Return the place of a sample by the greedy balancing sampler (Prabhu et al. 2020, algorithm 1)."""
    own = len(contents.members.get(group, ()))
    if group in contents.met and own >= contents.size / len(contents.met):
        return None
    return len(contents) if contents.has_room else _pick(contents.of_largest(), u)


ONLINE: Mapping[str, Callable[[Contents, int, float, float], int | None]] = {
    "reservoir": reservoir,
    "class-balanced": class_balanced,
    "greedy": greedy,
}


def _pick(places: Sequence[int], u: float) -> int:
    return places[min(int(u * len(places)), len(places) - 1)]


def shares(size: int, groups: int) -> list[int]:
    """Share places equally among groups; those left over go to the first ones."""
    return [size // groups + (number < size % groups) for number in range(groups)]


def herding(features: Tensor, most: int) -> Tensor:
    """Return up to `most` rows of features [n, d] whose running mean stays closest to the mean of all, in that order.

    Rebuffi et al. 2017 (iCaRL), algorithm 4.
    """
    mean, total = features.mean(0), torch.zeros_like(features[0])
    squares = features.square().sum(1)
    order = []
    for count in range(1, min(most, len(features)) + 1):
        # ‖count · mean − total − f‖² but for what is the same for every f; one that is taken is never taken again
        best = int((squares - 2 * features @ (count * mean - total)).argmin())
        order.append(best)
        squares[best] = torch.inf
        total = total + features[best]
    return torch.tensor(order, dtype=torch.long)
