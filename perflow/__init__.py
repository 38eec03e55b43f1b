"""perflow: a reproducible experiment pipeline for few-step diffusion.

For people who only want to generate: ``perflow.PeRFlowScheduler`` and ``perflow.apply_delta``. Nothing
heavy is imported until one of them is used.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["PeRFlowScheduler", "apply_delta"]


def __getattr__(name: str) -> Any:
    if name == "PeRFlowScheduler":
        from perflow.integrations.scheduler import PeRFlowScheduler

        return PeRFlowScheduler
    if name == "apply_delta":
        from perflow.integrations.delta import apply_delta

        return apply_delta
    raise AttributeError(f"module 'perflow' has no attribute '{name}'")
