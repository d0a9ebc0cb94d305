# keep.sh FOLDER COMMAND…: runs it as its parent, and writes its id into FOLDER. A server that was killed and that no
# parent collects looks alive to the next one (Postgres then refuses to start), and not every container's first process
# collects.
# shellcheck shell=bash
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

folder=$1
shift
"$@" &
echo "$! $(began "$!")" >"$folder/pid"
wait "$!"
