# TensorFlow 1.15 on CPython 3.7, the last Python that it was built for.
# Not from the default base image: --build-arg BASE_IMAGE=..., see docs/containers.md. It needs CPython 3.7 as python3
# with pip, on glibc 2.17 or later.
ARG BASE_IMAGE=python:3.7-slim-bullseye
FROM ${BASE_IMAGE}

# Nothing here comes from the distribution: APT_MIRROR is taken, and not used, as all Dockerfiles are built alike.
ARG APT_MIRROR=
ARG PIP_INDEX_URL=
# What the exporter and the runtime declare, with versions, separated by spaces.
ARG REQUIREMENTS=

# pip reads PIP_INDEX_URL itself, but takes an empty one for an index without packages. Of gast there is no wheel: it is
# built, and --no-cache-dir keeps what was downloaded for that out of the image.
# hadolint ignore=DL3013
RUN if [ -z "${PIP_INDEX_URL}" ]; then unset PIP_INDEX_URL; fi; \
    python3 -m pip install --no-cache-dir ${REQUIREMENTS}

# Fails the build, and not the first training, if the library does not load: its wheel wants AVX.
RUN TF_CPP_MIN_LOG_LEVEL=2 python3 -W ignore -c "import tensorflow; print(tensorflow.__version__)"

# An engine that is root keeps its store below root's home, which workers see under the same path and pass through.
RUN if [ -d /root ]; then chmod o+x /root; fi

# One that owns nothing. portmatrix names its own user when it runs a container, unless that is root.
USER 65532:65532
LABEL portmatrix.python="python3"
