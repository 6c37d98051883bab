"""The machine that runs the tests, whatever it is."""

from portmatrix.suite import this_machine

PLATFORM = this_machine().model_dump()
RUNNER = "ubuntu-24.04"
COST = "nothing"


def reach(host):
    return [{"reach": "native"}]
