#!/usr/bin/env bash
# Builds the release of the application in this directory and, where RELMGR_REPOSITORY is set, publishes it; where
# RELMGR_REHEARSE is set too, what production runs goes to it and back before. Prints the version, and nothing else, on
# stdout.
#
# A build is published under its name; what production follows is moved by `cargo relmgr promote`. So: --channel.
set -euo pipefail

usage='Usage: build-release.sh [--channel NAME | --no-channel] [OPTION OF cargo relmgr release…]
RELMGR_REPOSITORY: s3://bucket/prefix or file:///directory; without it the release is built only.
RELMGR_OUT: where the release is written, default target/relmgr.
RELMGR_REHEARSE: options of cargo relmgr rehearse, split at white space, without quotes, such as
  "--feed ci/feed.sh --probe /"; without it, or without RELMGR_REPOSITORY, nothing is rehearsed.
RELMGR_TRUSTED_KEYS: who has signed what is rehearsed.
RELMGR_KEY_FILE or RELMGR_KEY, RELMGR_KEY_PASSWORD: the key that signs.'
pointing=()
case ${1-} in
-h | --help) echo "$usage"; exit 0 ;;
--channel)
    [ $# -ge 2 ] || { echo "$usage" >&2; exit 2; }
    pointing=(--channel "$2")
    shift 2
    ;;
--no-channel)
    pointing=(--no-channel)
    shift
    ;;
esac

out=${RELMGR_OUT:-target/relmgr}
version=$(cargo relmgr release --out "$out" "$@")
if [ -n "${RELMGR_REPOSITORY-}" ]; then
    # A loss ends it here: nobody can fetch what was not published.
    if [ -n "${RELMGR_REHEARSE-}" ]; then
        read -r -d '' -a rehearse <<<"$RELMGR_REHEARSE" || true
        cargo relmgr rehearse "${rehearse[@]}" "$out" >&2
    fi
    # Killed half way, it is completed by the same command; a published version is never overwritten.
    cargo relmgr publish "${pointing[@]}" "$out" >&2
fi
echo "$version"
