"""Plans a round trip by simulated annealing: reverse a stretch of the trip, and keep it if it is shorter or by luck."""

import math
import os
import random

from towns import TOWNS, length

MOVES = 4000  # stretches that are tried; range 1000..30000 log
START_KM = 60.0  # a trip that is longer by this much is first kept in one of e tries; range 1.0..200.0 log
END_KM = 5.0  # the same at the end; range 0.01..20.0 log
LONGEST = 20  # towns in a stretch; range 2..60

dice = random.Random(int(os.environ["SEED"]))
trip = list(range(len(TOWNS)))
dice.shuffle(trip)
km = length(trip)
for move in range(MOVES):
    tolerated_km = START_KM * (END_KM / START_KM) ** (move / MOVES)
    first = dice.randrange(len(trip) - 1)
    last = min(len(trip), first + dice.randint(2, LONGEST))
    other = trip[:first] + trip[first:last][::-1] + trip[last:]
    other_km = length(other)
    if other_km < km or dice.random() < math.exp((km - other_km) / tolerated_km):
        trip, km = other, other_km

with open("output/trip.txt", "w", encoding="utf-8") as file:
    file.write(" ".join(map(str, trip)))
print(f"length: {km:.3f}")
