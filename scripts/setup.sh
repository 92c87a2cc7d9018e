# shellcheck shell=bash
# What this machine needs and which Rust builds what: the one place that decides either. Sourced by run.sh.
#
# It leaves these in the environment; tools/ reads them and decides nothing itself:
#   ANAX_CARGO, ANAX_RUSTC                 build programs for the host
#   ANAX_KERNEL_CARGO, ANAX_KERNEL_RUSTC   build the kernel for x86_64-unknown-none
#   ANAX_KERNEL_STD                        "shipped": rustup has the target's library; "build": cargo builds it
#                                          from Debian's rust-web-src (RUSTC_BOOTSTRAP allows -Zbuild-std there)
#   ANAX_SANITIZER_CARGO, _RUSTC           build tests and their std for ThreadSanitizer and AddressSanitizer; empty
#                                          where that is impossible
#   ANAX_SANITIZER_RUNTIME                 "shipped": it lies beside that std; else the folder with clang's
# The choice is kept in out/setup.env: a second run reads it, looks whether the files still stand, and starts.
#
# First everything that is missing is gathered, then it is installed at one go: who may not install
# reads one line that names it all, and runs it once.

SETUP_MINIMUM=95 # rustc 1.95: rust-version in Cargo.toml
SETUP_TARGET=x86_64-unknown-none
SETUP_FILE=out/setup.env
SETUP_LOG=out/setup.log
SETUP_PYTHON=out/python # a Python environment of our own, for what Debian has no package of
SETUP_SOURCE_FILE=/etc/apt/sources.list.d/anax-security.list
SETUP_RUSTUP='curl --proto =https -sSf https://sh.rustup.rs | sh -s -- -y'
SETUP_LLVM=19 # of bookworm's packages of LLVM, the one whose sanitizers Rust 1.96 can use
SETUP_CHOICE=(ANAX_CARGO ANAX_RUSTC ANAX_KERNEL_CARGO ANAX_KERNEL_RUSTC ANAX_KERNEL_STD SETUP_LIBRARY
    ANAX_SANITIZER_CARGO ANAX_SANITIZER_RUSTC ANAX_SANITIZER_RUNTIME)

setup_needed=()   # packages without which the command cannot run
setup_optional=() # packages without which some tests are skipped
setup_source=     # the apt source that has to be added first
setup_by_hand=    # what apt does not have
setup_vm=         # not empty: a kernel for hardware is built and run in QEMU

setup_say() { printf 'setup: %s\n' "$*" >&2; }
setup_stop() { printf 'run.sh: %s\n' "$*" >&2; exit 1; }

setup_as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Root we are, or become by sudo: without a question, or with a terminal to ask it on.
setup_can_install() {
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" = 0 ] && return 0
    command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }
}

# setup_want LIST COMMAND-or-FILE PACKAGE...: note packages whose command or file is not here.
setup_want() {
    local -n list=$1
    case $2 in
        /*) [ -e "$2" ] || list+=("${@:3}") ;;
        *) command -v "$2" >/dev/null || [ -x "/usr/sbin/$2" ] || list+=("${@:3}") ;;
    esac
}

# The one line that brings everything, for a person to run.
setup_remedy() {
    local remedy=''
    if ! command -v apt-get >/dev/null; then
        echo "your package manager (these are the packages' names in Debian)${setup_by_hand:+; then (as yourself) $setup_by_hand}"
        return
    fi
    [ -z "$setup_source" ] || remedy="echo '$setup_source' >$SETUP_SOURCE_FILE && "
    [ $# = 0 ] || remedy+="apt-get update && apt-get install -y --no-install-recommends $*"
    [ -z "$remedy" ] || remedy="(as root) $remedy"
    [ -z "$setup_by_hand" ] || remedy+="${remedy:+; then }(as yourself) $setup_by_hand"
    echo "$remedy"
}

# Bring in packages, or stop with the line that does.
setup_install() {
    local remedy missing="${*}${setup_by_hand:+${*:+ and }Rust 1.$SETUP_MINIMUM or later}"
    remedy=$(setup_remedy "$@")
    { [ -z "$setup_by_hand" ] && setup_can_install; } || setup_stop "missing here: $missing; fix it with: $remedy"
    [ -z "$setup_source" ] || setup_say "adding a package source, for Rust 1.96: $setup_source (in $SETUP_SOURCE_FILE)"
    [[ " $* " != *" rustc-web "* || ! -d /usr/share/doc/rustc ]] \
        || setup_say "the packages rustc and cargo here are older than 1.$SETUP_MINIMUM; rustc-web and cargo-web take their place"
    setup_say "installing: $* (a minute or two; details in $SETUP_LOG)"
    setup_as_root true || setup_stop "not allowed to install; fix it with: $remedy"
    mkdir -p out
    if [ -n "$setup_source" ]; then
        echo "$setup_source" | setup_as_root tee "$SETUP_SOURCE_FILE" >/dev/null || setup_stop "cannot write $SETUP_SOURCE_FILE; fix it with: $remedy"
    fi
    # One source that fails need not be the one we need: whether the update was good shows in the install.
    { setup_as_root apt-get update -qq || true; setup_as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@"; } </dev/null >>"$SETUP_LOG" 2>&1 && return 0
    tail -n 5 "$SETUP_LOG" >&2
    setup_stop "apt-get failed (its last lines are above); check the network and /etc/apt, then fix it with: $remedy"
}

# The version of a rustc, as the minor number of 1.N; 0 when it does not run.
setup_minor() {
    local version
    version=$("$1" --version 2>/dev/null </dev/null) || { echo 0; return; }
    version=${version#rustc 1.}
    echo "${version%%.*}"
}

setup_has_rust_web() { # bookworm itself has 1.85 under this name
    local policy
    policy=$(apt-cache policy rustc-web 2>/dev/null)
    [[ $policy =~ Candidate:\ 1\.([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge "$SETUP_MINIMUM" ]
}

# Is this pair of cargo and rustc good for the host? Prints nothing; sets ANAX_CARGO and ANAX_RUSTC.
setup_try_host() {
    local cargo rustc
    cargo=$(command -v "$1") && rustc=$(command -v "$2") || return 1
    [ "$(setup_minor "$rustc")" -ge "$SETUP_MINIMUM" ] 2>/dev/null || return 1
    ANAX_CARGO=$cargo ANAX_RUSTC=$rustc
}

setup_find_host() {
    setup_try_host cargo rustc || setup_try_host "$HOME/.cargo/bin/cargo" "$HOME/.cargo/bin/rustc" \
        || setup_try_host /usr/bin/cargo /usr/bin/rustc
}

setup_find_kernel() { # the target's library as shipped, or sources to build it from
    [ -n "$setup_vm" ] || return 0
    local rustc=$ANAX_RUSTC cargo=$ANAX_CARGO root
    root=$("$rustc" --print sysroot)
    SETUP_LIBRARY=$root/lib/rustlib/$SETUP_TARGET/lib
    if [ -d "$SETUP_LIBRARY" ]; then
        ANAX_KERNEL_STD=shipped
    else
        [ "$(setup_minor /usr/bin/rustc)" -ge "$SETUP_MINIMUM" ] && rustc=/usr/bin/rustc cargo=/usr/bin/cargo
        SETUP_LIBRARY=$("$rustc" --print sysroot)/lib/rustlib/src/rust/library/core
        [ -d "$SETUP_LIBRARY" ] || return 1
        ANAX_KERNEL_STD=build
    fi
    ANAX_KERNEL_CARGO=$cargo ANAX_KERNEL_RUSTC=$rustc
    # rustup's rustc is a switch between toolchains; name the real one, so that the choice cannot move.
    [ "$ANAX_KERNEL_STD" = build ] || ANAX_KERNEL_RUSTC=$root/bin/rustc
}

setup_find_rust() { setup_find_host && setup_find_kernel; }

# A rustup that is here already brings what is missing, where it reaches its server.
setup_by_rustup() {
    local rustup
    rustup=$(command -v rustup) || rustup=$HOME/.cargo/bin/rustup
    [ -x "$rustup" ] || return 1
    if ! setup_find_host; then
        setup_say "installing the stable Rust toolchain by rustup"
        timeout 600 "$rustup" toolchain install stable --no-self-update --profile minimal \
            --component rustfmt --component clippy ${setup_vm:+--target "$SETUP_TARGET"} >&2 </dev/null || return 1
        "$rustup" default >/dev/null 2>&1 || timeout 60 "$rustup" default stable >&2 || return 1
        setup_find_host || return 1
    fi
    setup_find_kernel && return 0
    setup_say "adding the target $SETUP_TARGET by rustup"
    timeout 300 "$rustup" target add "$SETUP_TARGET" >&2 </dev/null && setup_find_kernel
}

# A compiler whose std can be built anew, and a sanitizer's runtime to link with it.
setup_find_sanitizers() {
    local rustc=$ANAX_RUSTC cargo=$ANAX_CARGO root clang=/usr/lib/llvm-$SETUP_LLVM/lib/clang/$SETUP_LLVM/lib/linux
    root=$("$rustc" --print sysroot)
    ANAX_SANITIZER_CARGO='' ANAX_SANITIZER_RUSTC='' ANAX_SANITIZER_RUNTIME=''
    if compgen -G "$root/lib/rustlib/x86_64-unknown-linux-gnu/lib/librustc-*_rt.tsan.a" >/dev/null && setup_has_std "$root"; then
        ANAX_SANITIZER_RUNTIME=shipped rustc=$root/bin/rustc
    else
        # Debian's rustc comes without a runtime; that of its clang fits.
        [ "$(setup_minor /usr/bin/rustc)" -ge "$SETUP_MINIMUM" ] && rustc=/usr/bin/rustc cargo=/usr/bin/cargo
        setup_has_std "$("$rustc" --print sysroot)" && [ -f "$clang/libclang_rt.tsan-x86_64.a" ] || return 1
        ANAX_SANITIZER_RUNTIME=$clang
    fi
    ANAX_SANITIZER_CARGO=$cargo ANAX_SANITIZER_RUSTC=$rustc
}

setup_has_std() { [ -d "$1/lib/rustlib/src/rust/library/std" ]; } # SYSROOT

# For the parts tsan and asan; without them, both are skipped.
setup_sanitizers() {
    local rustup=''
    [ "$(uname -sm)" = 'Linux x86_64' ] || return 0
    [ -x "${ANAX_SANITIZER_RUSTC-}" ] && setup_has_std "$("$ANAX_SANITIZER_RUSTC" --print sysroot)" && return 0
    if ! setup_find_sanitizers; then
        rustup=$(command -v rustup) || rustup=$HOME/.cargo/bin/rustup
        [ -x "$rustup" ] && [ "$ANAX_RUSTC" != /usr/bin/rustc ] || return 0
        setup_say "adding the sources of Rust's library by rustup, for the tests under sanitizers"
        timeout 300 "$rustup" component add rust-src >&2 </dev/null && setup_find_sanitizers || return 0
    fi
    setup_remember
}

# Which packages bring Rust: Debian 12 has it under a name of its own, in bookworm-security, which a bare
# root may lack; later Debians and Ubuntu have rustup. Either way nothing outside the archive is needed first.
setup_want_rust() {
    local ID='' VERSION_ID=''
    # shellcheck source=/dev/null
    [ ! -r /etc/os-release ] || . /etc/os-release
    case "$ID $VERSION_ID" in
        'debian 12')
            setup_needed+=(rustc-web cargo-web ${setup_vm:+rust-web-src})
            setup_has_rust_web || grep -rqsE '^[^#]*debian-security' /etc/apt/sources.list /etc/apt/sources.list.d \
                || setup_source=$(setup_security_source)
            ;;
        'debian 1'[3-9] | 'ubuntu 2'[4-9].*) setup_needed+=(rustup ca-certificates) ;;
        *) setup_by_hand=$SETUP_RUSTUP ;;
    esac
}

# The security archive beside the mirror that this system uses already.
setup_security_source() {
    local mirror
    mirror=$(grep -rhsE '^[^#]*https?://' /etc/apt/sources.list /etc/apt/sources.list.d \
        | grep -oE 'https?://[^[:space:]]+/debian/?([[:space:]]|$)' | head -n 1 | tr -d '[:space:]') || true
    mirror=${mirror%/}
    [ -z "$mirror" ] || printf 'deb %s-security bookworm-security main' "$mirror"
}

setup_recall() {
    [ -f "$SETUP_FILE" ] || return 1
    local SETUP_LIBRARY=''
    # shellcheck source=/dev/null
    . "./$SETUP_FILE"
    [ -x "${ANAX_CARGO-}" ] && [ -x "${ANAX_RUSTC-}" ] || return 1
    [ -z "$setup_vm" ] || { [ -x "${ANAX_KERNEL_CARGO-}" ] && [ -x "${ANAX_KERNEL_RUSTC-}" ] && [ -d "$SETUP_LIBRARY" ]; }
}

setup_remember() {
    mkdir -p out
    local name
    for name in "${SETUP_CHOICE[@]}"; do
        printf '%s=%q\n' "$name" "${!name-}"
    done >"$SETUP_FILE"
}

# Is any node of this command line a VM? The words can stand behind their option, or behind its equals sign.
setup_wants_vm() { # COMMAND [WORD...]
    case "$1 ${*:2} " in
        'vkernel '* | 'sim '* | 'carp '*[\ =]vkernel,vkernel' '* | 'trace '*[\ =]vkernel' '* | 'bench vkernel '* | 'bench sim '*) return 1 ;;
    esac
}

setup_want_for() { # COMMAND
    if [ -n "$setup_vm" ]; then
        setup_want setup_needed qemu-system-x86_64 qemu-system-x86
        setup_want setup_needed ld.lld lld
    fi
    setup_want setup_needed cc gcc libc6-dev
    setup_want setup_needed /etc/ssl/certs/ca-certificates.crt ca-certificates
    local list
    case $1 in
        iso) list=setup_needed ;;
        test) list=setup_optional ;;
        bench) # What the build scripts of the executor's peers call: glommio's, jemalloc's.
            setup_want setup_optional git git
            setup_want setup_optional make make
            return ;;
        *) return ;;
    esac
    setup_want $list grub-mkrescue grub-common
    setup_want $list /usr/lib/grub/i386-pc/multiboot2.mod grub-pc-bin
    setup_want $list /usr/lib/grub/x86_64-efi/multiboot2.mod grub-efi-amd64-bin
    setup_want $list xorriso xorriso
    setup_want $list mformat mtools
    [ "$1" = test ] || return 0
    setup_want setup_needed make make # as for bench
    setup_want $list /usr/share/OVMF ovmf
    setup_want $list git git
    setup_want $list ip iproute2
    setup_want $list ucarp ucarp
    setup_want $list ping iputils-ping
    setup_want $list python3 python3
    setup_python_has_perfetto || setup_want $list /usr/share/python-wheels python3-venv
    # Ubuntu has Chromium only as a snap, which a test cannot drive.
    if ! grep -qs '^ID=ubuntu' /etc/os-release && ! command -v chromium-browser google-chrome google-chrome-stable >/dev/null; then
        setup_want $list chromium chromium
    fi
    # Debian's Rust has its linter and formatter in packages of their own; rustup brings them along.
    if [ "${ANAX_CARGO:-/usr/bin/cargo}" = /usr/bin/cargo ] && [[ " ${setup_needed[*]} " != *" rustup "* ]]; then
        setup_want $list cargo-clippy rust-web-clippy
        setup_want $list rustfmt rustfmt-web
        # What the sanitizers need beside it: the library's sources, and a runtime.
        setup_want $list /usr/lib/rustlib/src/rust/library/std rust-web-src
        setup_want $list "/usr/lib/llvm-$SETUP_LLVM/lib/clang/$SETUP_LLVM/lib/linux/libclang_rt.tsan-x86_64.a" "libclang-rt-$SETUP_LLVM-dev"
    fi
}

setup_python_has_perfetto() { python3 -c 'import perfetto.protos.perfetto.trace.perfetto_trace_pb2' 2>/dev/null; }

# The official protos of Perfetto, which check our trace files, exist only as a Python package.
setup_python() {
    [ ! -x "$SETUP_PYTHON/bin/python3" ] || export PATH=$PWD/$SETUP_PYTHON/bin:$PATH
    setup_python_has_perfetto && return 0
    command -v python3 >/dev/null || return 0
    setup_say "installing the Python package perfetto into $SETUP_PYTHON"
    { python3 -m venv "$SETUP_PYTHON" && timeout 300 "$SETUP_PYTHON/bin/python3" -m pip install -q perfetto protobuf; } \
        </dev/null >>"$SETUP_LOG" 2>&1 || { setup_say "it cannot be had (see $SETUP_LOG): the tests that need it will be skipped"; return 0; }
    export PATH=$PWD/$SETUP_PYTHON/bin:$PATH
}

setup_for() { # COMMAND [WORD...]
    local rust=found
    ! setup_wants_vm "$@" || setup_vm=yes
    if setup_recall; then rust=recalled
    else setup_find_rust || setup_by_rustup || { rust=wanted; setup_want_rust; }; fi
    setup_want_for "$1"
    # Tests whose programs cannot be had are skipped and counted.
    if [ "${#setup_optional[@]}" -gt 0 ] && [ "${#setup_needed[@]}" = 0 ] && [ -z "$setup_by_hand" ] && ! setup_can_install; then
        setup_say "cannot install here, so some parts will be skipped; fix it with: $(setup_remedy "${setup_optional[@]}")"
        setup_optional=()
    fi
    if [ $((${#setup_needed[@]} + ${#setup_optional[@]})) -gt 0 ] || [ -n "$setup_by_hand" ]; then
        setup_install "${setup_needed[@]}" "${setup_optional[@]}"
    fi
    [ $rust != wanted ] || setup_find_rust || setup_by_rustup \
        || setup_stop "missing Rust 1.$SETUP_MINIMUM or later${setup_vm:+ with the target $SETUP_TARGET}; fix it with: $SETUP_RUSTUP${setup_vm:+ -t $SETUP_TARGET}"
    [ $rust = recalled ] || setup_remember
    if [ "$1" = test ]; then
        setup_sanitizers
        setup_python
    fi
    export ANAX_CARGO ANAX_RUSTC ANAX_KERNEL_CARGO ANAX_KERNEL_RUSTC ANAX_KERNEL_STD
    export ANAX_SANITIZER_CARGO ANAX_SANITIZER_RUSTC ANAX_SANITIZER_RUNTIME
    # The build follows the choice even where another cargo or rustc comes first on the PATH.
    export RUSTC=$ANAX_RUSTC
}
