"""A guest's weights and accuracies are those of its strategy called directly, as Avalanche's documentation does."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import tiny_tasks
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from clbench.experiment import registry
from clbench.guests.avalanche import guest_seed, seed_everything
from clbench.method import Scenario, Training
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP
from clbench.sequences.tasks import Task
from clbench.training.run import run_sequence

from avalanche.benchmarks import nc_benchmark  # isort: skip - after clbench.guests
from avalanche.core import SupervisedPlugin  # isort: skip
from avalanche.evaluation.metrics import accuracy_metrics  # isort: skip
from avalanche.models import MTSimpleMLP, SimpleMLP  # isort: skip
from avalanche.training import supervised  # isort: skip
from avalanche.training.plugins import EvaluationPlugin  # isort: skip

SEED, WIDTH = 3, 16
ARGUMENTS: dict[str, dict[str, Any]] = {
    "Naive": {},
    "LwF": {"alpha": 1.0, "temperature": 2.0},
    "EWC": {"ewc_lambda": 10.0},
    "Replay": {"mem_size": 10},
    "AGEM": {"patterns_per_exp": 8, "sample_size": 6},
    "GDumb": {"mem_size": 12},
}


class Data(TensorDataset):
    """Images [n, 1, 8, 8] and their labels."""

    def __init__(self, x: Tensor, y: Tensor):
        super().__init__(x, y)
        self.targets = y.tolist()

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.tensors[0][index], self.targets[index]


class FromTheSameWeights(SupervisedPlugin):
    """Puts clbench's initial weights into a head that Avalanche has added for a new task."""

    def __init__(self, network: ExpandingHeadModel):
        super().__init__()
        self.network = network

    @torch.no_grad()
    def before_training_exp(self, strategy: Any, **_: Any) -> None:
        if isinstance(strategy.model, MTSimpleMLP):
            task = strategy.experience.task_label
            ours, theirs = self.network.head[task], strategy.model.classifier.classifiers[str(task)].classifier
            theirs.load_state_dict(ours.state_dict())


def initial(tasks: Sequence[Task], scenario: Scenario) -> ExpandingHeadModel:
    network = ExpandingHeadModel(MLP(width=WIDTH), tasks[0].train.shape, SEED, "weights")
    for _ in tasks[:1] if scenario == "domain" else tasks:
        network.expand(2)
    return network


def in_avalanche(network: ExpandingHeadModel, scenario: Scenario) -> nn.Module:
    """Avalanche's own network with the same weights."""
    options = {"input_size": 64, "hidden_size": WIDTH}
    model = MTSimpleMLP(**options) if scenario == "task" else SimpleMLP(num_classes=sum(network.widths), **options)
    model.features[-1].p = 0.0  # dropout
    with torch.no_grad():
        model.features[0].load_state_dict(network.backbone[1].state_dict())
        if scenario == "task":
            model.classifier.classifiers["0"].classifier.load_state_dict(network.head[0].state_dict())
        else:
            model.classifier.weight.copy_(torch.cat([block.weight for block in network.head]))
            model.classifier.bias.copy_(torch.cat([block.bias for block in network.head]))
    return model


def benchmark(tasks: Sequence[Task], scenario: Scenario) -> Any:
    train, test = (
        [Data(split.batch(torch.arange(len(split))), split.y) for split in splits]
        for splits in ([task.train for task in tasks], [task.test for task in tasks])
    )
    from_zero = {"class_ids_from_zero_in_each_exp": scenario != "class"}
    options = {"shuffle": False, "one_dataset_per_exp": True, **from_zero}
    return nc_benchmark(train, test, len(tasks), task_labels=scenario == "task", **options)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_final_weights_are_those_of_avalanche_called_directly(name: str, scenario: Scenario) -> None:
    tasks = [  # as Avalanche orders them: by class
        replace(task, train=task.train.subset(task.train.y.argsort(stable=True))) for task in tiny_tasks(2)
    ]
    wide = scenario == "class"
    training = Training(
        epochs=2,
        batch_size=8,
        lr=0.05,
        momentum=0.9,
        weight_decay=1e-3,
        keep_optimizer=True,
        full_head=wide,
        loss_over="all" if wide else "seen",
    )
    method = registry.configure(name, registry.find("method", f"avalanche:{name}"), ARGUMENTS[name])
    outcome = run_sequence(tasks, method, MLP(width=WIDTH), training, scenario, SEED)

    network = initial(tasks, scenario)
    model = in_avalanche(network, scenario)
    strategy = getattr(supervised, name)(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=8,
        train_epochs=2,
        plugins=[FromTheSameWeights(network)],
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True)),
        **ARGUMENTS[name],
    )
    with torch.random.fork_rng(devices=[]):
        streams = benchmark(tasks, scenario)
        for index, experience in enumerate(streams.train_stream):
            seed_everything(guest_seed(SEED, index))
            strategy.train(experience)
        trained = [value.clone() for value in strategy.model.parameters()]
        found = strategy.eval(streams.test_stream)

    ours = [value for _, value in method.strategy.model.named_parameters()]
    assert [value.shape for value in ours] == [value.shape for value in trained]
    assert all(torch.equal(one, other) for one, other in zip(ours, trained, strict=True))
    row = outcome.task_aware[-1] if scenario == "task" else outcome.task_agnostic[-1]
    assert row == pytest.approx([value for name, value in sorted(found.items()) if name.startswith("Top1_Acc_Exp")])
