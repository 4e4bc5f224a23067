"""Run one scenario until this process is killed: `python -m scenarios.remedy_program …`."""

import asyncio
import sys
from pathlib import Path

import pytest

from replicate_mcp.simulator import Simulator
from scenarios.remedy_scenarios import SCENARIOS
from scenarios.remedy_stage import Stage


def main() -> None:
    """Run the scenario of the remedy and fault that the arguments name."""
    remedy, fault, account, url, folder = sys.argv[1:]
    with pytest.MonkeyPatch.context() as patch:
        stage = Stage(
            remedy,
            fault,
            simulator=Simulator(url),
            folder=Path(folder),
            patch=patch,
            account=account,
        )
        asyncio.run(_played(stage))


async def _played(stage: Stage) -> None:
    print(await SCENARIOS[stage.remedy](stage))


if __name__ == "__main__":
    main()
