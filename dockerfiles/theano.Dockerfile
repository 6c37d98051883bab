# Theano 1.0.5 for CPUs: its last release, on CPython 3.7, which it was released for.
# Not from the default base image: --build-arg BASE_IMAGE=..., see docs/containers.md.
ARG BASE_IMAGE=python:3.7-slim-bullseye
FROM ${BASE_IMAGE}

# Another mirror of Debian than the base image's own; needed when Debian 11 has left it for the archive. The base may
# hold packages that are newer than this mirror's (security updates), of which apt would otherwise find no way back.
ARG APT_MIRROR=
RUN if [ -n "${APT_MIRROR}" ]; then \
        rm -rf /etc/apt/sources.list.d/* && \
        echo "deb ${APT_MIRROR} bullseye main" > /etc/apt/sources.list; \
    fi

# Theano compiles its operations when it runs: without g++ a convolution is a loop in Python. An archived release is
# never signed again, so that a date on its signature passes. Versions are the release's, of which there is one of each:
# none is pinned.
# hadolint ignore=DL3008
RUN apt-get -o Acquire::Check-Valid-Until=false update && \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends --allow-downgrades g++ libc6-dev && \
    rm -rf /var/lib/apt/lists/*

ARG PIP_INDEX_URL=
# What the exporter and the runtime declare, with versions, separated by spaces.
ARG REQUIREMENTS=

# pip reads PIP_INDEX_URL itself, but takes an empty one for an index without packages. Of Theano there is no wheel: it
# is built, and --no-cache-dir keeps what was downloaded for that out of the image.
# hadolint ignore=DL3013
RUN if [ -z "${PIP_INDEX_URL}" ]; then unset PIP_INDEX_URL; fi; \
    python3 -m pip install --no-cache-dir ${REQUIREMENTS}

# Fails the build, and not the first training, if Theano finds no compiler; its cache of compiled code goes nowhere.
RUN HOME=/tmp/build THEANO_FLAGS=device=cpu,floatX=float32,blas.ldflags= \
    python3 -c "import theano; assert theano.config.cxx; print(theano.__version__)" && \
    rm -rf /tmp/build

# An engine that is root keeps its store below root's home, which workers see under the same path and pass through.
RUN if [ -d /root ]; then chmod o+x /root; fi

# One that owns nothing. portmatrix names its own user when it runs a container, unless that is root.
USER 65532:65532
LABEL portmatrix.python="python3"
