#!/bin/sh
# Makes the real parts the tests need available on a Debian machine: packages, and Debian's kernel in a
# cache directory of the project (nothing of it is written outside). Safe to repeat; does nothing when all is there.
#
#   tests/parts/install.sh GROUP...
#
#   build   what compiling the extensions needs: a C compiler and Python's headers
#   test    the virtual machine (QEMU, module and device tools), the SCSI tools, libiscsi, tgt, and Debian's kernel
#   bench   the same as test: the engines are measured in the virtual machine
#
# Runs as root, or through sudo. Exit status 0: all is there; 1: something could not be installed, and the
# command to type has been printed; 2: wrong use.
set -eu

project=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
kernels="$project/.cache/kernel"
python=${PYTHON:-python3}

fail() {
    printf 'tests/parts/install.sh: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then
        printf 'type this, then try again:\n\n    %s\n\n' "$@" >&2
    fi
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        DEBIAN_FRONTEND=noninteractive "$@"
    elif command -v sudo >/dev/null; then
        sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
    else
        return 1
    fi
}

sudo_word() {
    [ "$(id -u)" = 0 ] || printf 'sudo '
}

missing_packages() {
    for package in "$@"; do
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$status" = installed ] || printf '%s ' "$package"
    done
}

install_packages() {
    command -v apt-get >/dev/null || fail "this needs Debian's apt-get, which this machine does not have; install the counterparts of: $*"
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    command="$(sudo_word)apt-get update && $(sudo_word)apt-get install -y --no-install-recommends ${missing% }"
    printf 'installing %s\n' "$missing"
    mkdir -p "$project/.cache"
    log="$project/.cache/parts-install.log"
    # A stale or unreachable index may still do for the installation, which decides.
    as_root apt-get -q update >"$log" 2>&1 || true
    # shellcheck disable=SC2086
    as_root apt-get -q install -y --no-install-recommends $missing >>"$log" 2>&1 || {
        tail -n 15 "$log" >&2
        fail "could not install $missing(the whole output is in $log)" "$command"
    }
}

have_kernel() {
    for stamp in "$kernels"/*/complete; do
        [ -e "$stamp" ] && return 0
    done
    return 1
}

# The package is unpacked, not installed: installing would build an initramfs and touch /boot and the boot loader.
install_kernel() {
    have_kernel && return 0
    architecture=$(dpkg --print-architecture)
    [ "$architecture" = amd64 ] || fail "the virtual machine is built for amd64, this machine is $architecture; run the tests on amd64"
    download="$kernels/download"
    package=$(apt-cache depends --important linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-.*\)$/\1/p' | head -n 1)
    if [ -z "$package" ]; then
        as_root apt-get -q update >/dev/null 2>&1 || true
        package=$(apt-cache depends --important linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-.*\)$/\1/p' | head -n 1)
    fi
    [ -n "$package" ] || fail "apt knows no kernel package linux-image-amd64" "$(sudo_word)apt-get update && apt-cache depends linux-image-amd64"
    printf 'unpacking %s below .cache/kernel\n' "$package"
    rm -rf "$download"
    mkdir -p "$download"
    (cd "$download" && apt-get -q download "$package") >"$kernels/download.log" 2>&1 || {
        # The index may name a version the archive has replaced meanwhile.
        as_root apt-get -q update >>"$kernels/download.log" 2>&1 || true
        (cd "$download" && apt-get -q download "$package") >>"$kernels/download.log" 2>&1 || {
            tail -n 5 "$kernels/download.log" >&2
            fail "could not download $package" "$(sudo_word)apt-get update && cd $download && apt-get download $package"
        }
    }
    root="$kernels/$package"
    rm -rf "$root"
    mkdir -p "$root"
    dpkg -x "$download"/linux-image-*.deb "$root"
    PATH="$PATH:/usr/sbin:/sbin" depmod -a -b "$root" "${package#linux-image-}"
    rm -rf "$download" "$root/usr/share/doc"
    : >"$root/complete"
}

install_group() {
    case $1 in
    build)
        command -v "${CC:-cc}" >/dev/null || install_packages gcc libc6-dev
        headers=$("$python" -c 'import pathlib, sysconfig; print(pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())')
        [ "$headers" = True ] || install_packages python3-dev
        ;;
    test | bench)
        # file and binutils tell virtme-ng the kernel's version; iproute2 brings the guest's loopback up.
        install_packages valgrind qemu-system-x86 kmod udev busybox-static file binutils iproute2 procps \
            sg3-utils libiscsi-bin libiscsi-dev open-iscsi tgt fio fdisk e2fsprogs \
            libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients prometheus \
            chromium chromium-driver systemd mandoc mmdebstrap dpkg-dev bash-completion
        # A program for the guest inside the virtual machine is linked statically.
        command -v "${CC:-cc}" >/dev/null || install_packages gcc
        install_packages libc6-dev
        install_kernel
        ;;
    *)
        printf 'tests/parts/install.sh: unknown group %s; the groups are build, test and bench\n' "$1" >&2
        exit 2
        ;;
    esac
}

if [ $# = 0 ]; then
    printf 'usage: tests/parts/install.sh GROUP...   (groups: build, test, bench)\n' >&2
    exit 2
fi
for group in "$@"; do
    install_group "$group"
done
