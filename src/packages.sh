# The Debian 12 packages that acafs needs, and how to get those that are missing.
# Sourced by src/quickstart and tests/run; README.md gives the reason for each.
# shellcheck shell=bash disable=SC2034

packages_build=(gcc libc6-dev meson pkgconf libfuse3-dev libcurl4-openssl-dev libcjson-dev libinih-dev
    libmicrohttpd-dev libssl-dev uthash-dev python3)
packages_run=(fuse3 bubblewrap python3 python3-pkg-resources ca-certificates)
packages_test=(libcmocka-dev python3-pytest python3-pytest-timeout python3-pytest-xdist
    python3-pytest-rerunfailures python3-matplotlib python3-nbformat curl git rsync openssl
    sqlite3 vim-tiny attr patch procps mandoc systemd)
packages_deb=(build-essential debhelper git lintian)
packages_machine=(debootstrap)

# install_missing PACKAGE…: installs what is not there, and only then touches the network.
install_missing() {
    local package packages missing=() root=()
    mapfile -t packages < <(printf '%s\n' "$@" | sort -u)
    for package in "${packages[@]}"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "Installing with apt: ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "This needs root. As root: apt-get update && apt-get install ${missing[*]}" >&2
            return 1
        fi
        root=(sudo)
    fi
    "${root[@]}" apt-get update -qq &&
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
            "${missing[@]}" >/dev/null
}

# build_acafs SOURCE BUILD [MESON-OPTION…]: sets up the build folder once, and builds; shows what the tools
# say only when they fail.
build_acafs() {
    local source=$1 build=$2 said
    shift 2
    # Debian's own Python and tools, whatever else is in front of them.
    PATH=/usr/bin:/bin:$PATH
    if [ ! -e "$build/build.ninja" ]; then
        echo "meson setup $build $*"
        said=$(meson setup "$build" "$source" "$@" 2>&1) || { echo "$said" >&2; return 1; }
    fi
    echo "meson compile -C $build"
    said=$(meson compile -C "$build" 2>&1) || { echo "$said" >&2; return 1; }
}

# need_fuse: whether anything can be mounted here; says what to do when not.
need_fuse() {
    [ -c /dev/fuse ] || { [ "$(id -u)" -eq 0 ] && modprobe fuse 2>/dev/null; }
    if [ ! -c /dev/fuse ]; then
        echo "There is no /dev/fuse on this machine, so nothing can be mounted. Load the kernel's module" \
            "(modprobe fuse); in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN." >&2
        return 1
    fi
    if [ ! -r /dev/fuse ] || [ ! -w /dev/fuse ]; then
        echo "$(id -un) may not open /dev/fuse, so nothing can be mounted. As root: chmod 666 /dev/fuse (udev" \
            "does that on Debian; what is mounted is still its user's alone)." >&2
        return 1
    fi
}
