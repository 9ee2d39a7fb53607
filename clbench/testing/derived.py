"""Classes derived from a method's, which note what it answers, or watch what its hooks do."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from clbench.experiment import own_code
from clbench.method import GradientOf, Gradients, Learner, Method, Run, Step
from clbench.training.run import weights_hash

T = TypeVar("T")
BACKWARD = torch.autograd.backward


def never_told(cls: type[Learner], answers: list[Tensor | None]) -> type[Learner]:
    """Derive a class that is never told a task, and answers by a copy, which has been asked something else before."""

    class NeverTold(cls):  # type: ignore[misc, valid-type]
        def scores(self, x: Tensor, task: int | None) -> Tensor | None:
            if task is not None:
                return None
            cls.scores(copy.deepcopy(self), x.flip(0), None)
            answers.append(cls.scores(copy.deepcopy(self), x, None))
            return answers[-1]

    return _called_as(cls, NeverTold)


def noting(cls: type[Learner], answers: list[Tensor | None]) -> type[Learner]:
    """Derive a class that notes what it answers when it is not told the task."""

    class Told(cls):  # type: ignore[misc, valid-type]
        def scores(self, x: Tensor, task: int | None) -> Tensor | None:
            scores: Tensor | None = super().scores(x, task)
            if task is None:
                answers.append(scores)
            return scores

    return _called_as(cls, Told)


def watched(cls: type[Method]) -> type[Method]:
    """Derive a class whose hooks assert that they leave the training to the loop, and the network as they found it."""

    class Watched(cls):  # type: ignore[misc, valid-type]
        def begin(self, run: Run) -> None:
            super().begin(run)
            assert getattr(self, "run", None) is run, "`begin` must call super().begin(run)"

        def state(self) -> dict[str, Any]:
            state = super().state()
            saved = io.BytesIO()
            try:
                torch.save(state, saved)
                torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
            except Exception:
                raise AssertionError("state holds something else than tensors and plain values") from None
            return state

        def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
            def allowed(loss: Tensor) -> Gradients:
                with mock.patch.object(torch.autograd, "backward", BACKWARD):
                    return gradient_of(loss)

            if cls.gradients is Method.gradients:
                return super().gradients(step, gradient_of)
            with _no_training(cls, "gradients"):
                return super().gradients(step, allowed)

    for name in ("start_from", "start_task", "phases", "loss", "after_step", "finish_phase", "finish_task", "scores"):
        hook = _guarded(cls, name)
        setattr(Watched, name, _unchanging(name, hook) if name in ("start_task", "loss", "scores") else hook)
    return _called_as(cls, Watched)


def _called_as(cls: type[T], derived: type[T]) -> type[T]:
    """Give a derived class the name of the user's, which messages have then."""
    derived.__name__, derived.__qualname__, derived.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    return derived


def _guarded(cls: type[Method], name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(cls, name))
    def guarded(self: Method, *arguments: Any) -> Any:
        with _no_training(cls, name):
            return getattr(cls, name)(self, *arguments)

    return guarded


@contextlib.contextmanager
def _no_training(cls: type[Method], hook: str) -> Iterator[None]:
    """Refuse what the loop alone does, while a hook is called."""

    def refuse(what: str) -> Callable[..., None]:
        def refusing(*_: Any, **__: Any) -> None:
            where = own_code.place_of(getattr(cls, hook))
            advice = "the loop does; torch.autograd.grad gives a gradient that leaves no trace"
            raise AssertionError(f"`{hook}` ({where}) {what}: {advice}")

        return refusing

    handle = register_optimizer_step_pre_hook(refuse("steps an optimiser"))
    try:
        with mock.patch.object(torch.autograd, "backward", refuse("calls .backward()")):
            yield
    finally:
        handle.remove()


def _unchanging(name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(hook)
    def unchanging(self: Method, *arguments: Any) -> Any:
        network = self.network
        # in a loss, batch norm counts the images
        kept = (lambda: dict(network.named_parameters())) if name == "loss" else network.state_dict
        before, modes = weights_hash(kept()), [module.training for module in network.modules()]
        result = hook(self, *arguments)
        assert weights_hash(kept()) == before, f"{name} changes the network's weights or buffers"
        assert [module.training for module in network.modules()] == modes, f"{name} changes a module's train/eval mode"
        return result

    return unchanging
