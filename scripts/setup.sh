# shellcheck shell=bash
# What this machine needs and which Rust builds what: the one place that decides either. Sourced by run.sh.
#
# It leaves these in the environment; tools/ reads them and decides nothing itself:
#   ANAX_CARGO, ANAX_RUSTC                 build programs for the host
#   ANAX_KERNEL_CARGO, ANAX_KERNEL_RUSTC   build the kernel for x86_64-unknown-none
#   ANAX_KERNEL_STD                        "shipped": rustup has the target's library; "build": cargo builds it
#                                          from Debian's rust-web-src (RUSTC_BOOTSTRAP allows -Zbuild-std there)
# The choice is kept in out/setup.env: a second run reads it, looks whether the files still stand, and starts.

SETUP_MINIMUM=95 # rustc 1.95: rust-version in Cargo.toml
SETUP_TARGET=x86_64-unknown-none
SETUP_FILE=out/setup.env
SETUP_LOG=out/setup.log
setup_wanted=()

setup_say() { printf 'setup: %s\n' "$*" >&2; }
setup_stop() { printf 'run.sh: %s\n' "$*" >&2; exit 1; }

# Root, sudo without a question (or a terminal to ask on), or not at all.
setup_as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then sudo "$@"
    else return 1; fi
}

setup_can_install() {
    command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; }; }
}

setup_refreshed=
setup_refresh() {
    [ -z "$setup_refreshed" ] || return 0
    setup_as_root apt-get update -qq || setup_stop "apt-get update failed; fix it with: check the network and /etc/apt, then run: apt-get update"
    setup_refreshed=yes
}

# Bring in packages, or stop with the one line that fixes it.
setup_install() {
    local why=$1 fix="apt-get install -y --no-install-recommends ${*:2}"
    shift
    setup_can_install || setup_stop "missing $why; fix it with (as root): $fix"
    setup_say "installing for $why: $* (about a minute; details in $SETUP_LOG)"
    setup_refresh
    mkdir -p out
    setup_as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
        </dev/null >>"$SETUP_LOG" 2>&1 && return 0
    tail -n 5 "$SETUP_LOG" >&2
    setup_stop "could not install $why; fix it with (as root): apt-get update && $fix"
}

# setup_want COMMAND-or-FILE PACKAGE...: note packages whose command or file is not here.
setup_want() {
    local sign=$1
    shift
    case $sign in
        /*) [ -e "$sign" ] || setup_wanted+=("$@") ;;
        *) command -v "$sign" >/dev/null || [ -x "/usr/sbin/$sign" ] || setup_wanted+=("$@") ;;
    esac
}

# The version of a rustc, as the minor number of 1.N; 0 when it does not run.
setup_minor() {
    local version
    version=$("$1" --version 2>/dev/null </dev/null) || { echo 0; return; }
    version=${version#rustc 1.}
    echo "${version%%.*}"
}

setup_candidate() { # the version of a package that apt would install now; nothing if none
    local policy
    policy=$(apt-cache policy "$1" 2>/dev/null)
    [[ $policy =~ Candidate:\ ([^\(][^[:space:]]*) ]] && echo "${BASH_REMATCH[1]}"
}

setup_has_rust_web() { # bookworm itself has 1.85 under this name
    local version
    version=$(setup_candidate rustc-web) || return 1
    version=${version#1.}
    [ "${version%%.*}" -ge "$SETUP_MINIMUM" ] 2>/dev/null
}

# Rust 1.96 for Debian 12 lives in bookworm-security, which a bare root may lack.
setup_debian_security() {
    setup_has_rust_web && return 0
    local ID='' VERSION_CODENAME=''
    # shellcheck source=/dev/null
    . /etc/os-release
    [ "$ID" = debian ] || return 1
    local list=/etc/apt/sources.list.d/anax-security.list
    local key=/usr/share/keyrings/debian-archive-keyring.gpg
    setup_say "adding the source $VERSION_CODENAME-security, which has Rust 1.96: $list"
    printf 'deb [signed-by=%s] http://deb.debian.org/debian-security %s-security main\n' "$key" "$VERSION_CODENAME" \
        | setup_as_root tee "$list" >/dev/null || return 1
    setup_refreshed=
    setup_refresh
    setup_has_rust_web
}

setup_debian_rust() {
    local packages=(rustc-web cargo-web rust-web-src gcc libc6-dev)
    local fix="apt-get install -y ${packages[*]}"
    setup_can_install || setup_stop "missing Rust 1.$SETUP_MINIMUM or later; fix it with (as root): $fix   (or install rustup as yourself: https://rustup.rs)"
    setup_refresh
    setup_debian_security || return 1
    setup_install "Rust" "${packages[@]}"
}

setup_ubuntu_rust() {
    command -v apt-get >/dev/null || return 1
    setup_can_install && setup_refresh
    setup_candidate rustup >/dev/null && setup_install "Rust" rustup gcc libc6-dev ca-certificates
}

# Is this pair of cargo and rustc good for the host? Prints nothing; sets ANAX_CARGO and ANAX_RUSTC.
setup_try_host() {
    local cargo rustc
    cargo=$(command -v "$1") && rustc=$(command -v "$2") || return 1
    local minor
    minor=$(setup_minor "$rustc")
    [ "$minor" -ge "$SETUP_MINIMUM" ] 2>/dev/null || return 1
    ANAX_CARGO=$cargo ANAX_RUSTC=$rustc
}

setup_find_host() {
    setup_try_host cargo rustc || setup_try_host "$HOME/.cargo/bin/cargo" "$HOME/.cargo/bin/rustc" \
        || setup_try_host /usr/bin/cargo /usr/bin/rustc
}

setup_rustup_toolchain() { # a rustup that has no (new enough) toolchain yet
    local rustup
    rustup=$(command -v rustup || true)
    [ -n "$rustup" ] || rustup=$HOME/.cargo/bin/rustup
    [ -x "$rustup" ] || return 1
    setup_say "installing the stable Rust toolchain by rustup"
    timeout 600 "$rustup" toolchain install stable --no-self-update --profile minimal --component rustfmt --component clippy --target "$SETUP_TARGET" >&2 || return 1
    "$rustup" default >/dev/null 2>&1 || timeout 60 "$rustup" default stable >&2
    setup_find_host
}

setup_find_kernel() { # the target's library as shipped, or sources to build it from
    local rustc=$ANAX_RUSTC cargo=$ANAX_CARGO root
    root=$("$rustc" --print sysroot)
    if [ -d "$root/lib/rustlib/$SETUP_TARGET/lib" ]; then
        ANAX_KERNEL_STD=shipped
    else
        [ "$(setup_minor /usr/bin/rustc)" -ge "$SETUP_MINIMUM" ] && rustc=/usr/bin/rustc cargo=/usr/bin/cargo
        root=$("$rustc" --print sysroot)
        [ -d "$root/lib/rustlib/src/rust/library/core" ] || return 1
        ANAX_KERNEL_STD=build
    fi
    ANAX_KERNEL_CARGO=$cargo ANAX_KERNEL_RUSTC=$rustc
    # rustup's rustc is a switch between toolchains; name the real one, so that the choice cannot move.
    [ "$ANAX_KERNEL_STD" = build ] || ANAX_KERNEL_RUSTC=$root/bin/rustc
}

setup_add_target() {
    command -v rustup >/dev/null || [ -x "$HOME/.cargo/bin/rustup" ] || return 1
    local rustup=rustup
    command -v rustup >/dev/null || rustup=$HOME/.cargo/bin/rustup
    setup_say "adding the target $SETUP_TARGET by rustup"
    timeout 300 "$rustup" target add "$SETUP_TARGET" >&2
}

setup_choose_rust() {
    setup_find_host || setup_rustup_toolchain || {
        # Ubuntu has rustup as a package; Debian 12 has Rust itself. Either way nothing outside the archive is needed first.
        { setup_ubuntu_rust && setup_rustup_toolchain; } || { setup_debian_rust && setup_find_host; } \
            || setup_stop "missing Rust 1.$SETUP_MINIMUM or later; fix it with: curl --proto '=https' -sSf https://sh.rustup.rs | sh"
    }
    setup_find_kernel && return 0
    setup_add_target && setup_find_kernel && return 0
    setup_debian_rust && setup_find_kernel && return 0
    setup_stop "missing the Rust target $SETUP_TARGET; fix it with: rustup target add $SETUP_TARGET"
}

setup_remember() {
    mkdir -p out
    local name
    for name in ANAX_CARGO ANAX_RUSTC ANAX_KERNEL_CARGO ANAX_KERNEL_RUSTC ANAX_KERNEL_STD; do
        printf '%s=%q\n' "$name" "${!name}"
    done >"$SETUP_FILE"
}

setup_recall() {
    [ -f "$SETUP_FILE" ] || return 1
    # shellcheck source=/dev/null
    . "./$SETUP_FILE"
    [ -x "$ANAX_CARGO" ] && [ -x "$ANAX_RUSTC" ] && [ -x "$ANAX_KERNEL_CARGO" ] && [ -x "$ANAX_KERNEL_RUSTC" ]
}

setup_for() {
    setup_wanted=()
    setup_want qemu-system-x86_64 qemu-system-x86
    setup_want ld.lld lld
    setup_want cc gcc libc6-dev
    setup_want /etc/ssl/certs ca-certificates
    [ ${#setup_wanted[@]} = 0 ] || setup_install "./run.sh $1" "${setup_wanted[@]}"

    setup_wanted=()
    case $1 in iso | test)
        setup_want grub-mkrescue grub-common
        setup_want /usr/lib/grub/i386-pc/multiboot2.mod grub-pc-bin
        setup_want /usr/lib/grub/x86_64-efi/multiboot2.mod grub-efi-amd64-bin
        setup_want xorriso xorriso
        setup_want mformat mtools
        setup_want /usr/share/OVMF/OVMF_CODE.fd ovmf
        ;;
    esac
    case $1 in test | bench)
        setup_want git git # glommio's build script calls it
        ;;
    esac
    case $1 in test)
        setup_want ip iproute2
        setup_want ucarp ucarp
        setup_want ping iputils-ping
        setup_want python3 python3
        ;;
    esac
    # Tests whose programs cannot be had are skipped and counted; everything else needs what it asked for.
    if [ ${#setup_wanted[@]} -gt 0 ]; then
        if [ "$1" = test ] && ! setup_can_install; then
            setup_say "not root, so some tests will be skipped; fix it with (as root): apt-get install -y ${setup_wanted[*]}"
        else
            setup_install "./run.sh $1" "${setup_wanted[@]}"
        fi
    fi
    setup_recall || { setup_choose_rust && setup_remember; }
    export ANAX_CARGO ANAX_RUSTC ANAX_KERNEL_CARGO ANAX_KERNEL_RUSTC ANAX_KERNEL_STD
    # The build follows the choice even where another cargo or rustc comes first on the PATH.
    export RUSTC=$ANAX_RUSTC
}
