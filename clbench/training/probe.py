"""Linear probe: what the features of the final network still tell of all tasks, whatever its head makes of them.

    minimise  1/n · Σ CE(W h + b, y) + 1/(2n) · |W|²

h: a training image's features, each scaled to mean 0 and deviation 1 over the training images. The network is frozen.
As in Davari et al. 2022, Probing representation forgetting in supervised and unsupervised continual learning (arXiv
2203.13381), with the classifier that is best for the objective, where they take steps of SGD.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.errors import DivergedError
from clbench.method import Scenario
from clbench.method.teacher import in_chunks
from clbench.models.head import ExpandingHeadModel
from clbench.sequences.tasks import Split, Task

STEPS = 500  # of L-BFGS at most
GRADIENT = 1e-4  # its largest entry where the minimum is taken to be reached, as scikit-learn has it by default


def probe(
    network: ExpandingHeadModel, tasks: Sequence[Task], tests: Sequence[Split], scenario: Scenario
) -> list[float]:
    """Return the accuracy of a linear classifier of a network's features on each task's test images: [T].

    It is fitted on the training images of `tasks`, unaugmented, and asked the scenario's question: in `task` each task
    has a classifier of its own classes, in `class` one chooses among all classes, in `domain` among the labels within a
    task. The network's weights, mode and counts of passes stay as they are. Raises DivergedError if a feature is not
    finite.
    """
    modes, counted = [(module, module.training) for module in network.modules()], vars(network.passes).copy()
    network.eval()
    starts = [0 if scenario != "class" else sum(len(t.classes) for t in tasks[:i]) for i in range(len(tasks))]
    groups = [[index] for index in range(len(tasks))] if scenario == "task" else [list(range(len(tasks)))]
    found: list[float] = []
    for group in groups:
        h = torch.cat([_features(network, tasks[i].train) for i in group])
        y = torch.cat([tasks[i].train.y + starts[i] for i in group])
        mean, deviation = h.mean(0), h.std(0, correction=0)
        scale = torch.where(deviation > 0, deviation, 1.0)
        classes = starts[group[-1]] + len(tasks[group[-1]].classes)
        weight, bias = fit(h.sub_(mean).div_(scale), y, classes)  # in place, as they may be large
        for i in group:
            scores = (_features(network, tests[i]) - mean) / scale @ weight.T + bias
            found.append((scores.argmax(1) == tests[i].y + starts[i]).double().mean().item())
    for module, mode in modes:
        module.training = mode
    vars(network.passes).update(counted)
    return found


def _features(network: ExpandingHeadModel, split: Split) -> Tensor:
    """Return the features of a split's images, float64 [n, d]."""
    h = in_chunks(network.features, split, network.chunk).double()
    if not h.isfinite().all():
        raise DivergedError("a feature is not finite at the end of the run: the network diverged; try a smaller lr")
    return h


def fit(h: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return W [classes, d] and b [classes] of the softmax classifier of features, float64 [n, d], with labels y [n].

    By L-BFGS from 0, on all images at once, so that there is no draw in it. The penalty is that of scikit-learn's
    LogisticRegression with C = 1.
    """
    from scipy.optimize import minimize  # here: half a second, which only runs with a probe should take

    n, d = h.shape
    right = torch.arange(n, device=h.device), y

    def loss_and_gradient(values: Any) -> tuple[float, Any]:
        both = torch.as_tensor(values, dtype=torch.double).reshape(classes, d + 1).to(h.device)
        weight, bias = both[:, :d], both[:, d]
        logs = F.log_softmax(torch.addmm(bias, h, weight.T), 1)
        loss = -logs[right].mean() + weight.square().sum() / (2 * n)
        error = logs.exp()  # of the probabilities [n, classes]
        error[right] -= 1
        gradient = torch.cat([(error.T @ h + weight) / n, error.mean(0)[:, None]], 1)
        return loss.item(), gradient.cpu().numpy().ravel()

    start = torch.zeros(classes * (d + 1), dtype=torch.double).numpy()
    options = {"maxiter": STEPS, "gtol": GRADIENT, "ftol": 1e-14}
    best = minimize(loss_and_gradient, start, method="L-BFGS-B", jac=True, options=options).x
    both = torch.as_tensor(best).reshape(classes, d + 1).to(h.device)
    return both[:, :d], both[:, d]
