"""A worker on Kafka: it reads calls from the topic `steps` and writes results to `commands`, as JSON.
usage: OMNILINK_URL=http://127.0.0.1:7700 python kafka_worker.py BROKERS TOOL…  (PREFIX: topics.prefix, `omnilink.`)"""
import json, os, sys, time
from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

brokers, *tools = sys.argv[1:]
prefix = os.environ.get("PREFIX", "omnilink.")
decode = AvroDeserializer(SchemaRegistryClient({"url": os.environ["OMNILINK_URL"]}))
consumer = Consumer({"bootstrap.servers": brokers, "group.id": prefix + "worker." + tools[0], "auto.offset.reset": "earliest",
                     "isolation.level": "read_committed", "enable.auto.commit": False})
producer = Producer({"bootstrap.servers": brokers, "enable.idempotence": True, "partitioner": "murmur2_random"})


def work(call, input):  # with call["idempotency_key"], which is the same whenever the same call comes again
    if input.get("amount", 0) > 1000:
        return {"outcome": "failed", "error": {"code": "no_funds", "message": "The account is empty", "retryable": False}}
    return {"outcome": "succeeded", "output": {"transfer": "T-" + call["run_id"][:8]}}


consumer.subscribe([prefix + "steps"])
while True:
    message = consumer.poll(1)
    if message is None or message.error():
        continue
    call = decode(message.value(), SerializationContext(message.topic(), MessageField.VALUE))
    mine = "kafka" in json.loads(call["worker"]) and call["tool"] in tools
    if mine and call["deadline"].timestamp() > time.time():
        result = work(call, json.loads(call["input"]))
        result |= {name: call[name] for name in ("run_id", "step_id", "attempt", "kind")}
        producer.produce(prefix + "commands", json.dumps(result), key=call["run_id"])
        if producer.flush(30):
            sys.exit("the result could not be written")  # the call comes again
    consumer.commit(message)
