"""ER with asymmetric cross-entropy (Caccia et al. 2022, arXiv 2203.03798, equations 4 and 5).

    minimise  CE(ŷ, y; C_B)  over the new batch B  +  CE(ŷ, y; C_M)  over a batch drawn from the memory M

C_B: the classes of the new batch alone, so that learning them doesn't push down the outputs of old classes; C_M: all
classes so far. The paper's code has a cosine head: `--set mlp.head=cosine`, or that of another model.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from clbench.method import Rehearsal, Step


@dataclass
class ERACE(Rehearsal):
    """ER with asymmetric cross-entropy: among new images only their own classes compete"""

    name: ClassVar[str] = "er-ace"
    scenarios: ClassVar[frozenset[str]] = frozenset({"class"})
    memory_batch: Annotated[int, Ge(1)] | None = None  # images from M in a step; none: as many as new ones
    # whether classes that have not come yet are in C_B too, as in the paper's code; it needs loss_over=all
    unseen: bool = False

    def loss(self, step: Step) -> Tensor:
        old = self.memory_step(step, self.memory_batch or len(step.batch))
        new = self.among_own_classes(step)
        return new if old is None else new + old.cross_entropy()

    def among_own_classes(self, step: Step) -> Tensor:
        """Return the cross-entropy over C_B, the classes that are in the batch."""
        outputs, y = step.criterion.competing(step)
        present = torch.zeros(outputs.shape[1], dtype=torch.bool, device=y.device).index_fill(0, y, True)
        if self.unseen:
            present[sum(self.network.widths[: self.network.seen]) :] = True
        outputs = outputs.masked_fill(~present, -torch.inf)
        return step.cross_entropy_of(outputs, y)
