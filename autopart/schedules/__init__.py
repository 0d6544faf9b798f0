"""Pipeline schedules as data: a catalogue of them, a proof that one is right, and a simulation of how long it takes."""
