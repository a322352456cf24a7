"""Never takes a batch."""

import time

print("setting up")
time.sleep(1000)
