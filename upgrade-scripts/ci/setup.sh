#!/usr/bin/env bash
# What a bare Debian container of CI needs to build a release: a C compiler, Rust as rust-toolchain.toml says, cargo
# relmgr. What is there already is left alone.
set -euo pipefail

usage='Usage: setup.sh [--rust-only]
--rust-only: for a job that does not call cargo relmgr. Else:
RELMGR_SOURCE: where cargo-relmgr is built from, unless it is there: --git URL --tag V, --path DIR.
RELMGR_VERSION: fail unless cargo-relmgr is of this version. RELMGR_REHEARSE: where it is set, relmgr is installed too.'
case ${1-} in
'' | --rust-only) ;;
-h | --help) echo "$usage"; exit 0 ;;
*) echo "$usage" >&2; exit 2 ;;
esac

packages=()
command -v cc >/dev/null || packages+=(gcc libc6-dev)
command -v curl >/dev/null || packages+=(curl)
command -v git >/dev/null || packages+=(git)
[ -e /etc/ssl/certs/ca-certificates.crt ] || packages+=(ca-certificates)
if [ ${#packages[@]} -gt 0 ]; then
    apt-get update
    apt-get install --yes --no-install-recommends "${packages[@]}"
fi
# A container's root does not own what was checked out for it, and git reads nothing of another user's. Without its
# commit a release would be published that says nothing of where it is from.
if ! git rev-parse HEAD >/dev/null 2>&1; then git config --global --add safe.directory "$PWD"; fi
git rev-parse HEAD >/dev/null || { echo "setup.sh: $PWD is no checkout: install git before it is made" >&2; exit 1; }
if ! command -v cargo >/dev/null; then
    curl --proto '=https' --tlsv1.2 --fail --silent --show-error https://sh.rustup.rs |
        sh -s -- -y --profile minimal --no-modify-path
    export PATH=$HOME/.cargo/bin:$PATH
    # The steps after this one: GitHub's way, and CircleCI's.
    if [ -n "${GITHUB_PATH-}" ]; then echo "$HOME/.cargo/bin" >>"$GITHUB_PATH"; fi
    if [ -n "${BASH_ENV-}" ]; then echo "export PATH=$HOME/.cargo/bin:\$PATH" >>"$BASH_ENV"; fi
fi
if [ "${1-}" = --rust-only ]; then exit 0; fi
if ! cargo relmgr version >/dev/null 2>&1; then
    read -r -a source <<<"${RELMGR_SOURCE:?is not set: how cargo install finds cargo-relmgr, such as --git URL --tag v1}"
    cargo install --locked "${source[@]}" cargo-relmgr
fi
# A rehearsal runs a node.
if [ -n "${RELMGR_REHEARSE-}" ] && ! command -v relmgr >/dev/null; then
    read -r -a source <<<"${RELMGR_SOURCE:?is not set: how cargo install finds relmgr, such as --git URL --tag v1}"
    cargo install --locked "${source[@]}" relmgr
fi
found=$(cargo relmgr version)
echo "$found"
if [ -n "${RELMGR_VERSION-}" ] && [[ "$found " != *" $RELMGR_VERSION "* ]]; then
    echo "setup.sh: this is not cargo-relmgr $RELMGR_VERSION" >&2
    exit 1
fi
