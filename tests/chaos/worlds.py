"""What carries the load of a scenario, by the name that it uses."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tests.chaos import (
    backlog,
    bit_flips,
    cluster,
    dead_target,
    numbered_world,
    plant_kills,
    power_cuts,
    puback,
    recorded_starts,
    scale,
)
from tests.chaos.scenario import Scenario

World = Callable[[Scenario, Mapping[str, Any], Path, random.Random, Callable[[str], None]], dict[str, Any]]

WORLDS: Final[dict[str, World]] = {
    "numbered": numbered_world.run,
    "plant": plant_kills.run,
    "puback": puback.run,
    "backlog": backlog.run,
    "dead_target": dead_target.run,
    "power_cuts": power_cuts.run,
    "recorded_starts": recorded_starts.run,
    "bit_flips": bit_flips.run,
    "scale": scale.run,
    "cluster": cluster.run,
}
