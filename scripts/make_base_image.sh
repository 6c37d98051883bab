#!/bin/sh
# Makes a base image of a Debian release without any image registry: from the distribution's packages, as debootstrap
# does, and brings it into Docker, Podman or Buildah. See docs/containers.md.
set -eu

usage() {
    cat <<'END'
usage: scripts/make_base_image.sh [-t TOOL] [-m MIRROR] [-n NAME] [-a ARCHITECTURE] [-i PACKAGES] SUITE

  SUITE      release of Debian, such as bullseye
  -t TOOL    docker, podman or buildah; default: the first of them that works
  -m MIRROR  mirror of Debian; default: the one that this machine's apt uses
  -n NAME    name of the image; default: portmatrix/base:SUITE, or portmatrix/base:SUITE-ARCHITECTURE
  -a ARCHITECTURE
             Debian's name of an architecture, such as s390x; default: this machine's
  -i PACKAGES
             packages that are to be in it, with commas between them. They, and the few that a shell needs, are only
             unpacked: that takes seconds for any architecture, but such a system has no package manager. Without -i it
             is a complete one, for which another architecture needs QEMU and minutes.

Needs mmdebstrap and, for a release that this machine does not run, the package debian-archive-keyring.
END
}

fail() {
    echo "make_base_image: $1" >&2
    exit "${2:-1}"
}

tool='' mirror='' name='' architecture='' packages=''
while getopts t:m:n:a:i:h option; do
    case $option in
        t) tool=$OPTARG ;;
        m) mirror=$OPTARG ;;
        n) name=$OPTARG ;;
        a) architecture=$OPTARG ;;
        i) packages=$OPTARG ;;
        h) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[ $# -eq 1 ] || { usage >&2; exit 2; }
suite=$1
name=${name:-portmatrix/base:$suite${architecture:+-$architecture}}

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

# Libraries of which Debian has alternatives lie where only a configured system finds them.
links='cd "$1/usr/lib" && for file in */blas/*.so.* */lapack/*.so.*; do
    if [ -e "$file" ]; then ln -sf "${file#*/}" "${file%%/*}/"; fi
done'

# bootstrap SUITE: make a system of what the mirror has under that name.
bootstrap() {
    set -- "$1" "$folder/base.tar" "$mirror"
    if [ -n "$packages" ]; then
        set -- --variant=extract --extract-hook="$links" "--include=base-files,coreutils,dash,$packages" "$@"
    else
        # Certificates are for mirrors that speak https only.
        set -- --variant=minbase --include=ca-certificates "$@"
    fi
    mmdebstrap ${architecture:+"--architectures=$architecture"} "$@"
}

# In the middle of its update a mirror has indexes that do not fit each other, but seldom under both names of a release.
bootstrap_by_alias() {
    echo "trying $mirror for its stable release, which may be $suite"
    bootstrap stable || return
    tar -xOf "$folder/base.tar" ./usr/lib/os-release | grep -qx "VERSION_CODENAME=$suite" ||
        fail "$mirror has no usable $suite: its stable release is another one"
}

echo "making $name for $tool from $suite at $mirror"
bootstrap "$suite" || bootstrap_by_alias ||
    fail "mmdebstrap made no $suite from $mirror; for a release that has left the mirrors, name one of Debian's
archive of old releases with -m"

# The names of the same architectures at Docker.
case $architecture in
    armhf) platform=linux/arm/v7 ;;
    ppc64el) platform=linux/ppc64le ;;
    *) platform=linux/$architecture ;;
esac
case $tool in
    docker | podman)
        if [ -z "$architecture" ]; then
            "$tool" import "$folder/base.tar" "$name" >/dev/null
        else
            # An import is taken for a system of this machine's architecture, whatever is said.
            printf 'FROM scratch\nADD base.tar /\n' >"$folder/Dockerfile"
            "$tool" build --platform "$platform" --tag "$name" "$folder" >/dev/null
        fi
        ;;
    buildah)
        container=$(buildah from scratch)
        buildah add --quiet "$container" "$folder/base.tar" / >/dev/null
        [ -z "$architecture" ] || buildah config --os linux --arch "$(basename "${platform%/v7}")" "$container"
        buildah commit --quiet --rm "$container" "$name" >/dev/null
        ;;
esac

echo "made $name; use it for one image built by hand:"
echo "  $tool build ${architecture:+--platform $platform }--build-arg BASE_IMAGE=$name ..."
echo "or for all that portmatrix builds from this release:"
here=$(dirname "$0")
for file in "$here"/../dockerfiles/*.Dockerfile; do
    grep -q "^ARG BASE_IMAGE=debian:$suite" "$file" || continue
    variable=$(basename "$file" .Dockerfile | tr '[:lower:]' '[:upper:]' | tr -c '[:alnum:]\n' _)
    echo "  export PORTMATRIX_BASE_IMAGE_$variable=$name"
done
