import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** Reads a record of `events` (schemas/events.avsc) field by field: five bytes in front, then Avro's binary encoding. */
final class Fields {
  private static final int HEAD = 5;
  private final byte[] record;
  private int at = HEAD;

  Fields(byte[] record) {
    this.record = record;
  }

  long number() {
    long value = 0;
    for (int shift = 0; ; shift += 7) {
      byte next = record[at++];
      value |= (long) (next & 0x7f) << shift;
      if (next >= 0) {
        return (value >>> 1) ^ -(value & 1);
      }
    }
  }

  byte[] bytes() {
    int length = (int) number();
    at += length;
    return Arrays.copyOfRange(record, at - length, at);
  }

  String text() {
    int length = (int) number();
    at += length;
    return new String(record, at - length, length, StandardCharsets.UTF_8);
  }

  String optionalText() {
    return number() == 0 ? null : text();
  }

  byte[] optionalBytes() {
    return number() == 0 ? null : bytes();
  }

  boolean yes() {
    return record[at++] != 0;
  }

  /** The event's id, the second field. */
  static byte[] id(byte[] record) {
    Fields fields = new Fields(record);
    int tenant = (int) fields.number();
    fields.at += tenant;
    return fields.bytes();
  }
}
