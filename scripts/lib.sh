# shellcheck shell=bash
# What the scripts share; sourced, not run.

# The repository, whatever folder a script is called from.
# shellcheck disable=SC2034
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Debian puts servers where an ordinary user's path may not look, and rustup puts cargo where a fresh shell may not.
PATH=$PATH:/usr/sbin:${CARGO_HOME:-${HOME:-}/.cargo}/bin
export PATH

# Whether a program can be run.
has() {
    command -v "$1" >/dev/null 2>&1
}

# Announces a step, and remembers it for report_failure.
heading() {
    current=$1
    printf '\n== %s\n' "$current"
}

# Runs a step, given its name and its command, and prints one line with the time that it took.
stage() {
    local name=$1 started=$SECONDS
    current=$name
    shift
    "$@"
    printf '== %4d s  %s\n' "$((SECONDS - started))" "$name"
}

# Names the step in which a script failed; for a trap on EXIT.
report_failure() {
    local status=$?
    if ((status != 0)); then
        printf '\n%s: failed: %s\n' "$0" "${current:-before the first step}" >&2
    fi
}
