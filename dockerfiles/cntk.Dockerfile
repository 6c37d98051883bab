# CNTK 2.7 for CPUs on CPython 3.6, the last one that its wheels were built for.
ARG BASE_IMAGE=python:3.6-slim-bullseye
FROM ${BASE_IMAGE}

# Another mirror of Debian than the base image's own; needed when Debian 11 has left it for the archive.
ARG APT_MIRROR=
RUN if [ -n "${APT_MIRROR}" ]; then \
        rm -rf /etc/apt/sources.list.d/* && \
        echo "deb ${APT_MIRROR} bullseye main" > /etc/apt/sources.list; \
    fi

# An archived release is never signed again, so that a date on its signature passes. Versions are the release's, of
# which there is one of each: none is pinned.
# hadolint ignore=DL3008
RUN apt-get -o Acquire::Check-Valid-Until=false update && \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends --allow-downgrades libopenmpi3 && \
    rm -rf /var/lib/apt/lists/*

# The wheel was linked with Open MPI 1.10 and asks for its libraries by those names. It calls nothing of them unless
# several machines train together.
RUN mkdir /opt/openmpi && \
    library="$(dirname "$(find /usr/lib -name libmpi.so.40)")" && \
    ln -s "${library}/libmpi.so.40" /opt/openmpi/libmpi.so.12 && \
    ln -s "${library}/libmpi_cxx.so.40" /opt/openmpi/libmpi_cxx.so.1
ENV LD_LIBRARY_PATH=/opt/openmpi

# What the engine passes: the exporter's requirements, with their versions. An empty index is pip's own.
ARG PIP_INDEX_URL=
ARG REQUIREMENTS="cntk==2.7 numpy==1.19.5 scipy==1.5.4"
# hadolint ignore=DL3013
RUN if [ -z "${PIP_INDEX_URL}" ]; then unset PIP_INDEX_URL; fi && \
    python3 -m pip install --no-cache-dir ${REQUIREMENTS}

# Fails the build, and not the first training, if a library is missing; and compiles CNTK's modules once.
RUN python3 -W ignore -c "import cntk; print(cntk.__version__)"

# An engine that is root keeps its store below root's home, which workers see under the same path and pass through.
RUN if [ -d /root ]; then chmod o+x /root; fi

# One that owns nothing. portmatrix names its own user when it runs a container, unless that is root.
USER 65532:65532
LABEL portmatrix.python="python3"
