"""How long the fault tests are, and what they are drawn from: read from the environment once.

FAULTS=long (`make faults`): at length. FAULTS_SEED: the same schedules again. FAULTS_KILLS, FAULTS_STOPS and
FAULTS_EVENTS: how many kills, frozen processes and events of a clean run the long form has.
"""

from __future__ import annotations

import os
import random

LONG = os.environ.get("FAULTS") == "long"
SEED = int(os.environ.get("FAULTS_SEED") or random.randrange(2**32))
KILLS = int(os.environ.get("FAULTS_KILLS") or 200)
STOPS = int(os.environ.get("FAULTS_STOPS") or 14)
CLEAN_EVENTS = int(os.environ.get("FAULTS_EVENTS") or (100_000 if LONG else 3_000))
#: Events posted in a second; one in eight becomes seven deliveries.
PER_SECOND = 80.0 if LONG else 40.0
#: Kills between two counts.
KILLS_PER_ROUND = 20
ROUNDS = -(-KILLS // KILLS_PER_ROUND)
