"""Heads that fuse the networks of `backbones`, one paper a file."""

from fusion.dual_attention import DualFusionAttention, EarlyFusionAttention, LocalAttention
from fusion.early import EarlyFusion
from fusion.feature_transition import FeatureTransition, FeatureTransitionFusion
from fusion.global_attention import GlobalFusionAttention
from fusion.late import LateFusion
from fusion.tri_attention import TriAttentionFusion

__all__ = [
    "DualFusionAttention",
    "EarlyFusion",
    "EarlyFusionAttention",
    "FeatureTransition",
    "FeatureTransitionFusion",
    "GlobalFusionAttention",
    "LateFusion",
    "LocalAttention",
    "TriAttentionFusion",
]
