"""What a head and a backbone start from."""

import pytest
import torch

from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP


def test_a_head_that_is_there_from_the_start_can_be_drawn_as_one_layer() -> None:
    """Xavier's bound is √(6 / (inputs + outputs)): of all classes, and not of a block's."""
    widths, bounds = [2, 2, 2], []
    for one_head in (False, True):
        backbone = MLP(width=200, head_initialisation="xavier", biases="0", one_head=one_head)
        network = ExpandingHeadModel(backbone, (1, 4, 4), 0)
        network.expand_to(widths)
        weights = torch.cat([block.weight for block in network.head])
        bounds.append(weights.abs().max().item())
        assert weights.shape == (6, 200)
        assert not any(p.any() for name, p in network.named_parameters() if name.endswith("bias"))
    assert bounds == pytest.approx([(6 / 202) ** 0.5, (6 / 206) ** 0.5], rel=0.01)
    assert bounds[1] < (6 / 206) ** 0.5


def test_truncated_weights_and_constant_biases() -> None:
    network = ExpandingHeadModel(MLP(width=300, initialisation="truncated", biases="0.1"), (1, 9, 9), 0)
    weights, biases = network.backbone[1].weight, network.backbone[1].bias
    assert weights.abs().max() <= 0.2
    assert weights.std().item() == pytest.approx(0.088, abs=0.001)  # of N(0, 0.1²) cut at two deviations, by SciPy
    assert biases.tolist() == pytest.approx([0.1] * 300)
