# The peers that scripts/bench compares OmniLink with, downloaded and compiled once. Sourced; includes kafka.sh.
# shellcheck shell=bash source-path=SCRIPTDIR
# shellcheck source=kafka.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/kafka.sh"

peers_source=$scripts/../benches/peers

# peers_make: sets `peers`, a folder with the jars (libs) and the classes compiled from this repository (classes).
peers_make() {
  "$scripts/install" kafka
  local made work
  made=$({ echo "$KAFKA_VERSION" && cat "$peers_source/pom.xml"; } | sha256sum | cut -c 1-12)
  peers=$OMNILINK_CACHE/peers-$made
  if [[ ! -f $peers/.complete ]]; then
    say "fetching Kafka Streams, Kafka Connect and Debezium's JDBC sink (133 MB, once)"
    mkdir -p "$OMNILINK_CACHE"
    work=$(mktemp -d "$OMNILINK_CACHE/peers-fetch.XXXXXX")
    # -C: a wrong checksum is an error, not a warning.
    if ! mvn -q -B -C -f "$peers_source/pom.xml" -Dkafka.version="$KAFKA_VERSION" -DincludeScope=runtime \
      -DoutputDirectory="$work/libs" org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
      </dev/null >"$work/log" 2>&1; then
      tail -n 20 "$work/log" >&2
      rm -rf "$work"
      die "the peers could not be downloaded with Maven"
    fi
    touch "$work/.complete"
    rm -rf "$peers"
    mv "$work" "$peers"
  fi
  work=$(mktemp -d "$peers/classes.XXXXXX")
  if ! javac -Xlint:all,-path,-processing,-classfile -Werror -d "$work" -cp "$peers/libs/*" "$peers_source"/java/*.java; then
    rm -rf "$work"
    die "the peers cannot be compiled"
  fi
  cp -r "$peers_source/java/META-INF" "$work/"
  rm -rf "$peers/classes"
  mv "$work" "$peers/classes"
}
