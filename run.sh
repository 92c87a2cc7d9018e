#!/usr/bin/env bash
# The one command of Anax: a thin front. It checks the set-up, builds the host program, and hands over to it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'HELP'
Anax: a multi-CPU kernel in the DragonFly BSD tradition, in async Rust.

usage: ./run.sh [COMMAND] [OPTIONS]

  boot     boot the kernel in QEMU, its console on this terminal (Ctrl-A X leaves); the default
  vkernel  the kernel as a process: no QEMU, no root, a prompt at once (`poweroff` ends it)
  sim      whole clusters of kernels from one seed, in virtual time: faults, promises, replay
  carp     two nodes and a client on a virtual LAN: watch an address fail over
  trace    record every CPU's executor: trace.pftrace (Perfetto) and trace.html
  test     every test there is; the last line counts them
  bench    boot | lan | vkernel | sim | executor: the figures, each beside a peer measured in the same run
  iso      make a GRUB image that boots under BIOS and UEFI
  lan      the virtual LAN alone, for your own VMs
  help     this text

./run.sh COMMAND --help lists a command's options. The first run installs what is missing (and says so).
HELP
}

word=${1:-boot}
case $word in
    help | -h | --help) usage; exit 0 ;;
    boot | vkernel | sim | carp | trace | test | bench | iso | lan) shift || true ;;
    -*) word=boot ;; # options alone: ./run.sh --cpus 8
    *) usage >&2; printf '\nrun.sh: unknown command: %s\n' "$word" >&2; exit 2 ;;
esac

# shellcheck source=scripts/setup.sh
. scripts/setup.sh
setup_for "$word" "$@"
program=${CARGO_TARGET_DIR:-target}/debug/anax
[ -x "$program" ] || setup_say "building the host program (a minute, the first time)"
"$ANAX_CARGO" build --quiet --locked -p tools
exec "$program" "$word" "$@"
