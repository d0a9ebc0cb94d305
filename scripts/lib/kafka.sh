# Kafka brokers, each of which is also a controller and has its own folder. Sourced; includes common.sh.
# shellcheck shell=bash source-path=SCRIPTDIR
# shellcheck source=common.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

KAFKA_VERSION=4.3.1
kafka_libs=$OMNILINK_CACHE/kafka-$KAFKA_VERSION

# Downloads Kafka's jars once.
kafka_fetch() {
  "$scripts/install" kafka
  [[ ! -f $kafka_libs/.complete ]] || return 0
  say "fetching Kafka $KAFKA_VERSION (44 MB, once)"
  local work
  mkdir -p "$OMNILINK_CACHE"
  work=$(mktemp -d "$OMNILINK_CACHE/kafka-fetch.XXXXXX")
  cat >"$work/pom.xml" <<EOF
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>omnilink</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$KAFKA_VERSION</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
EOF
  # -C: a wrong checksum is an error, not a warning.
  if ! mvn -q -B -C -f "$work/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$work/libs" </dev/null >"$work/log" 2>&1; then
    tail -n 20 "$work/log" >&2
    rm -rf "$work"
    die "Kafka could not be downloaded with Maven"
  fi
  touch "$work/libs/.complete"
  rm -rf "$kafka_libs"
  mv "$work/libs" "$kafka_libs"
  rm -rf "$work"
}

# The parallel collector, because it uses the least CPU: the broker shares two cores with the tests.
kafka_java=(java -Xmx512m -XX:+UseParallelGC -cp "$kafka_libs/*" -Dorg.slf4j.simpleLogger.showDateTime=true
  '-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS')

# kafka_properties FOLDER CONTROLLER_PORT: prints the properties of a single broker, without listeners.
kafka_properties() {
  cat <<EOF
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$2

# One node holds the only copy.
default.replication.factor=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
EOF
  kafka_common "$1"
}

# kafka_cluster_properties FOLDER ID CONTROLLER_PORT…: prints the properties of broker ID of a cluster with one broker for
# each controller port, without listeners.
kafka_cluster_properties() {
  local folder=$1 id=$2 voters='' n=0 port
  shift 2
  for port; do
    n=$((n + 1))
    voters+=${voters:+,}$n@127.0.0.1:$port
  done
  cat <<EOF
node.id=$id
controller.quorum.voters=$voters

# Each has a copy, and two must have acknowledged records, so that one may be down.
default.replication.factor=$n
min.insync.replicas=2
offsets.topic.replication.factor=$n
transaction.state.log.replication.factor=$n
transaction.state.log.min.isr=2
share.coordinator.state.topic.replication.factor=$n
share.coordinator.state.topic.min.isr=2

# A restarted broker leads its partitions again within seconds, so that leaders change twice for each kill.
leader.imbalance.check.interval.seconds=5
leader.imbalance.per.broker.percentage=0

# A failed controller is replaced within a second or two.
controller.quorum.election.timeout.ms=1000
controller.quorum.fetch.timeout.ms=2000
EOF
  kafka_common "$folder"
}

# kafka_common FOLDER: prints the properties common to all brokers.
kafka_common() {
  cat <<EOF

process.roles=broker,controller
controller.listener.names=CONTROLLER
log.dirs=$1/data

# Small, for quick starts and a small heap.
offsets.topic.num.partitions=8
transaction.state.log.num.partitions=8
log.cleaner.dedupe.buffer.size=16777216

# OmniLink creates its own topics; auto-creation would hide mistakes.
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0

# Tests wait for compaction, retention and transaction timeouts, so these happen within seconds.
log.initial.task.delay.ms=0
log.cleaner.backoff.ms=200
log.retention.check.interval.ms=1000
log.segment.delete.delay.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
group.min.session.timeout.ms=1000

# A killed broker can register again only after its old session has expired; a shorter one expires when all cores are busy.
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=6000
EOF
}

# kafka_cluster_id: prints 16 bytes in URL-safe base64, whose first character must not be a hyphen.
kafka_cluster_id() { echo "O$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | cut -c 2-22)"; }

# kafka_spawn WHO FOLDER FORMAT_OPTION…: starts the broker of FOLDER/server.properties; formats its data folder the first time.
kafka_spawn() {
  local who=$1 folder=$2
  shift 2
  if [[ ! -f $folder/data/meta.properties ]]; then
    rm -rf "$folder/data"
    "${kafka_java[@]}" kafka.tools.StorageTool format -c "$folder/server.properties" "$@" \
      >"$folder/format.log" 2>&1 </dev/null 9>&- || {
      tail -n 20 "$folder/format.log" >&2
      die "$who: its data folder could not be formatted"
    }
  fi
  spawn "$folder" "${kafka_java[@]}" kafka.Kafka "$folder/server.properties"
}

# kafka_start WHO FOLDER PORT FORMAT_OPTION…: starts a single broker and waits until it is ready.
kafka_start() {
  local who=$1 folder=$2 port=$3
  shift 3
  kafka_spawn "$who" "$folder" --standalone -t "$(kafka_cluster_id)" "$@"
  kafka_await "$who" "$folder" "$port"
}

# kafka_await WHO FOLDER PORT: waits until the broker is ready. With many partitions to recover on busy cores it takes more than a minute.
kafka_await() { await "$1" "$2" 180 kafka_ready "$2" "$3"; }

kafka_ready() { grep -q 'Kafka Server started' "$1/log" && port_open "$2"; }
