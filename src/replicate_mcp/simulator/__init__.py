"""Local stand-in for Replicate's API, to run, test and measure without an account."""

from replicate_mcp.simulator.client import Simulator
from replicate_mcp.simulator.engine.fault_injection import Fault
from replicate_mcp.simulator.server import running_simulator, running_simulator_process
from replicate_mcp.simulator.settings import SimulatorSettings, ThrottleWording

__all__ = [
    "Fault",
    "Simulator",
    "SimulatorSettings",
    "ThrottleWording",
    "running_simulator",
    "running_simulator_process",
]
