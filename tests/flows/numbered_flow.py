"""The numbered gateway for both ways of starting it; ``NUMBERED`` holds its options as JSON.

python tests/flows/numbered_flow.py
python -m bytewax.run tests/flows/numbered_flow:flow -r DIR -s 1 -b 0
python -m bytewax.run tests/flows/numbered_flow:example -r DIR -s 1 -b 0
"""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

if __name__ == "__main__":
    from flows import leave_on_signals

    leave_on_signals()  # as the command line does before it imports anything else

from bytewax.dataflow import Dataflow
from numbered import configuration

from config.models import Configuration
from flows import gateway
from flows.examples import averages
from flows.process import under_bytewax

WINDOW = timedelta(microseconds=1000)  # of event time, which is the number of a reading in microseconds
WAIT = timedelta(microseconds=100)


def numbered() -> Configuration:
    options = json.loads(os.environ["NUMBERED"])
    return configuration(Path(options.pop("directory")), **options)


def flow() -> Dataflow:
    return gateway.flow(numbered())


def example() -> Dataflow:
    return averages.gateway(under_bytewax(numbered()), WINDOW, WAIT)


if __name__ == "__main__":
    from bifrost.run import run

    sys.exit(run(numbered()))
