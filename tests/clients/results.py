"""Writes the result of a call as Avro, with Confluent's serialiser and the schema that OmniLink serves, to every partition of `commands`.

usage: results.py BROKERS REGISTRY TOPIC TENANT RUN STEP
"""

import json
import sys
import time

from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

brokers, url, topic, tenant, run, step = sys.argv[1:]
registry = SchemaRegistryClient({"url": url})
schema = registry.get_latest_version(f"{topic}-value").schema
settings = {"auto.register.schemas": False, "use.latest.version": True}
encode = AvroSerializer(registry, schema.schema_str, conf=settings)
body = {"step_id": step, "attempt": 1, "outcome": "succeeded", "output": {"by": "avro"}}
command = {
    "tenant": tenant,
    "run_id": run,
    "kind": "result",
    "at": int(time.time() * 1e6),
    "principal": "worker",
    "on_behalf_of": None,
    "traceparent": None,
    "tracestate": None,
    "body": json.dumps(body),
}
value = encode(command, SerializationContext(topic, MessageField.VALUE))
producer = Producer({"bootstrap.servers": brokers})
for partition in producer.list_topics(topic, timeout=20).topics[topic].partitions:
    producer.produce(topic, value, key=run, partition=partition)
sys.exit(producer.flush(30))
