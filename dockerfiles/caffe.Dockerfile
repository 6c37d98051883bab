# Caffe 1.0 for CPUs with its Python interface, as Debian 11 ships it: the last Debian release that does.
# Not from the default base image: --build-arg BASE_IMAGE=..., see docs/containers.md.
ARG BASE_IMAGE=debian:bullseye-slim
FROM ${BASE_IMAGE}

# Another mirror of Debian than the base image's own; needed when Debian 11 has left it for the archive. The base may
# hold packages that are newer than this mirror's (security updates), of which apt would otherwise find no way back.
ARG APT_MIRROR=
RUN if [ -n "${APT_MIRROR}" ]; then \
        rm -rf /etc/apt/sources.list.d/* && \
        echo "deb ${APT_MIRROR} bullseye main" > /etc/apt/sources.list; \
    fi

# An archived release is never signed again, so that a date on its signature passes. OpenBLAS computes several times
# faster than the reference library that Caffe is content with. Protobuf and NumPy come as dependencies of Caffe; the
# worker needs NumPy itself. Versions are the release's, of which there is one of each: none is pinned.
# hadolint ignore=DL3008
RUN apt-get -o Acquire::Check-Valid-Until=false update && \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends --allow-downgrades \
        caffe python3-caffe libopenblas0-pthread python3-numpy && \
    rm -rf /var/lib/apt/lists/*

# Fails the build, and not the first training, if the library does not load.
RUN GLOG_minloglevel=2 python3 -c "import caffe; print(caffe.__version__)"

# An engine that is root keeps its store below root's home, which workers see under the same path and pass through.
RUN if [ -d /root ]; then chmod o+x /root; fi

# One that owns nothing. portmatrix names its own user when it runs a container, unless that is root.
USER 65532:65532
LABEL portmatrix.python="python3"
