"""Signs webhooks with the library of Standard Webhooks, posts them and prints each answer's status.

usage: webhook.py URL SECRET
"""

import sys
import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone

from standardwebhooks.webhooks import Webhook

url, secret = sys.argv[1:]
body = '{"type":"invoice.paid","timestamp":"2025-01-31T12:00:00Z","data":{"id":"in_1","note":"Zo\u00eb"}}'


def send(key, id, when, text=body):
    signature = Webhook(key).sign(msg_id=id, timestamp=when, data=body)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": id,
        "webhook-timestamp": str(int(when.timestamp())),
        "webhook-signature": signature,
    }
    request = urllib.request.Request(url, data=text.encode(), headers=headers)
    try:
        print(urllib.request.urlopen(request).status)
    except urllib.error.HTTPError as error:
        print(error.code)


now = datetime.now(tz=timezone.utc)
send(secret, "msg_1", now)
send(secret, "msg_1", now + timedelta(seconds=1))
send(secret, "msg_2", now, body.replace("in_1", "in_2"))
send(secret, "msg_3", now - timedelta(minutes=6))
send("whsec_" + "b" * 32, "msg_4", now)
