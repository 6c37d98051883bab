# Torch7 as Debian 10 ships it, the last Debian release that does. The distribution has no rnn extension.
# Not from the default base image: --build-arg BASE_IMAGE=..., see docs/containers.md.
ARG BASE_IMAGE=debian:buster
FROM ${BASE_IMAGE}

# Debian 10 is in the archive only: the base image's own mirror no longer has it. Give --build-arg APT_MIRROR=... then.
ARG APT_MIRROR=
RUN if [ -n "${APT_MIRROR}" ]; then \
        rm -rf /etc/apt/sources.list.d/* && \
        echo "deb ${APT_MIRROR} buster main" > /etc/apt/sources.list; \
    fi

# An archived release is never signed again, so that a date on its signature passes. luajit runs the Lua programs; the
# worker needs NumPy. Versions are the release's, of which there is one of each: none is pinned.
# hadolint ignore=DL3008
RUN apt-get -o Acquire::Check-Valid-Until=false update && \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        luajit lua-torch-torch7 lua-torch-nn python3 python3-numpy && \
    rm -rf /var/lib/apt/lists/*

# Fails the build, and not the first training, if the libraries do not load.
RUN luajit -e "require 'torch'; require 'nn'; print(torch.Tensor(1):fill(1))"

# An engine that is root keeps its store below root's home, which workers see under the same path and pass through.
RUN if [ -d /root ]; then chmod o+x /root; fi

# One that owns nothing. portmatrix names its own user when it runs a container, unless that is root.
USER 65532:65532
LABEL portmatrix.python="python3"
LABEL portmatrix.untested="no mirror of Debian 10 was at hand: neither this image nor the exporter has been run"
