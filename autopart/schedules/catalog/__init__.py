"""One file a schedule: a new file here is a new schedule. Each has

NAME              what users call it
KINDS             what is done with every micro-batch on every stage, in this order
VIRTUAL_STAGES    how many stages a rank may have: the least, and the most (None where any number will do)
actions(pipeline) the Schedule; a pure function of a `Pipeline` that fits what the file says
"""
