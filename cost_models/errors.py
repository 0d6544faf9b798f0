"""What the cost models raise.

LookupError
└── UnknownCostModelError    no such device, cluster, dtype or optimizer
ValueError
└── CostModelFileError       a device or cluster file that cannot be used
"""


class UnknownCostModelError(LookupError):
    """A name that is not in its catalogue; the message lists the known ones and where they come from."""


class CostModelFileError(ValueError):
    """A device or cluster file that cannot be used; the message names the file and the key."""
