"""A worker that OmniLink calls over HTTP. usage: WORKER_SECRET=whsec_… python http_worker.py PORT"""
import base64, hashlib, hmac, json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = base64.b64decode(os.environ["WORKER_SECRET"].removeprefix("whsec_"))
done = {}  # Idempotency-Key → output; a real worker keeps it with what it does, in one transaction


def signed(headers, body):
    """Whether OmniLink made the request, and lately (Standard Webhooks)."""
    sent = headers.get("webhook-timestamp", "0")
    signed = f"{headers.get('webhook-id')}.{sent}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    return abs(time.time() - int(sent)) < 300 and hmac.compare_digest(expected, headers.get("webhook-signature", ""))


class Worker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if not signed(self.headers, body):
            return self.answer(401, {"code": "invalid_signature"})
        call = json.loads(body)
        if call["input"].get("amount", 0) > 1000:
            return self.answer(422, {"code": "no_funds", "message": "The account is empty"})
        # The same key again is the same call: it is not done twice.
        self.answer(200, done.setdefault(call["idempotency_key"], {"transfer": f"T-{len(done) + 1}"}))

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Worker).serve_forever()
