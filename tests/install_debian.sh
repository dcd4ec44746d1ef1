#!/bin/sh
# Install Debian packages that the set-up or the tests need, where we may; say what to do where we may not.
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
else
    echo "not installed: $* (as root: apt-get install $*)" >&2
    exit 1
fi
