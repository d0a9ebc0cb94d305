import java.util.Map;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.CompressionType;
import org.rocksdb.Options;

/** Fewer and larger flushes, and no compaction before there is much. */
public final class RocksSettings implements RocksDBConfigSetter {
  @Override
  public void setConfig(String store, Options options, Map<String, Object> configs) {
    options.setWriteBufferSize(64L << 20);
    options.setMaxWriteBufferNumber(3);
    options.setLevel0FileNumCompactionTrigger(8);
    options.setCompressionType(CompressionType.NO_COMPRESSION);
    BlockBasedTableConfig table = (BlockBasedTableConfig) options.tableFormatConfig();
    table.setBlockSize(16L << 10);
    options.setTableFormatConfig(table);
  }

  @Override
  public void close(String store, Options options) {}
}
