"""Sends events with the CloudEvents SDK, in structured and binary mode, with its current and its earlier interface.

usage: cloudevents_send.py URL KEY
Prints the status of each event.
"""

import sys
from datetime import datetime, timezone

import requests
from cloudevents.core.bindings import http
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1.http import CloudEvent as EarlierEvent
from cloudevents.v1.http import to_binary, to_structured

url, key = sys.argv[1:]
session = requests.Session()
session.headers["authorization"] = f"Bearer {key}"


def send(headers, body):
    response = session.post(f"{url}/v1/events", headers=headers, data=body, timeout=20)
    if response.status_code != 202:
        sys.exit(f"{response.status_code}: {response.text}")
    print(response.json()["results"][0]["status"])


def event(name, data):
    return CloudEvent(
        attributes={
            "id": name,
            "source": "/sdk/a%20b",
            "type": "sdk.sent",
            "time": datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=timezone.utc),
            "subject": "50 % \"öff\"",
            "datacontenttype": "application/json",
            "dataschema": "https://example.com/sdk.json",
            "entitytype": "order",
            "entityid": "1",
        },
        data=data,
    )


DATA = {"total": 9.5, "text": "ä ☃", "none": None}
structured = http.to_structured_event(event("structured", DATA))
send(structured.headers, structured.body)
# The same event in the other mode is a duplicate.
binary = http.to_binary_event(event("structured", DATA))
send(binary.headers, binary.body)
binary = http.to_binary_event(event("binary", DATA))
send(binary.headers, binary.body)
ATTRIBUTES = {"id": "earlier", "source": "/sdk", "type": "sdk.sent"}
send(*to_structured(EarlierEvent(ATTRIBUTES, DATA)))
ATTRIBUTES["id"] = "earlier-binary"
send(*to_binary(EarlierEvent(ATTRIBUTES, DATA)))
