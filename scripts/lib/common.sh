# Functions shared by the scripts: messages, ports, background processes. Sourced, never run.
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

# port_open PORT: whether something listens on it on loopback.
port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port: prints an unused port below the range of ephemeral ports.
free_port() {
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    port_open "$port" || break
  done
  echo "$port"
}

# settle_port FILE WANTED DEFAULT: prints the port in FILE. The first call chooses and writes it: WANTED if given, a free
# one with OMNILINK_STACK_PORTS=free, else DEFAULT. Later calls with another WANTED fail.
settle_port() {
  local file=$1 wanted=$2 default=$3 settled
  if [[ ! -f $file ]]; then
    [[ ${OMNILINK_STACK_PORTS:-} == free ]] && default=$(free_port)
    echo "${wanted:-$default}" >"$file"
  fi
  settled=$(<"$file")
  [[ -z $wanted || $wanted == "$settled" ]] ||
    die "${file%/*} uses port $settled, not $wanted: clean it first, or use another folder"
  echo "$settled"
}

# claim_port PORT WHO VARIABLE: dies if something listens on it.
claim_port() {
  ! port_open "$1" || die "port $1 is in use, so $2 cannot start: free it, or clean this stack and set $3"
}

# one_at_a_time FOLDER: takes the lock of FOLDER.
one_at_a_time() {
  exec 9>"$1/.lock"
  flock -w 180 9 || die "another call has locked $1 for 3 minutes"
}

# A started process has a folder with `pid` (its id and start time, because ids are reused), `log`, `log.before`.

# start_time PID: prints the tick at which a running process was started.
start_time() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  # The name in parentheses may contain anything; the start time is the 20th field after it.
  read -ra stat <<<"${stat##*) }"
  echo "${stat[19]}"
}

# pid_of FOLDER: prints the id of the process started in FOLDER; fails if it does not run.
pid_of() {
  local pid tick
  [[ -s $1/pid ]] && read -r pid tick <"$1/pid" && [[ $(start_time "$pid") == "$tick" ]] && echo "$pid"
}

# spawn FOLDER COMMAND…: starts it in a new session, so that it outlives the terminal.
spawn() {
  local folder=$1
  [[ ! -f $folder/log ]] || mv "$folder/log" "$folder/log.before"
  rm -f "$folder/pid"
  setsid bash "$scripts/lib/keep.sh" "$@" >"$folder/log" 2>&1 </dev/null 9>&- &
  until [[ -s $folder/pid ]]; do sleep 0.01; done
}

# start_once WHO FOLDER COMMAND…: runs COMMAND, which spawns a process in FOLDER, unless that already runs.
start_once() {
  local who=$1 folder=$2 begun=$EPOCHREALTIME
  shift 2
  ! pid_of "$folder" >/dev/null || return 0
  "$@"
  say "$who started in $(((${EPOCHREALTIME/[.,]/} - ${begun/[.,]/}) / 1000)) ms"
}

# await WHO FOLDER SECONDS PROBE…: waits until PROBE succeeds. Dies with the end of the log if the process exits or on time-out.
await() {
  local who=$1 folder=$2 seconds=$3 why
  shift 3
  local deadline=$((SECONDS + seconds))
  until "$@" >/dev/null 2>&1; do
    why=
    pid_of "$folder" >/dev/null || why="$who exited before it was ready"
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

# signal_and_wait FOLDER SIGNAL SECONDS: fails if the process still runs afterwards; succeeds if none runs.
signal_and_wait() {
  local folder=$1 pid deadline=$((SECONDS + $3))
  pid=$(pid_of "$folder") || return 0
  kill -s "$2" "$pid" 2>/dev/null || true
  while pid_of "$folder" >/dev/null; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

# stop_process WHO FOLDER SIGNAL: sends SIGNAL, and SIGKILL after 30 s.
stop_process() {
  signal_and_wait "$2" "$3" 30 && return
  say "$1 did not stop within 30 s: killed"
  signal_and_wait "$2" KILL 10
}

# status_row WHO FOLDER PORT: prints its status; fails if it does not run.
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
