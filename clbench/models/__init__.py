"""Backbones, and the head that grows."""

from clbench.models.backbones import Backbone
from clbench.models.head import ExpandingHeadModel

__all__ = ["Backbone", "ExpandingHeadModel"]
