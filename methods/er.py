"""Experience replay with a memory that is filled while training goes on (Chaudhry et al. 2019, arXiv 1902.10486).

    minimise  CE(ŷ, y)  over the batch B_n of new images joined by a batch B_M drawn from the memory M

Each step's new images are offered to M after the step. M counts in images. Riemer et al. 2019, arXiv 1810.11910, put
the reservoir into it.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge
from torch import Tensor

from clbench.method import Choice, Memory, Rehearsal, Run, Search, Step


@dataclass
class ER(Rehearsal):
    """Experience replay: each step trains on images of a memory too, which is filled as training goes on"""

    name: ClassVar[str] = "er"
    mixed_labels: ClassVar[bool] = True
    memory_batch: Annotated[int, Ge(1)] | None = None  # |B_M|; none: as many as new images
    # which images M keeps. reservoir: each one so far is as likely; class-balanced: a reservoir that favours rare
    # classes (Chrysakis & Moens 2020); greedy: as many of each class (GDumb); random, herding: chosen after each task
    choice: Annotated[Choice, Search(choices=("reservoir", "class-balanced"))] = "reservoir"

    # joined: one batch, whose loss is the mean over all its images; apart: the mean over each of the two, added, as in
    # the code of Caccia et al. 2022, where batch norm sees one after the other too
    batches: Annotated[Literal["joined", "apart"], Search()] = "joined"

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.buffer = Memory(self.images, run, self.choice)

    def loss(self, step: Step) -> Tensor:
        n = self.memory_batch or len(step.batch)
        if self.batches == "joined":
            return self.joined_step(step, n).cross_entropy()
        old, loss = self.memory_step(step, n), step.cross_entropy()
        return loss if old is None else loss + old.cross_entropy()
