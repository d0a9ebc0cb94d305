import java.util.Date;
import java.util.Map;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.connect.components.Versioned;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.data.SchemaAndValue;
import org.apache.kafka.connect.data.SchemaBuilder;
import org.apache.kafka.connect.data.Struct;
import org.apache.kafka.connect.data.Timestamp;
import org.apache.kafka.connect.storage.Converter;

/** Records of `events` as rows, with one schema for all: what a registry's converter makes, without asking one. */
public final class EventConverter implements Converter, Versioned {
  private static final Schema SCHEMA = SchemaBuilder.struct().name("omnilink.Event")
      .field("tenant", Schema.STRING_SCHEMA)
      .field("id", Schema.STRING_SCHEMA)
      .field("source", Schema.STRING_SCHEMA)
      .field("type", Schema.STRING_SCHEMA)
      .field("subject", Schema.OPTIONAL_STRING_SCHEMA)
      .field("entity_type", Schema.OPTIONAL_STRING_SCHEMA)
      .field("entity_id", Schema.OPTIONAL_STRING_SCHEMA)
      .field("correlation_id", Schema.OPTIONAL_STRING_SCHEMA)
      .field("causation_id", Schema.OPTIONAL_STRING_SCHEMA)
      .field("time", Timestamp.SCHEMA)
      .field("time_source", Schema.STRING_SCHEMA)
      .field("received_at", Timestamp.SCHEMA)
      .field("data", Schema.OPTIONAL_STRING_SCHEMA)
      .field("data_base64", Schema.OPTIONAL_BYTES_SCHEMA)
      .field("extensions", Schema.STRING_SCHEMA)
      .build();
  private static final String[] TIME_SOURCES = {"producer", "receiver"};

  @Override
  public void configure(Map<String, ?> configs, boolean isKey) {}

  @Override
  public ConfigDef config() {
    return new ConfigDef();
  }

  @Override
  public String version() {
    return "1";
  }

  @Override
  public byte[] fromConnectData(String topic, Schema schema, Object value) {
    throw new UnsupportedOperationException("it only reads");
  }

  @Override
  public SchemaAndValue toConnectData(String topic, byte[] record) {
    Fields fields = new Fields(record);
    Struct row = new Struct(SCHEMA);
    row.put("tenant", fields.text());
    row.put("id", fields.text());
    row.put("source", fields.text());
    row.put("type", fields.text());
    row.put("subject", fields.optionalText());
    row.put("entity_type", fields.optionalText());
    row.put("entity_id", fields.optionalText());
    fields.optionalText(); // display_name, which `events` does not have
    row.put("correlation_id", fields.optionalText());
    row.put("causation_id", fields.optionalText());
    row.put("time", new Date(fields.number() / 1000));
    row.put("time_source", TIME_SOURCES[(int) fields.number()]);
    row.put("data", fields.optionalText());
    row.put("data_base64", fields.optionalBytes());
    row.put("extensions", fields.text());
    fields.yes(); // tombstone
    fields.optionalText(); // idempotency_key
    row.put("received_at", new Date(fields.number()));
    return new SchemaAndValue(SCHEMA, row);
  }
}
