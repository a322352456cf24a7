"""All parts of dishonest candidates, by their names."""

from __future__ import annotations

from tests.attack.answers import ANSWERS
from tests.attack.memories import MEMORIES
from tests.attack.part import Part, Role
from tests.attack.places import PLACES
from tests.attack.trainings import TRAININGS
from tests.attack.ways import COVERS, GATES, SPEECHES

GAINS = (*ANSWERS, *MEMORIES)
PARTS = {part.name: part for part in (*GAINS, *TRAININGS, *GATES, *PLACES, *COVERS, *SPEECHES)}

__all__ = ["COVERS", "GAINS", "GATES", "PARTS", "PLACES", "SPEECHES", "TRAININGS", "Part", "Role"]
