import java.io.FileReader;
import java.io.Reader;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorContext;
import org.apache.kafka.streams.processor.api.FixedKeyProcessorSupplier;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;
import org.apache.kafka.streams.state.KeyValueBytesStoreSupplier;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.WindowBytesStoreSupplier;
import org.apache.kafka.streams.state.WindowStore;

/**
 * Kafka Streams: an event of an id that was seen within 24 hours ends, the others are counted by key.
 *
 * <p>{@code StreamsPeer SETTINGS INPUT OUTPUT [NAME=VALUE…]}: settings of Kafka Streams, and ours, which begin with
 * {@code peer.} (benches/peers/settings/streams.properties says what they are).
 */
public final class StreamsPeer {
  private static final String SEEN = "seen";
  private static final String COUNTS = "counts";

  public static void main(String[] args) throws Exception {
    Leash.hold();
    Properties settings = new Properties();
    try (Reader file = new FileReader(args[0])) {
      settings.load(file);
    }
    for (int at = 3; at < args.length; at++) {
      String[] pair = args[at].split("=", 2);
      settings.setProperty(pair[0], pair[1]);
    }
    KafkaStreams streams = new KafkaStreams(topology(settings, args[1], args[2]).build(), settings);
    streams.setUncaughtExceptionHandler(error -> {
      error.printStackTrace();
      Runtime.getRuntime().halt(5);
      return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
    });
    streams.start();
    Thread.sleep(Long.MAX_VALUE);
  }

  private static StreamsBuilder topology(Properties settings, String input, String output) {
    boolean memory = "memory".equals(settings.getProperty("peer.store"));
    boolean cached = "true".equals(settings.getProperty("peer.cached"));
    Duration bucket = Duration.ofHours(Long.parseLong(settings.getProperty("peer.bucket.hours")));
    // The newest bucket and as many as 24 hours need.
    int older = (int) (24 / bucket.toHours());
    Duration kept = bucket.multipliedBy(older + 2);
    WindowBytesStoreSupplier windows = memory
        ? Stores.inMemoryWindowStore(SEEN, kept, bucket, false)
        : Stores.persistentWindowStore(SEEN, kept, bucket, false);
    KeyValueBytesStoreSupplier counters =
        memory ? Stores.inMemoryKeyValueStore(COUNTS) : Stores.persistentKeyValueStore(COUNTS);
    StoreBuilder<WindowStore<Bytes, byte[]>> seen =
        Stores.windowStoreBuilder(windows, Serdes.Bytes(), Serdes.ByteArray());

    StreamsBuilder builder = new StreamsBuilder();
    KStream<Bytes, byte[]> events = builder.stream(input, Consumed.with(Serdes.Bytes(), Serdes.ByteArray()));
    if ("count".equals(settings.getProperty("peer.form"))) {
      KStream<Bytes, byte[]> first = events.processValues(new Step(bucket.toMillis(), older, seen, null));
      Materialized<Bytes, Long, KeyValueStore<Bytes, byte[]>> store =
          Materialized.<Bytes, Long>as(counters).withKeySerde(Serdes.Bytes()).withValueSerde(Serdes.Long());
      first.groupByKey(Grouped.with(Serdes.Bytes(), Serdes.ByteArray()))
          .count(cached ? store.withCachingEnabled() : store.withCachingDisabled())
          .toStream()
          .to(output, Produced.with(Serdes.Bytes(), Serdes.Long()));
    } else {
      StoreBuilder<KeyValueStore<Bytes, Long>> counts =
          Stores.keyValueStoreBuilder(counters, Serdes.Bytes(), Serdes.Long());
      counts = cached ? counts.withCachingEnabled() : counts.withCachingDisabled();
      events.processValues(new Step(bucket.toMillis(), older, seen, counts))
          .to(output, Produced.with(Serdes.Bytes(), Serdes.ByteArray()));
    }
    return builder;
  }

  /** Dedupe; and, if it has a store for them, counts, which go on in a header of the record. */
  private record Step(
      long bucketMs,
      int older,
      StoreBuilder<WindowStore<Bytes, byte[]>> seen,
      StoreBuilder<KeyValueStore<Bytes, Long>> counts)
      implements FixedKeyProcessorSupplier<Bytes, byte[], byte[]> {
    @Override
    public FixedKeyProcessor<Bytes, byte[], byte[]> get() {
      return new Running(bucketMs, older, counts != null);
    }

    @Override
    public Set<StoreBuilder<?>> stores() {
      return counts == null ? Set.of(seen) : Set.of(seen, counts);
    }
  }

  private static final class Running implements FixedKeyProcessor<Bytes, byte[], byte[]> {
    private static final byte[] NOTHING = new byte[0];
    private final long bucketMs;
    private final int older;
    private final boolean counting;
    private FixedKeyProcessorContext<Bytes, byte[]> context;
    private WindowStore<Bytes, byte[]> seen;
    private KeyValueStore<Bytes, Long> counts;

    Running(long bucketMs, int older, boolean counting) {
      this.bucketMs = bucketMs;
      this.older = older;
      this.counting = counting;
    }

    @Override
    public void init(FixedKeyProcessorContext<Bytes, byte[]> context) {
      this.context = context;
      seen = context.getStateStore(SEEN);
      counts = counting ? context.getStateStore(COUNTS) : null;
    }

    @Override
    public void process(FixedKeyRecord<Bytes, byte[]> record) {
      Bytes id = Bytes.wrap(Fields.id(record.value()));
      // By bucket, so that each look is one key, which a filter answers, and not a range.
      long bucket = record.timestamp() / bucketMs * bucketMs;
      for (int back = 0; back <= older; back++) {
        if (seen.fetch(id, bucket - back * bucketMs) != null) {
          return;
        }
      }
      seen.put(id, NOTHING, bucket);
      if (counting) {
        Long before = counts.get(record.key());
        long count = before == null ? 1 : before + 1;
        counts.put(record.key(), count);
        record.headers().add("count", ByteBuffer.allocate(Long.BYTES).putLong(count).array());
      }
      context.forward(record);
    }
  }
}
