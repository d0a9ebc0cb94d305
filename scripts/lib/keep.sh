# keep.sh FOLDER COMMAND…: runs COMMAND as its parent, and writes its id to FOLDER/pid. A killed server whose parent does not
# reap it looks alive to the next one (Postgres then refuses to start), and in some containers the init process does not reap.
# shellcheck shell=bash
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

folder=$1
shift
"$@" &
echo "$! $(start_time "$!")" >"$folder/pid"
wait "$!"
