"""One file a schedule: a new file here is a new schedule. Each has

NAME              what users call it
KINDS             what is done with every micro-batch on every stage, in this order
VIRTUAL_STAGES    how many stages a rank may have: the least, and the most (None where any number will do)
actions(pipeline) the Schedule; a pure function of a `Pipeline` that fits what the file says
fill_s(...)       an estimate of the bubble, before the schedule is played out: with the times that a rank's stages take
                  together for F, B and W of one micro-batch (B is both where it is not split), and its number of
                  stages, the seconds by which one more such rank makes a step longer. Convex and homogeneous in the
                  times, and no more than their sum

and may have

in_flight(pipeline) for each rank, the most passes in flight, where a formula is at hand; else they are counted
"""
