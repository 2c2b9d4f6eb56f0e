"""A gateway as its users run it; the demo has them too, so they live with the clusters."""

from compose.gateway_process import READY_WITHIN_S, GatewayFailed, GatewayProcess

__all__ = ["READY_WITHIN_S", "GatewayFailed", "GatewayProcess"]
