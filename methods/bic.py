"""BiC: bias correction (Wu et al. 2019, 'Large scale incremental learning', arXiv 1905.13260, sections 3 and 4).

    1. minimise  (1 − λ) · CE(ŷ, y) + λ · H(q, ŷ_old)   over new images and exemplars,   λ = old classes / all so far
    2. minimise  CE(ŷ, y)  over α, β alone, on a balanced validation share:  z_new ← α · z_new + β

q = softmax(z_old / T), of the old network with its own corrections. A share of the exemplars, and as many images of
each new class, are held back for step 2. Each task keeps its α and β. The memory draws exemplars at random.
They are not the images of `--validation`: what α and β were fitted on could no longer judge settings, and those of old
tasks would be a memory beside the memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn

from clbench.method import Choice, Phase, Run, Search, Step, in_chunks
from clbench.method.exemplars import WithExemplars
from clbench.models import ExpandingHeadModel
from clbench.sequences import Task
from clbench.sequences.tasks import concat


@dataclass
class BiC(WithExemplars):
    """Bias correction: two numbers per task, fitted on a balanced share, undo the preference for new classes"""

    name: ClassVar[str] = "bic"
    keeps: ClassVar[Choice] = "random"
    temperature: Annotated[float, Gt(0), Search(choices=(1.0, 2.0, 4.0))] = 2.0  # T
    validation: Annotated[float, Gt(0), Lt(1)] = 0.1  # share of the exemplars that is held back
    bias_epochs: Annotated[int, Ge(0)] = 200  # passes over that share, beside the budget
    bias_lr: Annotated[float, Gt(0)] = 0.1  # the rate of α and β

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.corrections = torch.zeros(0, 2, device=run.device)  # α, β of each task that is done
        self.held: list[Task] = []  # what is held back, by task
        self.a, self.b = (nn.Parameter(torch.zeros((), device=run.device)) for _ in range(2))
        self.size = torch.ones((), device=run.device)  # of outputs: α = 1 + a / size, so that one rate suits a and b

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return {"a": self.a, "b": self.b}

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        tasks = [*self.buffer.tasks(earlier), task]
        fewest = min(int(one.train.y.unique(return_counts=True)[1].min()) for one in tasks)
        held = max(1, round(self.validation * fewest))
        balanced = held < fewest and len(tasks) > 1
        parts = [self.split(one, held) for one in tasks] if balanced else []
        tasks = [train for train, _ in parts] or tasks
        self.ask_old_network(tasks)
        phases = [Phase(tasks=tasks, trainable=self.network.parameters())]
        if balanced:
            self.held = [held_back for _, held_back in parts]
            fit = Phase(name="bias", tasks=self.held, trainable=[self.a, self.b], epochs=self.bias_epochs, extra=True)
            phases.append(replace(fit, lr_factor=self.bias_lr / self.run.training.lr))
        return phases

    def split(self, task: Task, held: int) -> tuple[Task, Task]:
        """Return a task without some images of each class, and with these alone."""
        y = task.train.y.cpu()
        order = torch.randperm(len(y), generator=self.run.stream("validation", self.network.seen, task.index))
        place = torch.zeros_like(y)  # of each image among those of its class
        for label in y.unique():
            own = order[y[order] == label]
            place[own] = torch.arange(len(own))
        device, parts = task.train.y.device, ((place >= held).nonzero()[:, 0], (place < held).nonzero()[:, 0])
        train, back = (replace(task, train=task.train.subset(rows.to(device))) for rows in parts)
        return train, back

    @property
    def newest(self) -> Tensor:
        """The current task's α and β [1, 2]."""
        return torch.stack([1 + self.a / self.size, self.b])[None]

    def corrected(self, outputs: Tensor) -> Tensor:
        """Return outputs [n, classes] with each task's correction."""
        none = torch.tensor([[1.0, 0.0]], device=outputs.device).expand(len(self.network.head), 2)
        rows = torch.cat([self.corrections, self.newest, none])[self.network.owners[: outputs.shape[1]]]
        return rows[:, 0] * outputs + rows[:, 1]

    def responses(self, network: ExpandingHeadModel, x: Tensor) -> Tensor:
        return self.corrected(super().responses(network, x))

    def loss(self, step: Step) -> Tensor:
        outputs, y = self.corrected(step.outputs), step.batch.y
        loss = step.cross_entropy_of(outputs, y)
        if self.old_network is None or step.phase.name == "bias":
            return loss
        return self.with_distillation(loss, outputs, self.old_network(step.batch), self.temperature)

    @torch.no_grad()
    def finish_phase(self, phase: Phase) -> None:
        if phase.name == "train" and self.held:
            new = self.network.columns(self.network.seen - 1)
            z = in_chunks(lambda x: self.network(x)[:, new], concat([one.train for one in self.held]), 256)
            self.size = z.square().mean().sqrt().clamp(min=1e-3)

    @torch.no_grad()
    def finish_task(self, task: Task) -> None:
        self.held = []
        self.corrections = torch.cat([self.corrections, self.newest])
        self.a.zero_()
        self.b.zero_()
        super().finish_task(task)

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        return self.corrected(self.network(x))

    def state(self) -> dict[str, Any]:
        return {"memory": self.buffer.state(), "corrections": self.corrections}

    def load_state(self, state: dict[str, Any]) -> None:
        self.buffer.load_state(state["memory"])
        self.corrections = state["corrections"]
