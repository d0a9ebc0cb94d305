# What the scripts share: words, ports, and processes that live in a folder of their own. Sourced, never run.
# shellcheck shell=bash

# Downloads and build outputs, kept between runs and safe to delete.
OMNILINK_CACHE=${OMNILINK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/omnilink}
scripts=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }

die() {
  say "${0##*/}: $*"
  exit 1
}

wrong_usage() {
  say "${0##*/}: $* (see ${0##*/} --help)"
  exit 2
}

have() { command -v "$1" >/dev/null 2>&1; }

is_root() { [[ $(id -u) == 0 ]]; }

# port_open PORT: something listens there on loopback.
port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port: one that nobody listens on, below the range that outgoing connections take theirs from.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    port_open "$port" || break
  done
  echo "$port"
}

# settle_port FILE WANTED DEFAULT: the port written in FILE. The first call writes it there: WANTED where given, any
# free one with OMNILINK_STACK_PORTS=free, else DEFAULT. Later calls may not ask for another.
settle_port() {
  local file=$1 wanted=$2 default=$3 settled
  if [[ ! -f $file ]]; then
    [[ ${OMNILINK_STACK_PORTS:-} == free ]] && default=$(free_port)
    echo "${wanted:-$default}" >"$file"
  fi
  settled=$(<"$file")
  [[ -z $wanted || $wanted == "$settled" ]] ||
    die "${file%/*} was made with port $settled, not $wanted: clean it first, or use another folder"
  echo "$settled"
}

# claim_port PORT WHO VARIABLE: dies where something else listens on it.
claim_port() {
  ! port_open "$1" || die "port $1 is taken, so $2 cannot start: free it, or clean this stack and set $3"
}

# one_at_a_time FOLDER: waits until no other call works on FOLDER.
one_at_a_time() {
  exec 9>"$1/.lock"
  flock -w 180 9 || die "another call has been working on $1 for 3 minutes"
}

# A started process has a folder: `pid` (its id and when it began, for ids are given out again), `log`, `log.before`.

# began PID: the tick at which a living process began.
began() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  # The name in brackets may hold anything; what follows it are plain fields, the start time the 20th of them.
  read -ra stat <<<"${stat##*) }"
  echo "${stat[19]}"
}

# pid_of FOLDER: prints the id of the process started in FOLDER; fails if it is gone.
pid_of() {
  local pid tick
  [[ -s $1/pid ]] && read -r pid tick <"$1/pid" && [[ $(began "$pid") == "$tick" ]] && echo "$pid"
}

# spawn FOLDER COMMAND…: starts it in a session of its own, so that it outlives the terminal.
spawn() {
  local folder=$1
  [[ ! -f $folder/log ]] || mv "$folder/log" "$folder/log.before"
  rm -f "$folder/pid"
  setsid bash "$scripts/lib/keep.sh" "$@" >"$folder/log" 2>&1 </dev/null 9>&- &
  until [[ -s $folder/pid ]]; do sleep 0.01; done
}

# start_once WHO FOLDER COMMAND…: runs COMMAND, which spawns in FOLDER, unless that process already runs.
start_once() {
  local who=$1 folder=$2 begun=$EPOCHREALTIME
  shift 2
  ! pid_of "$folder" >/dev/null || return 0
  "$@"
  say "$who started in $(((${EPOCHREALTIME/[.,]/} - ${begun/[.,]/}) / 1000)) ms"
}

# await WHO FOLDER SECONDS PROBE…: until PROBE succeeds. Dies, with the log's end, when the process ends or time is up.
await() {
  local who=$1 folder=$2 seconds=$3 why
  shift 3
  local deadline=$((SECONDS + seconds))
  until "$@" >/dev/null 2>&1; do
    why=
    pid_of "$folder" >/dev/null || why="$who ended before it was ready"
    ((SECONDS < deadline)) || why="$who was not ready after $seconds s"
    if [[ -n $why ]]; then
      say "--- the end of $folder/log"
      tail -n 25 "$folder/log" >&2 || true
      say "---"
      signal_and_wait "$folder" KILL 10 || true
      die "$why"
    fi
    sleep 0.05
  done
}

# signal_and_wait FOLDER SIGNAL SECONDS: fails if the process is still there afterwards. None there is fine.
signal_and_wait() {
  local folder=$1 pid deadline=$((SECONDS + $3))
  pid=$(pid_of "$folder") || return 0
  kill -s "$2" "$pid" 2>/dev/null || true
  while pid_of "$folder" >/dev/null; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

# stop_process WHO FOLDER SIGNAL: asks politely for 30 s.
stop_process() {
  signal_and_wait "$2" "$3" 30 && return
  say "$1 did not stop within 30 s: killed"
  signal_and_wait "$2" KILL 10
}

# status_row WHO FOLDER PORT: fails if it does not run.
status_row() {
  local pid
  if pid=$(pid_of "$2"); then
    printf '%-10s running  port %-6s pid %-8s %s MB\n' "$1" "$3" "$pid" \
      "$(awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$pid/status")"
  else
    printf '%-10s stopped  port %s\n' "$1" "$3"
    return 1
  fi
}
