#!/bin/sh
# Makes a base image of a Debian release without any image registry: from the distribution's packages, as debootstrap
# does, and imports it into Docker, Podman or Buildah. See docs/containers.md.
set -eu

usage() {
    cat <<'END'
usage: scripts/make_base_image.sh [-t TOOL] [-m MIRROR] [-n NAME] SUITE

  SUITE      release of Debian, such as bullseye
  -t TOOL    docker, podman or buildah; default: the first of them that works
  -m MIRROR  mirror of Debian; default: the one that this machine's apt uses
  -n NAME    name of the image; default: portmatrix/base:SUITE

Needs mmdebstrap and, for a release that this machine does not run, the package debian-archive-keyring.
END
}

fail() {
    echo "make_base_image: $1" >&2
    exit "${2:-1}"
}

tool='' mirror='' name=''
while getopts t:m:n:h option; do
    case $option in
        t) tool=$OPTARG ;;
        m) mirror=$OPTARG ;;
        n) name=$OPTARG ;;
        h) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -eq 1 ] || { usage >&2; exit 2; }
suite=$1
name=${name:-portmatrix/base:$suite}

# A command may be there and its daemon not: only an answer counts.
works() {
    timeout 20 "$1" info >/dev/null 2>&1
}

case $tool in
    '')
        for tool in docker podman buildah ''; do
            [ -n "$tool" ] || fail "none of docker, podman and buildah answers here; start one, or install buildah"
            ! works "$tool" || break
        done
        ;;
    docker | podman | buildah) works "$tool" || fail "$tool does not answer here: '$tool info' fails" ;;
    *) fail "-t is $tool; expected docker, podman or buildah" 2 ;;
esac
command -v mmdebstrap >/dev/null || fail "mmdebstrap is not installed: apt-get install mmdebstrap"

# Not the mirror of security updates, which is another archive.
if [ -z "$mirror" ] && command -v apt-get >/dev/null; then
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Label: Debian' 2>/dev/null | head -n 1)
fi
[ -n "$mirror" ] || fail "this machine's apt uses no mirror of Debian; name one with -m" 2
mirror=${mirror%/}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# _apt, the user that apt downloads as, must be able to read the folder.
chmod 755 "$folder"

echo "making $name for $tool from $suite at $mirror"
# Certificates are for mirrors that speak https only.
mmdebstrap --variant=minbase --include=ca-certificates "$suite" "$folder/base.tar" "$mirror" ||
    fail "mmdebstrap made no $suite from $mirror; for a release that has left the mirrors, name one of Debian's
archive of old releases with -m"

case $tool in
    docker | podman) "$tool" import "$folder/base.tar" "$name" >/dev/null ;;
    buildah)
        container=$(buildah from scratch)
        buildah add --quiet "$container" "$folder/base.tar" / >/dev/null
        buildah commit --quiet --rm "$container" "$name" >/dev/null
        ;;
esac

echo "made $name; use it for one image built by hand:"
echo "  $tool build --build-arg BASE_IMAGE=$name ..."
echo "or for all that portmatrix builds from this release:"
here=$(dirname "$0")
for file in "$here"/../dockerfiles/*.Dockerfile; do
    grep -q "^ARG BASE_IMAGE=debian:$suite" "$file" || continue
    variable=$(basename "$file" .Dockerfile | tr '[:lower:]' '[:upper:]' | tr -c '[:alnum:]\n' _)
    echo "  export PORTMATRIX_BASE_IMAGE_$variable=$name"
done
