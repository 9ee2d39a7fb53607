"""Backbones, and the head that grows."""

from clbench.models.networks import Backbone, ExpandingHeadModel

__all__ = ["Backbone", "ExpandingHeadModel"]
