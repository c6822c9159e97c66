# shellcheck shell=bash
# Functions that the scripts share; sourced, not run.

# Root of the repository, whatever folder a script is called from.
# shellcheck disable=SC2034
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Debian installs servers in /usr/sbin, which may not be in a user's path; a fresh shell may not have cargo in its path.
PATH=$PATH:/usr/sbin:${CARGO_HOME:-${HOME:-}/.cargo}/bin
export PATH

# Succeeds if a program is installed.
has() {
    command -v "$1" >/dev/null 2>&1
}

# Prints the name of a step, and keeps it for report_failure.
heading() {
    current=$1
    printf '\n== %s\n' "$current"
}

# Runs a step, given its name and its command, and prints one line with its duration.
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

# Options of cargo for all tests, so that nothing is compiled twice.
# shellcheck disable=SC2034
everything=(--locked --workspace --features testkit/log)

# Builds the tests and the programs that they start, and sets `binaries` to the test binaries; takes further options of cargo. Prints
# warnings of the compiler, and sets `warned` to 1 if there are any.
build_tests() {
    local log
    warned=0
    log=$(mktemp)
    if ! cargo test "${everything[@]}" --no-run "$@" 2>"$log"; then
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
    # Only a diagnostic of the compiler has a place.
    if grep -q '^ *--> ' "$log"; then
        warned=1
        cat "$log" >&2
    fi
    mapfile -t binaries < <(sed -n 's/^ *Executable .* (\(.*\))$/\1/p' "$log")
    rm -f "$log"
    ((${#binaries[@]} > 0))
}

# Runs the tests of these binaries that match a pattern, and prints how many passed. Fails if one fails or there is none, with the
# output on standard error.
#
#   count_passed PATTERN JOBS BINARY...
count_passed() {
    local pattern=$1 jobs=$2 log status=0 passed failed
    shift 2
    log=$(mktemp)
    scripts/run-tests --only "$pattern" --jobs "$jobs" "$@" >"$log" 2>&1 </dev/null || status=$?
    read -r passed _ failed _ < <(tail -n 1 "$log")
    if ((status == 0 && passed > 0)); then
        echo "$passed"
    else
        cat "$log" >&2
        echo "$passed of $((passed + failed))"
        status=1
    fi
    rm -f "$log"
    return "$status"
}
