"""Writes records with Confluent's own Avro serialiser, which registers its schema.

usage: write.py BROKERS REGISTRY TOPIC COUNT
"""

import decimal
import sys
from datetime import datetime, timezone

from confluent_kafka import SerializingProducer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import StringSerializer

SCHEMA = """
{"type": "record", "name": "Order", "namespace": "shop", "fields": [
  {"name": "id", "type": "int"},
  {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["OPEN", "PAID"]}},
  {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
  {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
  {"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "Line", "fields": [
    {"name": "sku", "type": "string"}, {"name": "state", "type": ["null", "State"]}]}}},
  {"name": "tags", "type": {"type": "map", "values": "double"}},
  {"name": "note", "type": ["null", "string"], "default": null}]}
"""

brokers, url, topic, count = sys.argv[1:]
registry = SchemaRegistryClient({"url": url})
producer = SerializingProducer(
    {
        "bootstrap.servers": brokers,
        "partitioner": "murmur2_random",
        "key.serializer": StringSerializer("utf_8"),
        "value.serializer": AvroSerializer(registry, SCHEMA),
    }
)
for number in range(int(count)):
    order = {
        "id": number,
        "state": "PAID",
        "total": decimal.Decimal("1234567890.50"),
        "at": datetime(2025, 1, 31, 12, 0, 0, 1, tzinfo=timezone.utc),
        "lines": [{"sku": "ä", "state": None}, {"sku": "b", "state": "OPEN"}],
        "tags": {"weight": 0.5},
        "note": "first" if number == 0 else None,
    }
    producer.produce(topic, key=str(number), value=order)
assert producer.flush(30) == 0
