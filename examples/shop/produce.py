#!/usr/bin/env python3
"""Sends the invoice lines of a shop's CSV files: over HTTP, to Kafka, or to standard output.

  python3 produce.py lines.csv                              # to the node at OMNILINK_URL, as events
  python3 produce.py --kafka localhost:9092 lines.csv       # to the topic shop.lines (pip install confluent-kafka)
  python3 produce.py --print lines.csv | kcat -P -b localhost:9092 -t shop.lines

A line has no id in the file, and an invoice may have two equal lines. A line is identified by its number within its invoice,
which the producer counts: sending the file again gives the same ids, and OmniLink accepts each line once.
"""
import argparse
import csv
import http.client
import json
import os
import random
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from itertools import islice

BATCH = 50  # events per request
GIVE_UP_AFTER = 60  # seconds without progress


def lines(files):
    """Every line of the files, all columns as text, with its number within its invoice."""
    count = Counter()
    for name in files:
        with open(name, encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                count[line["InvoiceNo"]] += 1
                yield {**line, "Line": count[line["InvoiceNo"]]}


def post(url, key, events):
    """Posts a batch and retries until it is accepted: a 202 means that it is on disk."""
    body = json.dumps({"events": events}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    give_up = time.monotonic() + GIVE_UP_AFTER
    pause = 0.2
    while True:
        try:
            request = urllib.request.Request(f"{url}/v1/events", body, headers)
            with urllib.request.urlopen(request, timeout=30) as response:
                results = json.load(response)["results"]
            if not any("retry_after_seconds" in result for result in results):
                return results
            problem = "over the limit"
        except urllib.error.HTTPError as error:
            problem = error.read().decode(errors="replace")
            if error.code != 429 and error.code < 500:
                sys.exit(f"{error.code}: {problem}")
        except (OSError, http.client.HTTPException) as error:
            problem = str(error)
        # A retry loses and duplicates nothing, because the ids are the same.
        if time.monotonic() > give_up:
            sys.exit(f"gave up after {GIVE_UP_AFTER} s: {problem}")
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(pause * 2, 5)


def over_http(found):
    url = os.environ.get("OMNILINK_URL", "http://127.0.0.1:7700")
    key = os.environ.get("OMNILINK_KEY") or open("data/admin.key").read().strip()
    totals = Counter()
    while batch := list(islice(found, BATCH)):
        events = [{"id": f"{line['InvoiceNo']}/{line['Line']}", "source": "/till", "type": "shop.line", "data": line}
                  for line in batch]
        totals.update(result["status"] for result in post(url, key, events))
    print(", ".join(f"{number} {status}" for status, number in totals.items()))


def to_kafka(found, brokers, topic):
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": brokers, "enable.idempotence": True, "partitioner": "murmur2_random"})
    refused = []
    number = 0
    for line in found:
        while True:
            try:
                producer.produce(topic, json.dumps(line), key=line["InvoiceNo"],
                                 on_delivery=lambda error, _: error and refused.append(error))
                break
            except BufferError:  # the queue is full
                producer.poll(1)
        producer.poll(0)
        number += 1
    left = producer.flush(GIVE_UP_AFTER)
    if refused or left:
        sys.exit(f"{len(refused) + left} of {number} were not written: {refused[:1]}")
    print(f"{number} written")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="+")
    parser.add_argument("--kafka", metavar="BROKERS")
    parser.add_argument("--topic", default="shop.lines")
    parser.add_argument("--print", action="store_true", help="print JSON lines")
    args = parser.parse_args()
    found = lines(args.file)
    if args.print:
        sys.stdout.writelines(json.dumps(line) + "\n" for line in found)
    elif args.kafka:
        to_kafka(found, args.kafka, args.topic)
    else:
        over_http(found)


if __name__ == "__main__":
    main()
