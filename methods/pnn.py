"""Progressive neural networks (Rusu et al. 2016, arXiv 1606.04671, equation 2): a column per task.

    minimise  CE(ŷ_k, y_k)  over column k and its adapters, with columns 1 … k−1 fixed
    h_i^(k) = f( W_i^(k) h_{i−1}^(k) + U_i^(k) σ( V_i^(k) [α_i^(1) h_{i−1}^(1), …, α_i^(k−1) h_{i−1}^(k−1)] ) )

i: a layer but the first, or the outputs. V_i is a 1×1 convolution (a matrix where there are no pixels) to as many units
as layer i − 1 of one column has, U_i is as W_i, σ is ReLU, and the scalars α_i start small. Nothing is forgotten.
"""

import copy
import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager as Context
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from clbench.method import Method, Phase, Run, Step
from clbench.models import ExpandingHeadModel
from clbench.models.layers import joined, layers_in_a_row
from clbench.sequences import Task


class Adapter(nn.Module):
    """What the earlier columns add to a layer: U σ(V [α h]) of what it takes in each of them [n, units, …]."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, units: int, columns: int, draws: torch.Generator):
        super().__init__()
        self.scales = nn.Parameter(0.1 * torch.rand(columns, generator=draws))
        self.project = nn.Conv1d(columns * units, units, 1, bias=False)
        self.connect = copy.deepcopy(layer).cpu()
        self.connect.bias = None
        for weight in (self.project.weight, self.connect.weight):
            nn.init.kaiming_uniform_(weight, a=5**0.5, generator=draws)  # U(±1/√fan_in), PyTorch's own

    def forward(self, below: Sequence[Tensor]) -> Tensor:
        parts = [a * h.reshape(len(h), self.project.out_channels, -1) for a, h in zip(self.scales, below, strict=True)]
        added: Tensor = self.connect(nn.functional.relu(self.project(torch.cat(parts, 1))).reshape(below[0].shape))
        return added


@dataclass
class PNN(Method):
    """Progressive networks: a column per task, which takes what the earlier, frozen columns have learnt too"""

    name: ClassVar[str] = "pnn"
    family: ClassVar[str] = "masks"
    scenarios: ClassVar[frozenset[str]] = frozenset({"task"})
    first_task_is_finetuning: ClassVar[bool] = True
    mixed_labels: ClassVar[bool] = True

    def begin(self, run: Run) -> None:
        super().begin(run)
        layers_in_a_row(self.network, self.name)  # or it says why not
        self.columns: list[ExpandingHeadModel] = []  # of the tasks that have been learnt
        self.adapters: list[nn.ModuleList] = []  # of each column, for every layer but its first

    def start_from(self, task: Task) -> Literal["fresh"]:
        return "fresh"

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        self.adapters.append(self.new_adapters(task.index))
        parts = (self.network.backbone, self.network.newest, self.adapters[-1])
        return [Phase(tasks=[task], trainable=[p for part in parts for p in part.parameters()] if task.index else None)]

    def new_adapters(self, task: int) -> nn.ModuleList:
        layers: list[Any] = [*layers_in_a_row(self.network, self.name).values(), self.network.head[task]]
        draws, pairs = self.run.stream("adapters", task), itertools.pairwise(layers)
        made = [Adapter(layer, len(before.weight), task, draws) for before, layer in pairs if task > 0]
        return nn.ModuleList(made).to(self.run.device)

    def parameters(self) -> Mapping[str, nn.Parameter]:
        parts: dict[str, nn.Module] = {f"adapters.{k}": own for k, own in enumerate(self.adapters)}
        parts |= {f"column.{k}": own.backbone for k, own in enumerate(self.columns) if own is not self.network}
        return {f"{name}.{own}": p for name, part in parts.items() for own, p in part.named_parameters()}

    def joined(self, network: ExpandingHeadModel, task: int, below: list[list[Tensor]]) -> Context[list[Tensor]]:
        """Join a column to the columns `below`; yield the list of what its layers take."""
        layers, adapters = [*layers_in_a_row(network, self.name).values(), network.head[task]], self.adapters[task]
        return joined(layers, lambda i: adapters[i - 1]([taken[i] for taken in below]) if i and below else None)

    @torch.no_grad()
    def below(self, x: Tensor, task: int) -> list[list[Tensor]]:
        """Return what each layer of the columns before a task's takes, for images [n, *input_shape]."""
        found: list[list[Tensor]] = []
        for number, network in enumerate(self.columns[:task]):
            with self.joined(network, number, found) as own:
                network.logits(network.features(x), [number])
            found.append(own)
        return found

    def loss(self, step: Step) -> Tensor:
        task = self.network.seen - 1
        with self.joined(self.network, task, self.below(step.batch.x, task)):
            return step.on(step.batch).cross_entropy()  # without features that were recorded, which are not joined

    def finish_task(self, task: Task) -> None:
        for number, column in enumerate(self.columns):  # so that the network has every block that answers
            self.network.head[number].load_state_dict(column.head[number].state_dict())
        self.columns.append(self.network)  # the next task starts from a new network, so this one stays as it is

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        if task is None or task >= self.network.seen:
            return None
        network = [*self.columns, self.network][task]
        with self.joined(network, task, self.below(x, task)):
            scores = network.logits(network.features(x), [task])
        return self.network.beside_others(scores, task)

    def state(self) -> dict[str, Any]:
        columns = [column.state_dict() for column in self.columns[:-1]]  # the last one is the run's own
        return {"columns": columns, "adapters": [own.state_dict() for own in self.adapters]}

    def load_state(self, state: dict[str, Any]) -> None:
        self.columns = [*(self.network.restored(weights) for weights in state["columns"]), self.network]
        for task, weights in enumerate(state["adapters"]):
            self.adapters.append(self.new_adapters(task))
            self.adapters[-1].load_state_dict(weights)
