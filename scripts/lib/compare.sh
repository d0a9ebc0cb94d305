# One bench of this checkout and of another commit, by turns, so that both see the same machine. Sourced; the caller has
# `measure`, which runs the benches of the folder `checkout`. Brings common.sh.
# shellcheck shell=bash source-path=SCRIPTDIR
# shellcheck source=common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

# compare_checkout REV: the folder of a checkout of REV, made once; prints it.
compare_checkout() {
  local sha folder
  sha=$(git rev-parse --verify --quiet "$1^{commit}") || die "there is no commit $1"
  folder=${CARGO_TARGET_DIR:-$PWD/target}/compare/$sha
  [[ -e $folder/Cargo.toml ]] || git worktree add --quiet --force --detach "$folder" "$sha" || return
  echo "$folder"
}

# compare REV ROUNDS BENCH ARGUMENT…: figures of both, their medians, and how far apart they are.
compare() {
  local rev=$1 rounds=$2 other round json=$OMNILINK_BENCH_JSON
  shift 2
  [[ $rounds =~ ^[1-9][0-9]*$ ]] || wrong_usage "compare needs REV ROUNDS BENCH, and ROUNDS is a number"
  have python3 || die "python3 compares the figures, and there is none"
  other=$(compare_checkout "$rev")
  (cd "$other" && CARGO_TARGET_DIR=$other/target cargo build --release --locked --bin omnilink)
  : >"$json.before"
  : >"$json.after"
  for ((round = 1; round <= rounds; round++)); do
    printf '\n== round %s of %s: %s\n' "$round" "$rounds" "$rev"
    checkout=$other CARGO_TARGET_DIR=$other/target OMNILINK_BENCH_JSON=$json.before measure "$@"
    printf '\n== round %s of %s: this checkout\n' "$round" "$rounds"
    OMNILINK_BENCH_JSON=$json.after measure "$@"
  done
  printf '\n== %s, and this checkout: medians of %s rounds\n' "$rev" "$rounds"
  python3 "$scripts/lib/compare.py" "$json.before" "$json.after"
}
