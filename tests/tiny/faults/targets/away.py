"""A target that no machine reaches."""

PLATFORM = {"os": "windows", "arch": "arm64"}
RUNNER = "windows-11-arm"
COST = "one machine"


def reach(host):
    return [{"why": "there is no such machine here", "install": "buy one"}]
