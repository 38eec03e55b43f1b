"""For people who only want to generate: perflow's students in diffusers' own pipelines."""

from perflow.integrations.delta import apply_delta
from perflow.integrations.scheduler import PeRFlowScheduler

__all__ = ["PeRFlowScheduler", "apply_delta"]
