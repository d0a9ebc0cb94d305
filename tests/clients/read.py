"""Reads a topic with Confluent's own Avro deserialiser, and prints a JSON object a record.

usage: read.py BROKERS REGISTRY TOPIC COUNT
"""

import json
import sys
import time

from confluent_kafka import DeserializingConsumer
from confluent_kafka.schema_registry import SchemaRegistryClient, SchemaRegistryError
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import StringDeserializer

brokers, url, topic, count = sys.argv[1:]
registry = SchemaRegistryClient({"url": url})
consumer = DeserializingConsumer(
    {
        "bootstrap.servers": brokers,
        "group.id": f"{topic}-python",
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "key.deserializer": StringDeserializer("utf_8"),
        "value.deserializer": AvroDeserializer(registry),
    }
)
consumer.subscribe([topic])
left, deadline = int(count), time.monotonic() + 60
while left and time.monotonic() < deadline:
    message = consumer.poll(1.0)
    if message is None:
        continue
    if message.error():
        sys.exit(str(message.error()))
    # Bytes and times are none of JSON's.
    print(json.dumps({"key": message.key(), "value": message.value()}, default=str))
    left -= 1
consumer.close()
if left:
    sys.exit(f"{left} records are missing")

# What any client of a registry may ask beside.
subject = f"{topic}-value"
assert subject in registry.get_subjects(), registry.get_subjects()
latest = registry.get_latest_version(subject)
assert latest.version in registry.get_versions(subject)
assert registry.get_version(subject, latest.version).schema_id == latest.schema_id
for ask, code in [
    (lambda: registry.get_schema(5), 40403),
    (lambda: registry.get_latest_version("nothing-value"), 40401),
    (lambda: registry.get_version(subject, 99), 40402),
]:
    try:
        ask()
    except SchemaRegistryError as error:
        assert error.http_status_code == 404 and error.error_code == code, error
    else:
        sys.exit(f"nothing was refused with {code}")
