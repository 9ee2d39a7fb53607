"""Methods with a fault each, for `rehearsal.toml`: what the published numbers must be able to tell from ours."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from clbench.method import GradientOf, Gradients, Run, Step
from clbench.methods.agem import AGEM, project
from clbench.methods.der import DER
from clbench.methods.er import ER


@dataclass
class ForgetsToCount(ER):
    """ER whose reservoir takes every new sample in, as if as many had been seen as it holds"""

    name: ClassVar[str] = "er-forgets-to-count"

    def after_step(self, step: Step) -> None:
        contents = self.buffer.contents
        contents.seen = min(contents.seen, contents.size - len(step.batch))
        super().after_step(step)


@dataclass
class RefreshesOutputs(DER):
    """DER that holds stored images near the outputs of the last step, not near those they were stored with"""

    name: ClassVar[str] = "der-refreshes-outputs"

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.last = copy.deepcopy(self.network)

    def distance(self, old: Step) -> Tensor:
        with torch.no_grad():
            then = self.last.logits(self.last.features(old.batch.x), old.criterion.blocks(old.network))
        return (old.outputs - then).square().mean()

    def after_step(self, step: Step) -> None:
        super().after_step(step)
        self.last.load_state_dict(self.network.state_dict())


@dataclass
class WrongSign(AGEM):
    """A-GEM that projects where the gradients agree, and lets be where they do not"""

    name: ClassVar[str] = "agem-wrong-sign"
    first_task_is_finetuning: ClassVar[bool] = True

    def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
        own = gradient_of(self.loss(step))
        old = self.memory_step(step, self.memory_batch)
        if old is None:
            return own
        changed = project({name: -gradient for name, gradient in own.items()}, gradient_of(old.cross_entropy()))
        return {name: -gradient for name, gradient in changed.items()}
