"""The tools of the example: books and mail. usage: python3 workers.py PORT"""
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

done = {}  # idempotency key → answer; a real worker keeps it with what it does, in one transaction
entries = []


def work(tool, call):
    given = call["input"]
    if tool == "books.enter":
        entries.append(given)
        print(f"booked   {given['amount']} EUR for {given['employee']}", flush=True)
        return 200, {"entry": f"B-{len(entries)}"}
    if tool == "books.reverse":
        print(f"reversed {given['entry']}, because: {call['error']['message']}", flush=True)
        return 200, {}
    if given["to"] == "Mallory":
        return 422, {"code": "no_mailbox", "message": "Mallory has no mailbox"}
    print(f"mailed   {given['to']}: {given['text']}", flush=True)
    return 200, {}


class Worker(BaseHTTPRequestHandler):
    def do_POST(self):
        call = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = call["idempotency_key"]  # the same key again is the same call: it is not done twice
        status, answer = done.get(key) or done.setdefault(key, work(self.path[1:], call))
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json" if status == 200 else "application/problem+json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_): ...


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Worker).serve_forever()
