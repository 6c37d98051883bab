"""Is on an operating system that the engine does not know."""

PLATFORM = {"os": "plan9", "arch": "mips"}
RUNNER = "none"
COST = "nothing"


def reach(host):
    return [{"reach": "native"}]
