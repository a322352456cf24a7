"""Writes one file until the kernel refuses."""

with open("large", "wb") as file:
    while True:
        file.write(bytes(2**20))
