# What workers of runtimes run in on a target that is a container: Python and a runtime, for the architecture that
# --platform says. See docs/containers.md.
ARG BASE_IMAGE=debian:trixie-slim
FROM ${BASE_IMAGE}

# Another mirror of Debian than the base image's own, and another package index than pip's.
ARG APT_MIRROR=
ARG PIP_INDEX_URL=
# What is to be there, separated by spaces: packages of the distribution, and wheels.
ARG DEBIAN_PACKAGES="python3 python3-numpy"
ARG REQUIREMENTS=

# Only what is missing is installed: under an emulator apt takes a quarter of an hour. What a base made for the purpose
# holds stands in a list in it, and otherwise a package has a folder of documentation; with nothing missing, no program
# but the shell is run. pip reads PIP_INDEX_URL itself, but takes an empty one for an index without packages; the
# distribution's pip leaves its Python alone unless told that it is ours to change.
# Versions are not pinned here: those of packages are the release's, and those of wheels come with REQUIREMENTS, which
# are words to be split.
# hadolint ignore=DL3008,DL3013,SC2086
RUN holds=' '; list=/usr/local/share/portmatrix/holds; \
    if [ -e "${list}" ]; then while read -r line; do holds="${holds}${line} "; done < "${list}"; fi; \
    missing() { \
        for item in "$@"; do \
            case "${holds}" in *" ${item} "*) continue ;; esac; \
            [ -e "/usr/share/doc/${item}" ] || printf '%s ' "${item}"; \
        done; \
    }; \
    packages="$(missing ${DEBIAN_PACKAGES})"; \
    wheels="$(missing ${REQUIREMENTS})"; \
    if [ -n "${wheels}" ] && ! python3 -m pip --version >/dev/null 2>&1; then packages="${packages}python3-pip"; fi; \
    if [ -n "${packages}" ]; then \
        if [ -n "${APT_MIRROR}" ]; then \
            rm -rf /etc/apt/sources.list.d/* && \
            echo "deb ${APT_MIRROR} trixie main" > /etc/apt/sources.list || exit; \
        fi; \
        apt-get update && \
        DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends ${packages} && \
        rm -rf /var/lib/apt/lists/* || exit; \
    fi; \
    if [ -n "${wheels}" ]; then \
        if [ -z "${PIP_INDEX_URL}" ]; then unset PIP_INDEX_URL; fi; \
        python3 -m pip install --no-cache-dir --break-system-packages ${wheels} || exit; \
    fi

# An engine that is root keeps its store below root's home, which workers see under the same path and pass through.
RUN if [ -d /root ]; then chmod o+x /root; fi

# One that owns nothing. portmatrix names its own user when it runs a container, unless that is root.
USER 65532:65532
LABEL portmatrix.python="python3"
