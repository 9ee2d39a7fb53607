"""Dark experience replay with labels, DER++ (Buzzega et al. 2020, arXiv 2004.07211, equation 6).

    minimise  CE(ŷ, y)  over the new batch  +  α · ‖z − h(x)‖²  +  β · CE(ŷ, y)  over two batches of the memory

See `der.py` for α, z and h.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor

from clbench.method import Search, Step

from .der import DER


@dataclass
class DERPlusPlus(DER):
    """DER that trains on the labels of a second batch of stored images too"""

    name: ClassVar[str] = "der++"
    beta: Annotated[float, Ge(0), Search(0.05, 2.0, log=True)] = 0.5  # β: weight of the labels' loss

    def loss(self, step: Step) -> Tensor:
        loss = super().loss(step)
        second = self.memory_step(step, self.memory_batch or len(step.batch), "second")
        return loss if second is None else loss + self.beta * second.cross_entropy()
