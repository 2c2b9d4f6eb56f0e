#!/usr/bin/env bash
# Names the programs that set-up needs and this machine lacks, with the command that installs them. As root on
# Debian it runs that command itself. Ends with 1 if a needed one is still missing.
set -u

java_is_new_enough() {
    local version
    version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
    [ "${version:-0}" -ge 17 ]
}
python_is_new_enough() {
    "${PYTHON:-python3}" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}
have() { command -v "$1" >/dev/null 2>&1; }

missing_packages() { # needed | useful
    if [ "$1" = needed ]; then
        python_is_new_enough || echo python3 python3-venv
        java_is_new_enough || echo default-jdk-headless
        have mvn || echo maven
    else
        have kcat || echo kcat      # one of the clients that the tests drive
        have ip || echo iproute2    # the firewall test's network namespaces
        have nft || echo nftables   # the firewall test's rules
        have haproxy || echo haproxy    # the load balancer of a test, and what `make bench` compares with
    fi
}

export PATH="$PATH:/usr/sbin:/sbin"
needed=$(missing_packages needed | xargs)
useful=$(missing_packages useful | xargs)
[ -n "$needed$useful" ] || exit 0

install="apt-get install --yes --no-install-recommends $(echo "$needed $useful" | xargs)"
if [ "$(id -u)" = 0 ] && have apt-get; then
    echo "Missing: $needed $useful. Running: $install"
    export DEBIAN_FRONTEND=noninteractive
    # The lists may be old or absent on a fresh machine.
    # shellcheck disable=SC2086
    apt-get update --quiet=2 && $install --quiet=2 >/dev/null
    needed=$(missing_packages needed | xargs)
    useful=$(missing_packages useful | xargs)
fi
if [ -n "$useful" ]; then
    echo "Not there, and the tests that want it will be skipped: $useful"
    echo "To install: sudo apt-get install $useful"
fi
if [ -n "$needed" ]; then
    echo "Set-up cannot go on without: $needed (Python 3.11 with venv, Java 17, Maven)" >&2
    echo "To install: sudo apt-get install $needed" >&2
    exit 1
fi
